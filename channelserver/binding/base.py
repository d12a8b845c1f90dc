"""The base of bindings, of whatever transport (Channels 1: ``channels.binding.base``).

What goes out runs in the thread that changes the model, what comes in runs in a worker thread. Owns the receivers of
the models' signals; what is to be remembered from before a change until after it is kept at the changed instance.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, ClassVar

from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import DataError, IntegrityError, models, router, transaction
from django.db.models import signals
from django.db.models.fields.related import lazy_related_operation

from channelserver.auth import channel_session_user
from channelserver.binding.fields import Assignment, InvalidInput, chosen_fields, may_be_set, read, said_by
from channelserver.channel import Group
from channelserver.message import Message
from channelserver.sessions import channel_session

logger = logging.getLogger("channelserver.binding")

CREATE, UPDATE, DELETE = "create", "update", "delete"

#: Where an instance keeps what is known of it before a change: a dict by binding (and field).
_BEFORE = "_channelserver_before"


class Binding:
    """Ties a model to groups: its changes are sent to them, and clients may change it.

    A subclass whose body names a ``model`` is active as soon as it has been made. One without is a base for others.

    :raises TypeError: ``model`` is no model.
    :raises ValueError: neither ``fields`` nor ``exclude`` says which fields clients may see and change, or a name is
        wrong.

    Override :meth:`group_names` and :meth:`has_permission`, and what a transport needs: :meth:`serialize`,
    :meth:`encode`, :meth:`deserialize`.
    """

    #: The model.
    model: ClassVar[Any] = None
    #: Names of the fields that are sent and may be changed; ``["__all__"]``: all.
    fields: ClassVar[Collection[str] | None] = None
    #: Instead: names of the fields that are not.
    exclude: ClassVar[Collection[str] | None] = None
    #: Decorate the consumer with :func:`channelserver.auth.channel_session_user`, for :meth:`has_permission`.
    channel_session_user: ClassVar[bool] = True
    #: Decorate it with :func:`channelserver.sessions.channel_session`.
    channel_session: ClassVar[bool] = False
    #: Name of the stream, for transports with streams.
    stream: ClassVar[str | None] = None

    #: The changed instance, and the arguments of the signal.
    instance: Any = None
    signal_kwargs: dict[str, Any] | None = None
    #: What has come in, from whom, and what it says.
    message: Message
    kwargs: dict[str, Any]
    user: Any = None
    action: Any = None
    pk: Any = None
    data: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("model") is not None:
            cls.register()

    # -- what subclasses say -------------------------------------------------------------------------------------------

    @classmethod
    def group_names(cls, instance: Any) -> Iterable[str]:
        """Return the names of the groups to which changes of `instance` are sent."""
        raise NotImplementedError(f"{cls.__name__} must define group_names(cls, instance)")

    def has_permission(self, user: Any, action: str, pk: Any) -> bool:
        """Tell whether a client may do something.

        :param user: the socket's user, perhaps an ``AnonymousUser``; None without ``channel_session_user``.
        :param action: ``"create"``, ``"update"`` or ``"delete"``.
        :param pk: primary key as the client has sent it; None to create.
        """
        raise NotImplementedError(f"{type(self).__name__} must define has_permission(self, user, action, pk)")

    def serialize(self, instance: Any, action: str) -> Any:
        """Return what is sent about a change."""
        raise NotImplementedError(f"{type(self).__name__} must define serialize(self, instance, action)")

    @classmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """Return the message that carries `payload` on a stream."""
        raise NotImplementedError(f"{cls.__name__} must define encode(cls, stream, payload)")

    def deserialize(self, message: Message) -> tuple[Any, Any, Any]:
        """Return action, primary key and data of a message that has come in.

        :raises InvalidInput: it is not of that form.
        """
        raise NotImplementedError(f"{type(self).__name__} must define deserialize(self, message)")

    @classmethod
    def bound_fields(cls) -> list[Any]:
        """Return the fields that ``fields`` or ``exclude`` name."""
        return chosen_fields(cls.model, cls.fields, cls.exclude)

    def serialize_data(self, instance: Any) -> dict[str, Any]:
        """Return the values of the bound fields, in JSON types."""
        return read(instance, self.bound_fields())

    # -- registration --------------------------------------------------------------------------------------------------

    @classmethod
    def register(cls) -> None:
        """Listen to the model's signals. Called when a class is made that names a model."""
        if not (isinstance(cls.model, type) and issubclass(cls.model, models.Model)):
            raise TypeError(f"{cls.__name__}.model must be a model, not {cls.model!r}")
        if cls.fields is None and cls.exclude is None:
            raise ValueError(
                f'{cls.__name__} must name fields = [...] or exclude = [...]; fields = ["__all__"] means all'
            )
        cls.bound_fields()
        for signal, receiver in cls._receivers():
            signal.connect(receiver, sender=cls.model, weak=False, dispatch_uid=cls)
        for field in cls.model._meta.many_to_many:
            through: Any = field.remote_field.through
            # The model in between may be made later.
            lazy_related_operation(partial(cls._connect_related, field), cls.model, through)

    @classmethod
    def _connect_related(cls, field: Any, model: Any, through: Any) -> None:
        receiver = partial(cls._related_changed, field)
        signals.m2m_changed.connect(receiver, sender=through, weak=False, dispatch_uid=(cls, field.name))

    @classmethod
    def unregister(cls) -> None:
        """Undo :meth:`register`; for tests."""
        for signal, _ in cls._receivers():
            signal.disconnect(sender=cls.model, dispatch_uid=cls)
        for field in cls.model._meta.many_to_many:
            signals.m2m_changed.disconnect(sender=field.remote_field.through, dispatch_uid=(cls, field.name))

    @classmethod
    def _receivers(cls) -> list[tuple[Any, Callable[..., None]]]:
        return [
            (signals.pre_save, cls._before_save),
            (signals.post_save, cls._after_save),
            (signals.pre_delete, cls._before_delete),
        ]

    # -- out -----------------------------------------------------------------------------------------------------------

    @classmethod
    def _before_save(cls, instance: Any, using: str, raw: bool = False, **kwargs: Any) -> None:
        if not raw:  # of fixtures, what they refer to may not be there yet
            _memory(instance)[cls] = cls._stored_groups(instance, using)

    @classmethod
    def _after_save(cls, instance: Any, using: str, raw: bool = False, **kwargs: Any) -> None:
        if not raw:
            before = _memory(instance).pop(cls, set())
            cls._changed(instance, before, using, raw=raw, **kwargs)

    @classmethod
    def _before_delete(cls, instance: Any, using: str, **kwargs: Any) -> None:
        # Afterwards its relations are gone. Django deletes in a transaction, whose end the messages wait for.
        names = cls._stored_groups(instance, using)
        cls.send_messages(instance, names, DELETE, using=using, **kwargs)

    @classmethod
    def _related_changed(
        cls, field: Any, instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, using: str, **kwargs: Any
    ) -> None:
        """A many-to-many field has changed, for one of our instances or for several."""
        key = cls, field.name
        if action.startswith("pre_"):
            both = field.remote_field.symmetrical
            owners = [] if reverse else [instance]
            if reverse or both:
                which = {field.name: instance} if pk_set is None else {"pk__in": pk_set}
                owners += cls.model._base_manager.using(using).filter(**which)
            if pk_set is None or pk_set:
                _memory(instance)[key] = [(owner, set(cls.group_names(owner))) for owner in owners]
        elif action.startswith("post_"):
            told = field in cls.bound_fields()
            for owner, before in _memory(instance).pop(key, ()):
                cls._changed(owner, before, using, told, m2m_action=action, **kwargs)

    @classmethod
    def _stored_groups(cls, instance: Any, using: str) -> set[str]:
        """Return the groups that know of an instance: those of what is in the database, not of what it is to be."""
        fresh = instance._state.adding and cls.model._meta.pk.has_default()
        if instance.pk is None or fresh:
            return set()
        stored = cls.model._base_manager.using(using).filter(pk=instance.pk).first()
        return set() if stored is None else set(cls.group_names(stored))

    @classmethod
    def _changed(cls, instance: Any, before: set[str], using: str, told: bool = True, **kwargs: Any) -> None:
        """Notify the groups that lose the instance, those that keep it, and those that gain it."""
        after = set(cls.group_names(instance))
        cls.send_messages(instance, before - after, DELETE, using=using, **kwargs)
        if told:
            cls.send_messages(instance, before & after, UPDATE, using=using, **kwargs)
        cls.send_messages(instance, after - before, CREATE, using=using, **kwargs)

    @classmethod
    def send_messages(
        cls, instance: Any, group_names: Collection[str], action: str, using: str | None = None, **kwargs: Any
    ) -> None:
        """Send a change to groups, as soon as it is committed.

        :param group_names: of the groups.
        :param action: ``"create"``, ``"update"`` or ``"delete"``, as these groups see it.
        :param using: alias of the database.
        :param kwargs: the arguments of the signal.
        """
        if not group_names:
            return
        self = cls()
        self.instance = instance
        self.signal_kwargs = kwargs
        payload = self.serialize(instance, action)
        if not cls.stream:
            raise ValueError(f'{cls.__name__} must name its stream: stream = "..."')
        content = self.encode(cls.stream, payload)
        groups = [Group(name) for name in sorted(group_names)]
        transaction.on_commit(partial(_send, groups, content), using=using)

    # -- in ------------------------------------------------------------------------------------------------------------

    @classmethod
    def consumer(cls, message: Message, **kwargs: Any) -> None:
        """Consumer of what clients send: for a route, or for ``consumers`` of a demultiplexer.

        What cannot be done is logged and ignored.
        """
        handler: Callable[..., None] = cls.trigger_inbound
        if cls.channel_session_user:
            handler = channel_session_user(handler)
        elif cls.channel_session:
            handler = channel_session(handler)
        try:
            handler(message, **kwargs)
        except InvalidInput as error:
            logger.warning("%s: a client's message is ignored: %s", cls.__name__, error)

    @classmethod
    def trigger_inbound(cls, message: Message, **kwargs: Any) -> None:
        """Do what a message says, if its user may.

        :raises InvalidInput: it cannot be done.
        """
        self = cls()
        self.message = message
        self.kwargs = kwargs
        self.user = getattr(message, "user", None)
        self.action, self.pk, self.data = self.deserialize(message)
        self.run_action(self.action, self.pk, self.data)

    def run_action(self, action: Any, pk: Any, data: Any) -> None:
        """Do one thing, if ``self.user`` may.

        :raises InvalidInput: it cannot be done.
        """
        if action not in (CREATE, UPDATE, DELETE):
            raise InvalidInput(f"'action' must be 'create', 'update' or 'delete', not {action!r:.80}")
        if not self.has_permission(self.user, action, pk):
            logger.info("%s: %s may not %s %r", type(self).__name__, self.user, action, pk)
            return
        with transaction.atomic(using=router.db_for_write(self.model)):
            if action == CREATE:
                self.create(data)
            elif action == UPDATE:
                self.update(pk, data)
            else:
                self.delete(pk)

    def create(self, data: Any) -> None:
        """Make an instance."""
        self._save(self.model(), data, {field.name for field in self.bound_fields() if may_be_set(field)})

    def update(self, pk: Any, data: Any) -> None:
        """Change an instance: those bound fields that `data` has."""
        self._save(self.get_object(pk), data, set())

    def delete(self, pk: Any) -> None:
        """Delete an instance."""
        self.get_object(pk).delete()

    def get_object(self, pk: Any) -> Any:
        """Return an instance.

        :raises InvalidInput: there is none.
        """
        try:
            return self.model._default_manager.get(pk=pk)
        except (ObjectDoesNotExist, ValidationError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(f"there is no {self.model._meta.label} with the primary key {pk!r:.80}") from error

    def clean(self, instance: Any, exclude: Collection[str]) -> None:
        """Validate an instance which a client has made or changed; override it to validate otherwise, or not at all.

        :param exclude: names of the fields which the client has not set.
        :raises ValidationError: it is not valid.
        """
        instance.full_clean(exclude=exclude)

    def _save(self, instance: Any, data: Any, required: set[str]) -> None:
        assignment = Assignment(instance, self.bound_fields(), data)
        known = assignment.names | required
        try:
            self.clean(instance, [field.name for field in instance._meta.get_fields() if field.name not in known])
            instance.save()
            assignment.save_related()
        except (ValidationError, DataError, IntegrityError, UnicodeError) as error:
            # The last ones: JSON can say what no database stores, and a model may leave to the database what is valid.
            raise InvalidInput(" ".join(said_by(error).split())) from error


def _memory(instance: Any) -> dict[Any, Any]:
    memory: dict[Any, Any] = instance.__dict__.setdefault(_BEFORE, {})
    return memory


#: The last reason why changes could not be sent; it is logged once.
_unreachable: list[str] = []


def _send(groups: list[Group], content: dict[str, Any]) -> None:
    """Send at the commit. The change is made: whatever happens here must not look as if it was not."""
    for group in groups:
        try:
            # Not held back in a consumer either: should that raise now, the change remains.
            group.send(content, immediately=True)
        except OSError as error:
            # No server is running: a command, a shell.
            if _unreachable != [str(error)]:
                _unreachable[:] = [str(error)]
                logger.warning("nobody is told of changes of models: %s", error)
        except Exception:
            logger.exception("cannot tell %s of a change", group)
        else:
            _unreachable.clear()
