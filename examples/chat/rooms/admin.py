"""Rooms and lines in the admin."""

from django.contrib import admin

from .models import ChatMessage, Room


@admin.register(Room)
class RoomAdmin(admin.ModelAdmin):
    list_display = ["name", "slug", "created"]
    search_fields = ["name"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(ChatMessage)
class ChatMessageAdmin(admin.ModelAdmin):
    list_display = ["at", "room", "author", "__str__"]
    list_filter = ["room"]
    list_select_related = ["room", "author"]
    raw_id_fields = ["author"]
    search_fields = ["text", "author__username"]
    date_hierarchy = "at"
