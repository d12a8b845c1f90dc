"""What people type: a line, a room's name, a guest's name, a new account."""

import re
import secrets
import unicodedata

from django import forms
from django.contrib.auth import get_user_model
from django.contrib.auth.forms import UserCreationForm
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
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


class NameField(forms.CharField):
    """A name that others see: one line, in any alphabet."""

    def to_python(self, value):
        # Signs of the direction of writing come along when a name is copied.
        name = re.sub("[\u200e\u200f\u2066-\u2069]", "", unicodedata.normalize("NFC", super().to_python(value)))
        name = " ".join(name.split())
        # What cannot be seen could imitate another name. But two such signs belong to some alphabets, and to emoji.
        visible = re.sub("[\u200c\u200d]", "", name)
        if not visible.isprintable() or (name and not visible):
            raise ValidationError("Please use only letters and signs that can be seen.")
        return name


class RoomForm(forms.Form):
    """Opens a room by its name, or finds the one of that name."""

    name = NameField(
        max_length=60,
        label="Name of the room",
        widget=forms.TextInput(attrs={"placeholder": "e.g. Reading club", "autocomplete": "off", "dir": "auto"}),
    )

    def open(self):
        """Return the room and whether it is new."""
        name = self.cleaned_data["name"]
        slug = slugify(name, allow_unicode=True)[:50].strip("-_") or "room"
        while True:
            try:
                return Room.objects.get_or_create(name=name, defaults={"slug": slug})
            except IntegrityError:  # a room of another name is there
                slug = f"{slug[:50]}-{secrets.token_hex(3)}"


class GuestForm(forms.Form):
    """A name is all that a guest needs: a user without a password, who can come back only with this session."""

    name = NameField(
        max_length=40,
        label="Your name",
        widget=forms.TextInput(attrs={"placeholder": "e.g. Robin", "autocomplete": "nickname", "dir": "auto"}),
    )

    def clean_name(self):
        users = get_user_model().objects
        name = get_user_model().normalize_username(self.cleaned_data["name"])[:150]
        try:
            with transaction.atomic():
                if not users.filter(username__iexact=name).exists():
                    self.user = users.create_user(name)
                    return name
        except IntegrityError:
            pass  # taken since the query above
        # The two signs isolate a name, which may be written from right to left.
        other = f"\u2068{name} {secrets.randbelow(90) + 10}\u2069"
        raise ValidationError(f"\u2068{name}\u2069 is taken. How about {other}?")


class SignUpForm(UserCreationForm):
    """Django's form for a new account, with this site's words."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["username"].widget.attrs["dir"] = "auto"
        self.fields["username"].help_text = "The others see it. Letters, digits and @ . + - _"
        self.fields["password2"].label = "Password, once more"
        self.fields["password2"].help_text = ""

    def validate_password_for_user(self, user, password_field_name="password1"):
        """Complain of a bad password beside the rules, not below its repetition."""
        super().validate_password_for_user(user, password_field_name)
