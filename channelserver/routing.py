"""Which consumer gets a message (Channels 1: ``channels.routing``).

Routes are written by the application and compiled when the :class:`Router` is made: a dict from channel name to the few
candidates for it, includes flattened. :meth:`Router.match` runs in worker threads and only reads what was compiled;
:meth:`Router.add_route` belongs to start-up and replaces it as a whole.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeGuard, runtime_checkable

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from channelserver.utils import name_that_thing, place_of

if TYPE_CHECKING:
    from channelserver.message import Message

Consumer: TypeAlias = Callable[..., Any]
Match: TypeAlias = tuple[Consumer, dict[str, Any]]
Patterns: TypeAlias = tuple[tuple[str, re.Pattern[str]], ...]


@runtime_checkable
class Routable(Protocol):
    """An entry of a routing list: :class:`Route`, :class:`Include`, or an object of the application's own."""

    def match(self, message: Message) -> Match | None:
        """Return the consumer and its keyword arguments, or None."""

    def channel_names(self) -> Iterable[str]:
        """Return the names of all channels that it may match."""


class Candidate(NamedTuple):
    """A compiled route: the prefixes of the includes around it, outermost first, its filters and its consumer."""

    prefixes: Patterns
    filters: Patterns
    #: None: `custom` decides.
    consumer: Consumer | None
    #: Whether messages with the same reply channel are consumed one at a time.
    ordered: bool = True
    #: Whether a message is given to another worker after its process died; None: the server's default.
    requeue: bool | None = None
    #: An object of the application's own.
    custom: Routable | None = None


Table: TypeAlias = dict[str, tuple[Candidate, ...]]

#: Paths of each channel for which the router remembers what it found, and their longest.
MOST_PATHS, LONGEST_PATH = 1000, 200

#: Whether a pattern begins with a letter or a digit that must be there.
_slashless = re.compile(r"\^?\w(?![?*{])[^|]*").fullmatch


def resolve_routing(routing: Any) -> list[Routable]:
    """Turn a dotted string, a dict or a list into a list of routes.

    :raises ImproperlyConfigured: it does not resolve, or has another form.
    """
    origin = "the routing"
    if isinstance(routing, str):
        origin = f"the routing {routing!r}"
        routing = _import(
            routing,
            origin,
            "Write module and name of a list or dict: 'myproject.routing.channel_routing'.",
        )
    if isinstance(routing, Mapping):
        return [Route(channel, consumer) for channel, consumer in routing.items()]
    if not isinstance(routing, Sequence) or isinstance(routing, (str, bytes)):
        raise ImproperlyConfigured(
            f"{origin} must be a dict (channel name to consumer) or a list of routes, not {routing!r}"
        )
    for item in routing:
        if isinstance(item, type) or not isinstance(item, Routable):
            raise ImproperlyConfigured(
                f"{origin} holds {item!r}, which is no route: list route(), route_class() or include(), "
                "or an object with match(message) and channel_names()"
            )
    return list(routing)


def normalise_re_arg(value: Any) -> Any:
    """Return `value`, decoded if it is bytes.

    :raises UnicodeDecodeError: bytes that are not ASCII.
    """
    return value.decode("ascii") if isinstance(value, (bytes, bytearray)) else value


class _Compiled:
    """What can be matched by a table of candidates."""

    _table: Table

    def channel_names(self) -> set[str]:
        """Return the names of the channels it listens to."""
        return set(self._table)

    def match(self, message: Message) -> Match | None:
        """Return the consumer and its keyword arguments, or None if no candidate matches."""
        return _first_match(self._table.get(message.channel_name, ()), message)


class Route(_Compiled):
    """Send a channel's messages to a consumer (Channels 1: ``route``).

    :param channels: name of the channel, or a list of names.
    :param consumer: callable, or dotted string that names one.
    :param ordered: False: messages with the same ``reply_channel`` may be consumed in any order, several at a time. For
        channels of the application's own, if all their routes say so; a socket's messages are always in order.
    :param requeue: True: if a process dies while it consumes a message, another worker gets that, at most three times.
        So the consumer must bear a message that comes twice. All routes of a channel must say the same. None: as the
        server's option ``--requeue`` says. Not for ``http.request``: part of its answer may have left.
    :param filters: message key = regular expression which must match at the start of the message's value. Named groups
        become keyword arguments of the consumer.
    :raises ValueError: a filter has positional groups.
    :raises ImproperlyConfigured: the consumer does not resolve or is not callable, `ordered` does not fit, or a filter
        is no regular expression.
    """

    def __init__(
        self, channels: str | Collection[str], consumer: Consumer | str, *,
        ordered: bool = True, requeue: bool | None = None, **filters: Any,
    ) -> None:  # fmt: skip
        names = channels if isinstance(channels, (list, tuple, set, frozenset)) else [channels]
        self.channels: list[str] = [normalise_re_arg(name) for name in names]
        for name in self.channels:
            if not isinstance(name, str):
                raise ImproperlyConfigured(f"a route's channels must be names, not {name!r}: 'websocket.receive'")
        self.consumer = _resolve_consumer(consumer, self.channels)
        self.filters = _compile_patterns(filters, f"the route of {_listed(self.channels)}")
        _check_ordered(ordered, self.channels)
        _check_requeue(requeue, self.channels)
        self.ordered = ordered
        self.requeue = requeue
        self._table = {name: (Candidate((), self.filters, self.consumer, ordered, requeue),) for name in self.channels}

    def __repr__(self) -> str:
        filters = "".join(f", {key}={pattern.pattern!r}" for key, pattern in self.filters)
        return f"<{type(self).__name__} {_listed(self.channels)} -> {name_that_thing(self.consumer)}{filters}>"


class RouteClass(Route):
    """Send the channels a class-based consumer lists to that consumer (Channels 1: ``route_class``).

    :param consumer_class: class with a ``channel_names()``, or dotted string that names one.
    :param filters: as for :class:`Route`, ``ordered`` and ``requeue`` included.
    :raises ValueError: the class has no ``channel_names()``, or a filter has positional groups.
    :raises ImproperlyConfigured: as for :class:`Route`.
    """

    def __init__(self, consumer_class: Any, **filters: Any) -> None:
        consumer_class = _resolve_consumer(consumer_class, ["route_class"])
        # A function decorator on a class leaves a function, which leads to the class by `__wrapped__`.
        channel_names = getattr(inspect.unwrap(consumer_class), "channel_names", None)
        if not callable(channel_names):
            raise ValueError(
                "The consumer passed to RouteClass has no valid channel_names method: "
                f"{name_that_thing(consumer_class)} is no class-based consumer"
            )
        super().__init__(channel_names(), consumer_class, **filters)


class Include(_Compiled):
    """Take in another routing, perhaps under prefixes (Channels 1: ``include``).

    :param routing: dotted string, dict or list, as for :class:`Router`.
    :param prefixes: message key = regular expression which must match at the start of the value. The inner routes see
        the value without the matched part. Named groups become keyword arguments; those of inner routes win.
    :raises ValueError: a prefix has positional groups.
    :raises ImproperlyConfigured: the routing does not resolve.
    """

    def __init__(self, routing: Any, **prefixes: Any) -> None:
        self.routing = resolve_routing(routing)
        self.prefixes = _compile_patterns(prefixes, "an include")
        self._table = _under(self.prefixes, _compile(self.routing))

    def __repr__(self) -> str:
        prefixes = "".join(f", {key}={pattern.pattern!r}" for key, pattern in self.prefixes)
        return f"<{type(self).__name__} {self.routing!r}{prefixes}>"


class Router:
    """A channel layer's routing.

    :param routing: dict from channel name to consumer; or list of :class:`Route`, :class:`Include`, or objects with
        ``match(message)`` and ``channel_names()``, the first match wins; or dotted string that names one of these.
    :raises ImproperlyConfigured: the routing does not resolve, or has another form.
    """

    # Where Channels 1 has them.
    resolve_routing = staticmethod(resolve_routing)
    normalise_re_arg = staticmethod(normalise_re_arg)

    def __init__(self, routing: Any) -> None:
        self._routes: list[Routable] = resolve_routing(routing)
        self._table: Table = {}
        #: Channels whose first candidate takes every message: one lookup tells the consumer.
        self._direct: dict[str, Consumer] = {}
        #: Channels whose candidates look at the path alone: what was found for the latest paths.
        self._found: dict[str, dict[str, Match]] = {}
        self._recompile()

    @property
    def root(self) -> Include:
        """All routes, as one include; may be replaced (Channels 1)."""
        return Include(self._routes)

    @root.setter
    def root(self, include: Include) -> None:
        self._routes = [include]
        self._recompile()

    @property
    def channels(self) -> set[str]:
        """The names of all channels with a route."""
        return set(self._table)

    @property
    def unordered(self) -> frozenset[str]:
        """The channels whose messages may be consumed in any order."""
        return frozenset(
            name for name, candidates in self._table.items() if not any(candidate.ordered for candidate in candidates)
        )

    def requeued(self, default: bool = False) -> frozenset[str]:
        """Return the channels whose messages are given to another worker when a process dies with them.

        :param default: whether that holds for routes that do not say.
        """
        found = {name: next(iter(_of_project(candidates)), None) for name, candidates in self._table.items()}
        wishes = {name: None if first is None else first.requeue for name, first in found.items()}  # all say the same
        return frozenset(
            name for name, wish in wishes.items() if (default if wish is None else wish) and name != "http.request"
        )

    def consumers(self) -> list[Consumer | None]:
        """Return the consumers of all routes; None stands for those of an object of the application's own."""
        return [candidate.consumer for candidates in self._table.values() for candidate in candidates]

    def slashless(self) -> list[str]:
        """Return the patterns of paths that match none, because a path begins with a slash and they do not."""
        return sorted(
            {
                pattern.pattern
                for name, candidates in self._table.items()
                if name.startswith(("http.", "websocket."))
                for candidate in candidates
                for key, pattern in candidate.prefixes or candidate.filters
                if key == "path" and _slashless(pattern.pattern)
            }
        )

    def add_route(self, route: Routable) -> None:
        """Append a route: it gets what no earlier one matches.

        :raises ImproperlyConfigured: `route` is none.
        """
        self._add([route])

    def match(self, message: Message) -> Match | None:
        """Return the consumer for a message and its keyword arguments, or None if no route matches."""
        name = message.channel_name
        consumer = self._direct.get(name)
        if consumer is not None:
            return consumer, {}
        found = self._found.get(name)
        if found is None:
            candidates = self._table.get(name)
            return None if candidates is None else _first_match(candidates, message)
        path = message.content.get("path")
        match = found.get(path) if type(path) is str else None
        if match is None:
            match = _first_match(self._table[name], message)
            if match is None or type(path) is not str or len(path) > LONGEST_PATH:
                return match
            if len(found) >= MOST_PATHS:
                found.clear()
            found[path] = match
        return match[0], match[1].copy()

    def check_default(self, http_consumer: Consumer | str | None = None) -> None:
        """Append the default routes: HTTP requests go to `http_consumer`, sockets are accepted, the rest is consumed.

        :param http_consumer: None stands for Django's views.
        """
        if http_consumer is None:
            # Not at the top: the handler loads Django's request machinery, which routing modules do not need.
            from channelserver.handler import ViewConsumer

            http_consumer = ViewConsumer()
        self._add(
            [
                Route("http.request", http_consumer),
                Route("websocket.connect", connect_consumer),
                Route(["websocket.receive", "websocket.disconnect", "http.disconnect"], null_consumer),
            ]
        )

    def _add(self, routes: list[Routable]) -> None:
        self._routes = self._routes + resolve_routing(routes)
        self._recompile()

    def _recompile(self) -> None:
        table = _compile(self._routes)
        self._direct = {
            name: first.consumer
            for name, (first, *_) in table.items()
            if first.consumer is not None and not first.filters and not first.prefixes
        }
        for name, candidates in table.items():
            wishes = {candidate.requeue for candidate in _of_project(candidates)}
            if len(wishes) > 1:
                raise ImproperlyConfigured(
                    f"the routes of {name!r} disagree about requeue: give all of them the same requeue=True or False"
                )
        self._table = table
        self._found = {name: {} for name, candidates in table.items() if all(map(_by_path, candidates))}


def null_consumer(message: Message, **kwargs: Any) -> None:
    """Take a message and do nothing."""


def connect_consumer(message: Message, **kwargs: Any) -> None:
    """Accept a socket: a connect consumer which ends normally has accepted it."""


# Lower case, as applications write them.
route = Route
route_class = RouteClass
include = Include


# -- compiling ---------------------------------------------------------------------------------------------------------


def _compile(routes: Iterable[Routable]) -> Table:
    """Return the candidates of all routes by channel."""
    table: dict[str, list[Candidate]] = {}
    for item in routes:
        if _is_plain(item):
            own = item._table
        else:
            candidate = Candidate((), (), None, requeue=getattr(item, "requeue", None), custom=item)
            own = {normalise_re_arg(name): (candidate,) for name in item.channel_names()}
        for name, candidates in own.items():
            table.setdefault(name, []).extend(candidates)
    return {name: tuple(candidates) for name, candidates in table.items()}


def _is_plain(item: Routable) -> TypeGuard[_Compiled]:
    """Whether `item` can be compiled. A subclass with a match() of its own is called for each message instead."""
    own = type(item)
    return own.match is _Compiled.match and own.channel_names is _Compiled.channel_names


def _under(prefixes: Patterns, table: Table) -> Table:
    """Put `prefixes` before those of all candidates in `table`."""
    if not prefixes:
        return table
    # Candidates of one include share one tuple: _first_match() then tries their prefixes once.
    joined: dict[Patterns, Patterns] = {}
    return {
        name: tuple(
            candidate._replace(prefixes=joined.setdefault(candidate.prefixes, prefixes + candidate.prefixes))
            for candidate in candidates
        )
        for name, candidates in table.items()
    }


def _by_path(candidate: Candidate) -> bool:
    """Whether a candidate looks at the path of a message, and at nothing else."""
    return candidate.custom is None and {key for key, _ in candidate.prefixes + candidate.filters} <= {"path"}


def _compile_patterns(patterns: Mapping[str, Any], place: str) -> Patterns:
    compiled = []
    for key, value in patterns.items():
        if isinstance(value, re.Pattern) and isinstance(value.pattern, bytes):
            value = re.compile(value.pattern.decode("ascii"), value.flags)
        try:
            pattern = re.compile(normalise_re_arg(value))
        except (re.error, TypeError, UnicodeDecodeError) as error:
            raise ImproperlyConfigured(f"{place}: {key}={value!r} is no regular expression: {error}") from error
        if pattern.groups != len(pattern.groupindex):
            raise ValueError(
                f"Filter for {key} on {place} contains positional groups; only named groups are allowed. "
                f"In {value!r}, name the group, (?P<name>...), or write (?:...)"
            )
        compiled.append((key, pattern))
    return tuple(compiled)


def _resolve_consumer(consumer: Consumer | str, channels: Sequence[str]) -> Consumer:
    place = f"the consumer of {_listed(channels)}"
    if isinstance(consumer, str):
        place = f"the consumer {consumer!r} of {_listed(channels)}"
        consumer = _import(
            consumer,
            place,
            "Write module and name of a function: 'myproject.consumers.ws_connect'.",
        )
    if not callable(consumer):
        raise ImproperlyConfigured(f"{place} is {consumer!r}, which is not callable: name a function or a class")
    return consumer


def _check_ordered(ordered: object, channels: Sequence[str]) -> None:
    if not isinstance(ordered, bool):
        raise ImproperlyConfigured(f"the route of {_listed(channels)}: ordered must be True or False, not {ordered!r}")
    socket = next((name for name in channels if name.startswith("websocket.")), None)
    if not ordered and socket is not None:
        raise ImproperlyConfigured(
            f"the route of {_listed(channels)}: ordered=False is for channels of your own; the messages on "
            f"{socket} are always consumed in order"
        )


def _check_requeue(requeue: object, channels: Sequence[str]) -> None:
    if not isinstance(requeue, bool | None):
        raise ImproperlyConfigured(f"the route of {_listed(channels)}: requeue must be True or False, not {requeue!r}")
    if requeue and "http.request" in channels:
        raise ImproperlyConfigured(
            "the route of http.request: requeue=True is not possible, because part of the answer may have left; "
            "the client gets 502 if the process dies"
        )


def _of_project(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates without the server's own, which are added last and may get a message twice."""
    return [candidate for candidate in candidates if candidate.consumer not in (null_consumer, connect_consumer)]


def _import(path: str, place: str, cure: str) -> Any:
    try:
        return import_string(path)
    except Exception as error:
        # Any exception: the module itself may fail while it is being imported.
        if isinstance(error, ImproperlyConfigured) and isinstance(error.__cause__, Exception):
            raise  # another route's consumer, which it names
        raised = place_of(error)
        if raised:
            cure = f"Correct what {raised} does."
        raise ImproperlyConfigured(f"{place} cannot be imported ({type(error).__name__}: {error}). {cure}") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(str, names))


# -- matching ----------------------------------------------------------------------------------------------------------


def _first_match(candidates: Iterable[Candidate], message: Message) -> Match | None:
    content = message.content
    tried: Patterns | None = None
    prefixed: tuple[dict[str, str], dict[str, Any]] | None = None
    for prefixes, filters, consumer, _, _, custom in candidates:
        if prefixes is not tried:
            tried, prefixed = prefixes, _cut_prefixes(prefixes, content)
        if prefixed is None:
            continue
        cut, outer = prefixed
        if custom is not None:
            found = custom.match(_with_cut(message, cut))
            if found is not None:
                return found[0], {**outer, **found[1]}
            continue
        kwargs = dict(outer)
        for key, pattern in filters:
            value = cut[key] if key in cut else _text(content, key)
            matched = None if value is None else pattern.match(value)
            if matched is None:
                break
            kwargs.update(matched.groupdict())
        else:
            assert consumer is not None
            return consumer, kwargs
    return None


def _cut_prefixes(prefixes: Patterns, content: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]] | None:
    """Return the values without their prefixes, and the named groups; None if a prefix does not match."""
    cut: dict[str, str] = {}
    kwargs: dict[str, Any] = {}
    for key, pattern in prefixes:
        value = cut[key] if key in cut else _text(content, key)
        matched = None if value is None else pattern.match(value)
        if value is None or matched is None:
            return None
        kwargs.update(matched.groupdict())
        cut[key] = value[matched.end() :]
    return cut, kwargs


def _text(content: Mapping[str, Any], key: str) -> str | None:
    """Return the value as text; None, which nothing matches, if it is missing, no text, or bytes that are not ASCII."""
    value = content.get(key)
    if isinstance(value, bytes):
        return value.decode("ascii") if value.isascii() else None
    return value if isinstance(value, str) else None


def _with_cut(message: Message, cut: Mapping[str, str]) -> Message:
    """Return the message as routes inside an include see it."""
    if not cut:
        return message
    return type(message)({**message.content, **cut}, message.channel_name, message.channel_layer)
