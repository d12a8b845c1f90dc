"""Names of Channels 1 that frameworks on top of its bindings use and override.

Runs in the thread that changes the model. Owns the list of all bindings.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

CREATE, UPDATE, DELETE = "create", "update", "delete"

#: Where an instance keeps the groups that knew it before a change: a set by binding.
_GROUPS = "_binding_group_names"


class BindingMetaclass(type):
    """The type of bindings. A framework may derive from it."""

    #: All bindings, bases of others included.
    binding_classes: ClassVar[list[Any]] = []

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], **kwargs: Any) -> Any:
        binding = super().__new__(mcs, name, bases, body, **kwargs)
        if bases:
            BindingMetaclass.binding_classes.append(binding)
        return binding

    @classmethod
    def register_all(cls) -> None:
        """Do nothing: a binding is active as soon as its class has been made."""


class ChangeReceivers(metaclass=BindingMetaclass):
    """The two methods that Channels 1 called around each change. They are called if a subclass overrides one."""

    group_names: Callable[..., Iterable[str]]
    send_messages: Callable[..., None]

    @classmethod
    def has_own_receivers(cls) -> bool:
        """Whether one of them is overridden."""
        ours = ChangeReceivers
        return any(
            getattr(cls, name).__func__ is not getattr(ours, name).__func__
            for name in ("pre_change_receiver", "post_change_receiver")
        )

    @classmethod
    def groups_of(cls, instance: Any, action: str) -> set[str]:
        """Return the groups that may see an instance.

        :param action: for bindings whose ``group_names`` takes it as a second argument, as before Channels 1.0.
        """
        names = cls.group_names
        more = (action,) if _takes_action(getattr(names, "__func__", names)) else ()
        return set(names(instance, *more))

    @classmethod
    def pre_change_receiver(cls, instance: Any, action: str) -> None:
        """An instance is going to be created, updated or deleted: note which groups know it."""
        before: dict[type, set[str]] = instance.__dict__.setdefault(_GROUPS, {})
        before[cls] = set() if action == CREATE else cls.groups_of(instance, action)

    @classmethod
    def post_change_receiver(cls, instance: Any, action: str, **kwargs: Any) -> None:
        """An instance has been created, updated or deleted: notify the groups.

        :param kwargs: the arguments of the signal.
        """
        before = getattr(instance, _GROUPS)[cls]
        after = set() if action == DELETE else cls.groups_of(instance, action)
        binding: Any = cls()
        binding.instance = instance
        binding.send_messages(instance, before - after, DELETE, **kwargs)
        binding.send_messages(instance, before & after, UPDATE, **kwargs)
        binding.send_messages(instance, after - before, CREATE, **kwargs)


@functools.cache
def _takes_action(function: Any) -> bool:
    """Whether a ``group_names`` takes an action beside the instance."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [one for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    return len(required) > 2  # the class, the instance
