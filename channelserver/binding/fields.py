"""Between an instance of a model and a dict of JSON types.

Runs in any thread that uses the database; owns nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils.encoding import is_protected_type


class InvalidInput(ValueError):
    """What a client has sent cannot be done; the text says why."""


def chosen_fields(
    model: type[models.Model], fields: Collection[str] | None, exclude: Collection[str] | None
) -> list[Any]:
    """Return the fields that a binding names, many-to-many ones included, without the primary key.

    :param fields: names; None, ``"__all__"`` or ``["__all__"]``: all.
    :param exclude: names that are left out.
    :raises ValueError: the model has no such field.
    """
    meta = model._meta
    known = {field.name: field for field in [*meta.concrete_fields, *meta.many_to_many] if not field.primary_key}
    everything = fields is None or "__all__" in fields
    names = set(known) if everything else set(fields or ())
    # The primary key travels beside the data, whether it is named or not.
    unknown = (names | set(exclude or ())) - set(known) - {meta.pk.name, "pk"}
    if unknown:
        raise ValueError(f"{meta.label} has no field {sorted(unknown)[0]!r}; there is {', '.join(known)}")
    return [field for name, field in known.items() if name in names and name not in (exclude or ())]


def read(instance: models.Model, fields: Iterable[Any]) -> dict[str, Any]:
    """Return the values of an instance, in JSON types, as Django's own serializers write them."""
    data: dict[str, Any] = {}
    for field in fields:
        if field.many_to_many:
            related = getattr(instance, field.name)
            data[field.name] = list(related.order_by("pk").values_list("pk", flat=True)) if instance.pk else []
        else:
            value = field.value_from_object(instance)
            plain = is_protected_type(value) or isinstance(field, models.JSONField)
            data[field.name] = value if plain else field.value_to_string(instance)
    return to_json_types(data)


def to_json_types(value: Any) -> Any:
    """Return `value` as its receiver will see it: dates, decimals, UUIDs and lazy texts are text."""
    return json.loads(json.dumps(value, cls=DjangoJSONEncoder))


class Assignment:
    """What a client wants the fields of an instance to be.

    :param instance: gets the values; it is not saved.
    :param fields: those which may be set, but for what :func:`may_be_set` rules out.
    :param data: the client's values by name; others than `fields` are ignored.
    :raises InvalidInput: a value does not fit its field.
    """

    def __init__(self, instance: models.Model, fields: Iterable[Any], data: Any) -> None:
        if not isinstance(data, dict):
            raise InvalidInput(f"'data' must be an object with the values of fields, not {data!r:.80}")
        self.instance = instance
        #: Names of the fields that have got a value.
        self.names: set[str] = set()
        self._related: dict[str, list[models.Model]] = {}
        for field in fields:
            if field.name in data and may_be_set(field):
                self._set(field, data[field.name])

    def _set(self, field: Any, value: Any) -> None:
        try:
            if isinstance(value, str) and "\0" in value:
                raise ValueError("a null character is nothing that all databases store")
            if field.many_to_many:
                self._related[field.name] = _related(field, value)
            else:
                setattr(self.instance, field.attname, field.to_python(value))
        except (TypeError, ValueError, OverflowError, ValidationError) as error:
            raise InvalidInput(f"{field.name!r} cannot be {value!r:.80}: {said_by(error)}") from error
        self.names.add(field.name)

    def save_related(self) -> None:
        """Set the many-to-many fields; the instance has been saved."""
        for name, objects in self._related.items():
            getattr(self.instance, name).set(objects)


def said_by(error: Exception) -> str:
    """Return the text of an error, of a ``ValidationError`` with the names of the fields."""
    if not isinstance(error, ValidationError):
        return str(error)
    if not hasattr(error, "error_dict"):
        return "; ".join(error.messages)
    return "; ".join(f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items())


def may_be_set(field: Any) -> bool:
    """Whether clients may set a field at all. Not: primary keys, fields that are not editable, files, many-to-many
    fields with a model of their own in between.
    """
    if field.many_to_many and not field.remote_field.through._meta.auto_created:
        return False
    return field.editable and not field.primary_key and not isinstance(field, models.FileField)


def _related(field: Any, keys: Any) -> list[models.Model]:
    if not isinstance(keys, list):
        raise ValueError("a list of primary keys is wanted")
    objects = list(field.related_model._default_manager.filter(pk__in=keys))
    if len(objects) != len({str(key) for key in keys}):
        raise ValueError("one of these does not exist")
    return objects
