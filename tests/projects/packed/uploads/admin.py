"""Files can be uploaded in the admin pages."""

from django.contrib import admin

from uploads.models import Upload

admin.site.register(Upload)
