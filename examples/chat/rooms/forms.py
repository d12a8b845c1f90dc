"""What people type: a line, a room's name, a new account."""

import re

from django import forms
from django.contrib.auth.forms import UserCreationForm
from django.core.exceptions import ValidationError
from django.utils.text import slugify

from .models import LINE_LENGTH, Room


class TextField(forms.CharField):
    """Text that came as JSON: it may be no text at all, or such as no database can store."""

    def to_python(self, value):
        if value is not None and not isinstance(value, str):
            raise ValidationError("That is not text.")
        text = super().to_python(value).replace("\r\n", "\n").replace("\r", "\n")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValidationError("That text contains half a character.") from None
        return text


class LineForm(forms.Form):
    """A line on its way into a room. A form works on any dict, not only on a POST."""

    key = forms.UUIDField(error_messages={"required": "The line has no key.", "invalid": "The line's key is no UUID."})
    text = TextField(
        max_length=LINE_LENGTH,
        error_messages={
            "required": "An empty line says nothing.",
            "max_length": "A line holds %(limit_value)d characters, this one has %(show_value)d.",
        },
    )

    def complaint(self):
        """The first thing that is wrong, as one sentence."""
        return next(iter(self.errors.values()))[0]


class RoomForm(forms.Form):
    """Opens a room by its name, or finds the one of that name."""

    name = forms.CharField(
        max_length=60,
        label="Name of the room",
        widget=forms.TextInput(attrs={"placeholder": "e.g. Reading club", "autocomplete": "off"}),
    )

    def clean_name(self):
        name = re.sub(r"\s+", " ", self.cleaned_data["name"])
        self.slug = slugify(name, allow_unicode=True)[:60].strip("-_")
        if not self.slug:
            raise ValidationError("Please use at least one letter or digit.")
        return name

    def open(self):
        """Return the room and whether it is new."""
        return Room.objects.get_or_create(slug=self.slug, defaults={"name": self.cleaned_data["name"]})


class SignUpForm(UserCreationForm):
    """Django's form for a new account, with this site's words."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["username"].help_text = "The others see it. Letters, digits and @ . + - _"
        self.fields["password2"].label = "Password, once more"
        self.fields["password2"].help_text = ""

    def validate_password_for_user(self, user, password_field_name="password1"):
        """Complain of a bad password beside the rules, not below its repetition."""
        super().validate_password_for_user(user, password_field_name)
