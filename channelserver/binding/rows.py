"""The rows of a bound model: which other models change them, and what is stored.

A row is also changed through a proxy of its model, and by multi-table inheritance through the model's parents and
children: Django sends the signals of the class of the saved instance alone.
Runs in any thread that uses the database; owns nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist
from django.db import models

Model = type[models.Model]


def concrete(model: Model) -> Model:
    """Return the model whose table this one uses: itself, or what it is a proxy of."""
    found: Model | None = model._meta.concrete_model
    return found or model


def same_table(model: Model, other: Model) -> bool:
    """Whether both have the same rows: one is the other, or a proxy of it."""
    return concrete(model) is concrete(other)


def changed_by(model: Model, other: Model) -> bool:
    """Whether saving an instance of `other` may change a row of `model`: proxies, parents, children."""
    return issubclass(concrete(other), concrete(model)) or issubclass(concrete(model), concrete(other))


def all_models() -> Iterator[Model]:
    """Return the models that there are so far; applications may still be loading."""
    for of_app in tuple(apps.all_models.values()):
        yield from tuple(of_app.values())


def stored(model: Model, instance: models.Model, using: str) -> Any:
    """Return what the database has for an instance, as a `model`; None: nothing.

    :param instance: of a model that is related by :func:`changed_by`.
    """
    other = type(instance)
    if instance.pk is None or (instance._state.adding and other._meta.pk.has_default()):
        return None
    link = None
    if same_table(model, other):
        key = {"pk": instance.pk}
    elif issubclass(concrete(other), concrete(model)):
        link = concrete(other)._meta.get_ancestor_link(concrete(model))
        key = {"pk": getattr(instance, link.attname) if link else instance.pk}
    else:
        link = concrete(model)._meta.get_ancestor_link(concrete(other))
        key = {link.attname if link else "pk": instance.pk}
    return model._base_manager.using(using).filter(**key).first()


def current(model: Model, instance: models.Model, using: str) -> Any:
    """Like :func:`stored`, after a change. Attributes that the application has added to the instance are kept."""
    if not isinstance(instance, model):
        return stored(model, instance, using)
    # Not the instance itself: it can have values that were not saved, expressions, or texts for dates.
    row = copy.copy(instance)
    try:
        row.refresh_from_db(using=using)
    except ObjectDoesNotExist:
        return None
    return row
