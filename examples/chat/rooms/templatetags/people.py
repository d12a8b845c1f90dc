"""``{{ user|person }}`` for templates."""

from django import template

from ..people import person

register = template.Library()
register.filter("person", person)
