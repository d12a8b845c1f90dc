"""The base of bindings, of whatever transport (Channels 1: ``channels.binding.base``).

What goes out runs in the thread that changes the model, what comes in runs in a worker thread. Owns the receivers of
the models' signals; what is to be remembered from before a change until after it is kept at the changed instance.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar, Self

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import DataError, IntegrityError, models, router, transaction
from django.db.models import signals
from django.db.models.fields.related import lazy_related_operation

from channelserver.auth import anonymous_user, channel_session_user
from channelserver.binding import rows
from channelserver.binding.channels1 import CREATE as CREATE
from channelserver.binding.channels1 import DELETE as DELETE
from channelserver.binding.channels1 import UPDATE as UPDATE
from channelserver.binding.channels1 import BindingMetaclass as BindingMetaclass  # Channels 1 has it here
from channelserver.binding.channels1 import ChangeReceivers
from channelserver.binding.fields import Assignment, InvalidInput, chosen_fields, may_be_set, read, said_by
from channelserver.binding.outgoing import guarded, send_later
from channelserver.layers.losses import Reason
from channelserver.message import Message
from channelserver.sessions import channel_session

logger = logging.getLogger("channelserver.binding")

#: Where an instance keeps what is known of it before a change: a dict by binding (and field).
_BEFORE = "_channelserver_before"


class Binding(ChangeReceivers):
    """Ties a model to groups: its changes are sent to them, and clients may change it.

    A subclass whose body names a ``model`` is active as soon as it has been made, or, if it names it by a text such as
    ``"app.Model"``, as soon as that model is. One without is a base for others.

    :raises TypeError: ``model`` is no model.
    :raises ValueError: neither ``fields`` nor ``exclude`` says which fields clients may see and change, or a name is
        wrong.

    Override :meth:`group_names` and :meth:`has_permission`, and what a transport needs: :meth:`serialize`,
    :meth:`encode`, :meth:`deserialize`.
    """

    #: The model, and what clients call it: ``app.model``, in lower case.
    model: ClassVar[Any] = None
    model_label: ClassVar[str] = ""
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
        model = cls.__dict__.get("model")
        if isinstance(model, str):
            if model.count(".") != 1:
                raise ValueError(f"{cls.__name__}.model must be a model, or a text such as 'app.Model', not {model!r}")
            apps.lazy_model_operation(cls._named, tuple(model.lower().split(".")))
        elif model is not None:
            cls.register()

    @classmethod
    def _named(cls, model: Any) -> None:
        cls.model = model
        cls.register()

    # -- what subclasses say -------------------------------------------------------------------------------------------

    @classmethod
    def group_names(cls, instance: Any) -> Iterable[str]:
        """Return the names of the groups to which changes of `instance` are sent."""
        raise NotImplementedError(f"{cls.__name__} must define group_names(cls, instance)")

    def has_permission(self, user: Any, action: str, pk: Any) -> bool:
        """Tell whether a client may do something.

        :param user: the socket's user, perhaps an ``AnonymousUser``, as without ``channel_session_user``.
        :param action: ``"create"``, ``"update"`` or ``"delete"``.
        :param pk: primary key, of the type that the model's field has; None to create.
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
        """Listen to the signals of the model, and of those that share its rows. Called when a class is made that names
        a model.
        """
        if not (isinstance(cls.model, type) and issubclass(cls.model, models.Model)):
            raise TypeError(f"{cls.__name__}.model must be a model, not {cls.model!r}")
        if cls.fields is None and cls.exclude is None:
            raise ValueError(
                f"You must set the fields or exclude attribute on Binding {cls!r}: fields = [...] or exclude = [...]; "
                'fields = ["__all__"] means all'
            )
        cls.bound_fields()
        cls.model_label = cls.model._meta.label_lower
        for model in rows.all_models():
            cls._connect(model)
        signals.class_prepared.connect(cls._connect_later, weak=False, dispatch_uid=cls)
        for field in cls.model._meta.many_to_many:
            through: Any = field.remote_field.through
            # The model in between may be made later.
            lazy_related_operation(partial(cls._connect_related, field), cls.model, through)

    @classmethod
    def _connect(cls, model: type[models.Model]) -> None:
        for signal, receiver in cls._receivers(model):
            signal.connect(receiver, sender=model, weak=False, dispatch_uid=cls)

    @classmethod
    def _connect_later(cls, sender: Any, **kwargs: Any) -> None:
        cls._connect(sender)

    @classmethod
    def _connect_related(cls, field: Any, model: Any, through: Any) -> None:
        receiver = partial(cls._related_changed, field)
        signals.m2m_changed.connect(receiver, sender=through, weak=False, dispatch_uid=(cls, field.name))

    @classmethod
    def unregister(cls) -> None:
        """Undo :meth:`register`; for tests."""
        signals.class_prepared.disconnect(dispatch_uid=cls)
        for model in rows.all_models():
            for signal, _ in cls._receivers(model):
                signal.disconnect(sender=model, dispatch_uid=cls)
        for field in cls.model._meta.many_to_many:
            signals.m2m_changed.disconnect(sender=field.remote_field.through, dispatch_uid=(cls, field.name))

    @classmethod
    def _receivers(cls, model: type[models.Model]) -> Iterator[tuple[Any, Callable[..., None]]]:
        if rows.changed_by(cls.model, model):
            yield signals.pre_save, cls._before_save
            yield signals.post_save, cls._after_save
        if rows.same_table(cls.model, model):  # Django deletes the rows of parents and children one by one
            yield signals.pre_delete, cls._before_delete
            if cls.has_own_receivers():
                yield signals.post_delete, cls._after_delete

    # -- out -----------------------------------------------------------------------------------------------------------

    # The model has changed already, so no error of a binding may come out of here.

    @classmethod
    def _before_save(cls, instance: Any, using: str, raw: bool = False, **kwargs: Any) -> None:
        if raw:  # of fixtures, what they refer to may not be there yet
            return
        _memory(instance)[cls] = None
        with guarded(cls, instance, using):
            if cls.has_own_receivers():
                cls.pre_change_receiver(instance, CREATE if instance._state.adding else UPDATE)
                _memory(instance)[cls] = _NOBODY
            else:
                _memory(instance)[cls] = cls._look(rows.stored(cls.model, instance, using), UPDATE)

    @classmethod
    def _after_save(cls, instance: Any, using: str, raw: bool = False, **kwargs: Any) -> None:
        before = _memory(instance).pop(cls, _NOBODY)
        if raw or before is None:
            return
        action = CREATE if kwargs.get("created") else UPDATE
        with guarded(cls, instance, using):
            if cls.has_own_receivers():
                cls.post_change_receiver(instance, action, using=using, raw=raw, **kwargs)
            else:
                after = cls._look(rows.current(cls.model, instance, using), action)
                cls._changed(before, after, using, raw=raw, **kwargs)

    @classmethod
    def _before_delete(cls, instance: Any, using: str, **kwargs: Any) -> None:
        # Afterwards its relations are gone. Django deletes in a transaction, whose end the messages wait for.
        with guarded(cls, instance, using):
            if cls.has_own_receivers():
                cls.pre_change_receiver(instance, DELETE)
            else:
                row, names = cls._look(rows.stored(cls.model, instance, using), DELETE)
                cls._for(row).send_messages(row, names, DELETE, using=using, **kwargs)

    @classmethod
    def _after_delete(cls, instance: Any, using: str, **kwargs: Any) -> None:
        with guarded(cls, instance, using):
            cls.post_change_receiver(instance, DELETE, using=using, **kwargs)

    @classmethod
    def _related_changed(
        cls, field: Any, instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, using: str, **kwargs: Any
    ) -> None:
        """A many-to-many field has changed, for one of our instances or for several."""
        key = cls, field.name
        kwargs["m2m_action"] = action
        if action.startswith("pre_"):
            if pk_set is not None and not pk_set:
                return
            with guarded(cls, instance, using):
                both = field.remote_field.symmetrical
                owners = [] if reverse else [rows.stored(cls.model, instance, using)]
                if reverse or both:
                    which = {field.name: instance} if pk_set is None else {"pk__in": pk_set}
                    owners += cls.model._base_manager.using(using).filter(**which)
                # Those who lose sight of an instance get what they could see: afterwards that is gone.
                _memory(instance)[key] = [
                    (cls._look(owner, UPDATE), cls._content(owner, DELETE, kwargs))
                    for owner in owners
                    if owner is not None
                ]
        elif action.startswith("post_"):
            bound = field in cls.bound_fields()
            for before, farewell in _memory(instance).pop(key, ()):
                with guarded(cls, instance, using):
                    after = cls._look(rows.stored(cls.model, before[0], using), UPDATE)
                    cls._changed(before, after, using, bound, farewell, **kwargs)

    @classmethod
    def _look(cls, row: Any, action: str) -> Seen:
        """Return a row, and the groups that may see it."""
        return _NOBODY if row is None else (row, cls.groups_of(row, action))

    @classmethod
    def _changed(
        cls,
        before: Seen,
        after: Seen,
        using: str,
        visible: bool = True,
        farewell: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Notify the groups that lose the row, with what they could see of it, those that keep it, those that gain it.

        :param visible: whether the bound fields have changed.
        :param farewell: what goes to those that lose the row; None: what :meth:`serialize` says of it as it was.
        """
        (old, lost), (new, gained) = before, after
        if farewell is not None:
            send_later(lost - gained, farewell, using)
        else:
            cls._for(old).send_messages(old, lost - gained, DELETE, using=using, **kwargs)
        if visible:
            cls._for(new).send_messages(new, lost & gained, UPDATE, using=using, **kwargs)
        cls._for(new).send_messages(new, gained - lost, CREATE, using=using, **kwargs)

    def send_messages(
        self, instance: Any, group_names: Collection[str], action: str, using: str | None = None, **kwargs: Any
    ) -> None:
        """Send a change to groups, as soon as it is committed.

        :param group_names: of the groups.
        :param action: ``"create"``, ``"update"`` or ``"delete"``, as these groups see it.
        :param using: alias of the database.
        :param kwargs: the arguments of the signal.
        """
        content = self._content(instance, action, kwargs) if group_names else None
        if content is not None:
            send_later(group_names, content, using)

    @classmethod
    def _for(cls, instance: Any) -> Self:
        self = cls()
        self.instance = instance
        return self

    @classmethod
    def _content(cls, instance: Any, action: str, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Return the message about a change; None: :meth:`serialize` has returned an empty dict, so there is none."""
        self = cls._for(instance)
        self.signal_kwargs = kwargs
        payload = self.serialize(instance, action)
        if payload == {}:
            return None
        if not cls.stream:
            raise ValueError(f'{cls.__name__} must name its stream: stream = "..."')
        return self.encode(cls.stream, payload)

    # -- in ------------------------------------------------------------------------------------------------------------

    @classmethod
    def get_handler(cls) -> Callable[..., None]:
        """Return :meth:`trigger_inbound` with the decorators that the class's attributes ask for; override it to add
        others.
        """
        if cls.channel_session_user:
            return channel_session_user(cls.trigger_inbound)
        return channel_session(cls.trigger_inbound) if cls.channel_session else cls.trigger_inbound

    @classmethod
    def consumer(cls, message: Message, **kwargs: Any) -> None:
        """Consumer of what clients send: for a route, or for ``consumers`` of a demultiplexer.

        What cannot be done is logged and ignored.
        """
        try:
            cls.get_handler()(message, **kwargs)
        except InvalidInput as error:
            hint = f"{cls.__name__}: a client's message is ignored: {error}"
            message.channel_layer.drops.record(Reason.BAD_CLIENT, message.channel_name or "", hint=hint)

    @classmethod
    def trigger_inbound(cls, message: Message, **kwargs: Any) -> None:
        """Do what a message says, if its user may.

        :raises InvalidInput: it cannot be done.
        """
        self = cls()
        self.message = message
        self.kwargs = kwargs
        self.user = getattr(message, "user", None) or anonymous_user()
        self.action, self.pk, self.data = self.deserialize(message)
        self.run_action(self.action, self.pk, self.data)

    def run_action(self, action: Any, pk: Any, data: Any) -> None:
        """Do one thing, if ``self.user`` may.

        :raises InvalidInput: it cannot be done.
        """
        if action not in (CREATE, UPDATE, DELETE):
            raise InvalidInput(f"'action' must be 'create', 'update' or 'delete', not {action!r:.80}")
        pk = self.pk = None if action == CREATE else self._key(pk)
        if not self.has_permission(self.user, action, pk):
            logger.debug("%s: %s may not %s %r", type(self).__name__, self.user, action, pk)
            return
        with transaction.atomic(using=router.db_for_write(self.model)):
            if action == CREATE:
                self.create(data)
            elif action == UPDATE:
                self.update(pk, data)
            else:
                self.delete(pk)

    def _key(self, pk: Any) -> Any:
        """Return a primary key as the model has it: a rule such as ``pk != 1`` must hold for ``"1"``, too."""
        try:
            key = self.model._meta.pk.to_python(pk)
            if key is None or isinstance(pk, (list, dict)):
                raise ValueError
        except (ValidationError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(f"{self.model._meta.label} has no primary key {pk!r:.80}") from error
        return key

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


#: A row and the groups that may see it.
Seen = tuple[Any, set[str]]
_NOBODY: Seen = (None, set())


def _memory(instance: Any) -> dict[Any, Any]:
    memory: dict[Any, Any] = instance.__dict__.setdefault(_BEFORE, {})
    return memory
