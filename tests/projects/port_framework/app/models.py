from django.db import models


class Note(models.Model):
    name = models.CharField(max_length=50)
    stars = models.IntegerField(default=0)
