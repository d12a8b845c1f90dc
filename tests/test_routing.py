"""Which consumer a message goes to."""

from __future__ import annotations

import re
import sys
import types
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from twisted.trial.unittest import TestCase

from channelserver.handler import ViewConsumer
from channelserver.layers import InMemoryChannelLayer
from channelserver.message import Message
from channelserver.routing import (
    LONGEST_PATH,
    MOST_PATHS,
    Include,
    Route,
    RouteClass,
    Router,
    connect_consumer,
    include,
    null_consumer,
    route,
    route_class,
)

LAYER = InMemoryChannelLayer()


def first(message: Message, **kwargs: Any) -> None:
    pass


def second(message: Message, **kwargs: Any) -> None:
    pass


def third(message: Message, **kwargs: Any) -> None:
    pass


class ChatConsumer:
    """Looks as the generic consumers do."""

    def __init__(self, message: Message, **kwargs: Any) -> None:
        pass

    @classmethod
    def channel_names(cls) -> set[str]:
        return {"websocket.connect", "websocket.receive"}


class OwnConsumer(ChatConsumer):
    @classmethod
    def channel_names(cls) -> set[str]:
        return {"own"}


class Foreign:
    """An object of an application's own in a routing list."""

    def __init__(self, *channels: str, result: Any = None) -> None:
        self.channels = channels
        self.result = result
        self.seen: list[dict[str, Any]] = []

    def channel_names(self) -> tuple[str, ...]:
        return self.channels

    def match(self, message: Message) -> Any:
        self.seen.append(dict(message.content))
        return self.result


# What dotted strings in the tests below name.
dict_routing = {"chat": "tests.test_routing.first"}
list_routing = [route("chat", second)]
module_text = "no routing"
not_a_routing = 7


def message(channel: str, **content: Any) -> Message:
    return Message(content, channel, LAYER)


class RoutingTestCase(TestCase):
    def assertRoutes(self, router: Any, message: Message, consumer: Any, **kwargs: Any) -> None:
        """Assert that the message goes to `consumer`, with `kwargs`."""
        found = router.match(message)
        self.assertIsNotNone(found, "no route matches")
        self.assertIs(found[0], consumer)
        self.assertEqual(found[1], kwargs)

    def assertRefused(self, make: Any, *words: str, error: type[Exception] = ImproperlyConfigured) -> str:
        """Assert that `make()` raises `error`, with all of `words` in its text."""
        with self.assertRaises(error) as caught:
            make()
        for word in words:
            self.assertIn(word, str(caught.exception))
        return str(caught.exception)


class RouterFormTests(RoutingTestCase):
    def test_takes_a_dict_of_callables(self) -> None:
        router = Router({"chat": first, "news": second})
        self.assertRoutes(router, message("chat"), first)
        self.assertRoutes(router, message("news"), second)

    def test_takes_a_list_of_routes(self) -> None:
        self.assertRoutes(Router([route("chat", first)]), message("chat"), first)

    def test_takes_the_dotted_name_of_a_dict(self) -> None:
        self.assertRoutes(Router("tests.test_routing.dict_routing"), message("chat"), first)

    def test_takes_the_dotted_name_of_a_list(self) -> None:
        self.assertRoutes(Router("tests.test_routing.list_routing"), message("chat"), second)

    def test_takes_an_empty_routing(self) -> None:
        for routing in ({}, [], ()):
            self.assertIsNone(Router(routing).match(message("chat")))

    def test_an_unknown_module_is_named_with_the_cure(self) -> None:
        self.assertRefused(lambda: Router("tests.nowhere.routing"), "'tests.nowhere.routing'", "channel_routing")

    def test_an_unknown_name_in_a_module_is_named(self) -> None:
        self.assertRefused(lambda: Router("tests.test_routing.nothing"), "'tests.test_routing.nothing'", "nothing")

    def test_a_path_without_dots_is_named(self) -> None:
        self.assertRefused(lambda: Router("routing"), "'routing'")

    def test_a_module_that_fails_when_imported_is_named_with_the_reason(self) -> None:
        module = types.ModuleType("tests.failing_routing")
        module.__getattr__ = lambda name: 1 / 0
        sys.modules["tests.failing_routing"] = module
        self.addCleanup(sys.modules.pop, "tests.failing_routing")
        text = self.assertRefused(lambda: Router("tests.failing_routing.routing"), "ZeroDivisionError")
        self.assertIn("tests.failing_routing.routing", text)

    def test_other_forms_are_refused(self) -> None:
        for routing in (7, None, first, "tests.test_routing.not_a_routing", "tests.test_routing.module_text"):
            self.assertRefused(lambda routing=routing: Router(routing), "dict", "list")

    def test_a_list_item_that_is_no_route_is_named(self) -> None:
        for item in (first, ("chat", first), Foreign, ChatConsumer):
            self.assertRefused(lambda item=item: Router([item]), repr(item), "route()")

    def test_changing_the_list_afterwards_changes_nothing(self) -> None:
        routing = [route("chat", first)]
        router = Router(routing)
        routing.insert(0, route("chat", second))
        router.add_route(route("news", third))
        self.assertRoutes(router, message("chat"), first)
        self.assertEqual(len(routing), 2)

    def test_has_the_two_functions_of_channels_1(self) -> None:
        self.assertEqual(Router.normalise_re_arg(b"abc"), "abc")
        self.assertEqual(Router.normalise_re_arg("abc"), "abc")
        (only,) = Router.resolve_routing({"chat": first})
        self.assertEqual(only.channel_names(), {"chat"})


class OrderedTests(RoutingTestCase):
    """``ordered=False``: the messages of a channel are consumed in any order."""

    def test_all_routes_of_a_channel_must_say_so(self) -> None:
        router = Router(
            [
                route(["any", "both"], first, ordered=False),
                include([route("any", first, text="^a", ordered=False)], path="^/"),
                route("both", second, text="^b"),
                route_class(OwnConsumer, ordered=False),
                Foreign("foreign"),
            ]
        )
        self.assertEqual(router.unordered, {"any", "own"})

    def test_a_socket_is_always_in_order(self) -> None:
        self.assertRefused(
            lambda: route(["own", "websocket.receive"], first, ordered=False), "own, websocket.receive", "ordered=False"
        )

    def test_other_values_are_refused(self) -> None:
        self.assertRefused(lambda: route("own", first, ordered="no"), "own", "ordered", "'no'")


class RequeueTests(RoutingTestCase):
    """``requeue``: the messages of a channel are repeated when a process dies with them."""

    def test_requeued(self) -> None:
        """A route says so, or leaves it to the server's default; never for requests."""
        routes = [
            route("yes", first, requeue=True), route("no", first, requeue=False), route("open", first),
            route("both", first, text="^a", requeue=True), include([route("both", second, requeue=True)], path="^/"),
            route("websocket.receive", first, requeue=True), route_class(OwnConsumer, requeue=True),
        ]  # fmt: skip
        router = Router(routes)
        router.check_default()
        self.assertEqual(router.requeued(), {"yes", "both", "own", "websocket.receive"})
        others = {"open", "websocket.connect", "websocket.disconnect", "http.disconnect"}
        self.assertEqual(router.requeued(True), {*router.requeued(), *others})

    def test_wrong(self) -> None:
        """Routes of one channel that disagree, requests and other values are refused."""
        self.assertRefused(lambda: Router([route("a", first, text="x", requeue=True), route("a", first)]), "'a'")
        self.assertRefused(lambda: route("http.request", first, requeue=True), "http.request", "502")
        self.assertRefused(lambda: route("own", first, requeue="yes"), "own", "requeue", "'yes'")


class ConsumerTests(RoutingTestCase):
    def test_a_dotted_name_is_resolved(self) -> None:
        self.assertRoutes(Router({"chat": "tests.test_routing.first"}), message("chat"), first)

    def test_a_dotted_name_that_does_not_resolve_is_named_with_channel_and_cure(self) -> None:
        self.assertRefused(
            lambda: route("chat", "tests.test_routing.nobody"), "'tests.test_routing.nobody'", "chat", "Write"
        )

    def test_a_dotted_name_of_an_unknown_module_is_named_with_channel_and_cure(self) -> None:
        self.assertRefused(lambda: Router({"chat": "nowhere.consumers.f"}), "'nowhere.consumers.f'", "chat", "Write")

    def test_a_consumer_that_cannot_be_called_is_named_with_channel_and_cure(self) -> None:
        self.assertRefused(lambda: route(["chat", "news"], 7), "chat, news", "7", "name a function")

    def test_a_dotted_name_of_something_that_cannot_be_called_is_named(self) -> None:
        self.assertRefused(
            lambda: Router({"chat": "tests.test_routing.module_text"}), "module_text", "chat", "no routing"
        )

    def test_any_callable_will_do_even_if_it_counts_as_false(self) -> None:
        class Falsy:
            def __call__(self, message: Message) -> None:
                pass

            def __bool__(self) -> bool:
                return False

        consumer = Falsy()
        self.assertRoutes(Router({"chat": consumer}), message("chat"), consumer)


class RouteTests(RoutingTestCase):
    def test_the_lower_case_names_are_the_classes(self) -> None:
        self.assertIs(route, Route)
        self.assertIs(route_class, RouteClass)
        self.assertIs(include, Include)

    def test_no_route_for_the_channel_is_no_match(self) -> None:
        self.assertIsNone(Router({"chat": first}).match(message("news")))

    def test_a_route_may_have_many_channels(self) -> None:
        router = Router([route(["chat", "news"], first), route(("sport",), second)])
        self.assertRoutes(router, message("chat"), first)
        self.assertRoutes(router, message("news"), first)
        self.assertRoutes(router, message("sport"), second)

    def test_a_channel_may_be_named_in_bytes(self) -> None:
        self.assertRoutes(Router({b"chat": first}), message("chat"), first)

    def test_a_channel_that_is_no_name_is_refused(self) -> None:
        self.assertRefused(lambda: route(None, first), "None", "websocket.receive")

    def test_the_first_match_wins(self) -> None:
        router = Router([route("chat", first, room="^a"), route("chat", second), route("chat", third, room="^b")])
        self.assertRoutes(router, message("chat", room="a"), first)
        self.assertRoutes(router, message("chat", room="b"), second)

    def test_the_keyword_arguments_are_the_callers_own(self) -> None:
        router = Router({"chat": first})
        router.match(message("chat"))[1]["left"] = "over"
        self.assertRoutes(router, message("chat"), first)

    def test_a_route_matches_by_itself_as_well(self) -> None:
        alone = route("chat", first, room="^(?P<name>.+)")
        self.assertRoutes(alone, message("chat", room="a"), first, name="a")
        self.assertIsNone(alone.match(message("chat")))
        self.assertIsNone(alone.match(message("news", room="a")))

    def test_repr_says_channels_consumer_and_filters(self) -> None:
        text = repr(route(["chat", "news"], first, room="^a"))
        for word in ("chat, news", "tests.test_routing.first", "room='^a'"):
            self.assertIn(word, text)
        self.assertIn("ViewConsumer", repr(route("http.request", ViewConsumer())))
        self.assertIn("path='^/a'", repr(include([route("chat", first)], path="^/a")))


class FilterTests(RoutingTestCase):
    def test_the_pattern_must_match_at_the_start_only(self) -> None:
        router = Router([route("chat", first, path="/room")])
        self.assertRoutes(router, message("chat", path="/room/1"), first)
        self.assertIsNone(router.match(message("chat", path="/a/room")))

    def test_all_filters_must_match(self) -> None:
        router = Router([route("chat", first, path="^/a", method="^GET$")])
        self.assertRoutes(router, message("chat", path="/a", method="GET"), first)
        self.assertIsNone(router.match(message("chat", path="/a", method="POST")))
        self.assertIsNone(router.match(message("chat", path="/b", method="GET")))

    def test_a_missing_key_is_no_match(self) -> None:
        self.assertIsNone(Router([route("chat", first, path=".*")]).match(message("chat")))

    def test_named_groups_become_keyword_arguments(self) -> None:
        router = Router([route("chat", first, path=r"^/(?P<room>\w+)/(?P<page>\d+)?", method="(?P<verb>.+)")])
        self.assertRoutes(router, message("chat", path="/a/", method="GET"), first, room="a", page=None, verb="GET")

    def test_a_failed_filter_leaves_no_keyword_arguments_behind(self) -> None:
        router = Router([route("chat", first, path="(?P<left>.*)", method="X"), route("chat", second, path="")])
        self.assertRoutes(router, message("chat", path="/a", method="GET"), second)

    def test_a_positional_group_is_refused(self) -> None:
        for pattern in ("(a)", "(?P<name>a)(b)"):
            self.assertRefused(
                lambda pattern=pattern: route("chat", first, path=pattern), "chat", pattern, error=ValueError
            )

    def test_groups_that_do_not_capture_are_fine(self) -> None:
        self.assertRoutes(Router([route("chat", first, path="(?:a|b)")]), message("chat", path="b"), first)

    def test_bytes_in_the_message_are_decoded(self) -> None:
        router = Router([route("chat", first, query_string="^room=(?P<room>.*)$")])
        self.assertRoutes(router, message("chat", query_string=b"room=abc"), first, room="abc")

    def test_bytes_that_are_not_ascii_match_nothing(self) -> None:
        self.assertIsNone(
            Router([route("chat", first, query_string=".*")]).match(message("chat", query_string=b"\xff"))
        )

    def test_values_that_are_no_text_match_nothing(self) -> None:
        router = Router([route("chat", first, value=".*")])
        for value in (1, None, True, ["a"], {"a": "b"}):
            self.assertIsNone(router.match(message("chat", value=value)))

    def test_patterns_may_be_bytes_or_compiled(self) -> None:
        for pattern in (b"^/A", re.compile("^/a", re.I), re.compile(b"^/a", re.I)):
            router = Router([route("chat", first, path=pattern)])
            self.assertRoutes(router, message("chat", path="/A"), first)
            self.assertIsNone(router.match(message("chat", path="/B")))

    def test_a_pattern_that_is_none_is_refused_with_its_place(self) -> None:
        for pattern in ("(", 7, None, b"\xff"):
            self.assertRefused(
                lambda pattern=pattern: route("chat", first, path=pattern), "chat", "path=", repr(pattern)
            )


class RouteClassTests(RoutingTestCase):
    def test_listens_to_the_channels_of_the_class(self) -> None:
        router = Router([route_class(ChatConsumer, path="^/(?P<room>.+)")])
        self.assertEqual(router.channels, {"websocket.connect", "websocket.receive"})
        self.assertRoutes(router, message("websocket.connect", path="/a"), ChatConsumer, room="a")
        self.assertIsNone(router.match(message("websocket.connect", path="a")))

    def test_takes_a_dotted_name(self) -> None:
        self.assertRoutes(
            Router([route_class("tests.test_routing.ChatConsumer")]), message("websocket.receive"), ChatConsumer
        )

    def test_a_dotted_name_that_does_not_resolve_is_refused(self) -> None:
        self.assertRefused(lambda: route_class("tests.test_routing.Nobody"), "'tests.test_routing.Nobody'")

    def test_a_class_without_channel_names_is_refused(self) -> None:
        self.assertRefused(lambda: route_class(object), "builtins.object", "channel_names", error=ValueError)


class IncludeTests(RoutingTestCase):
    def test_takes_list_dict_and_dotted_name(self) -> None:
        for routing, consumer in (
            ([route("chat", first)], first),
            ({"chat": second}, second),
            ("tests.test_routing.list_routing", second),
            ("tests.test_routing.dict_routing", first),
        ):
            self.assertRoutes(Router([include(routing)]), message("chat"), consumer)

    def test_a_dotted_name_that_does_not_resolve_is_refused(self) -> None:
        self.assertRefused(lambda: include("nowhere.routing"), "'nowhere.routing'")

    def test_the_prefix_must_match(self) -> None:
        router = Router([include([route("chat", first)], path="^/live")])
        self.assertRoutes(router, message("chat", path="/live/x"), first)
        self.assertIsNone(router.match(message("chat", path="/dead")))
        self.assertIsNone(router.match(message("chat")))

    def test_all_prefixes_must_match(self) -> None:
        router = Router([include([route("chat", first)], path="^/live", method="^GET")])
        self.assertRoutes(router, message("chat", path="/live", method="GET"), first)
        self.assertIsNone(router.match(message("chat", path="/live", method="POST")))

    def test_the_matched_prefix_is_cut_off_for_inner_filters(self) -> None:
        router = Router([include([route("chat", first, path="^/room$")], path="^/live")])
        self.assertRoutes(router, message("chat", path="/live/room"), first)
        self.assertIsNone(router.match(message("chat", path="/live/live/room")))

    def test_prefixes_of_nested_includes_are_cut_off_one_after_the_other(self) -> None:
        inner = include([route("chat", first, path=r"^/(?P<room>\w+)$")], path="^/b")
        router = Router([include([inner], path="^/a")])
        self.assertRoutes(router, message("chat", path="/a/b/x"), first, room="x")
        self.assertIsNone(router.match(message("chat", path="/b/a/x")))

    def test_the_message_is_not_changed_and_the_next_route_sees_it_whole(self) -> None:
        router = Router(
            [
                include([route("chat", first, path="^nothing")], path="^/live"),
                include([route("chat", second, path="^/nothing")], path="^/live"),
                route("chat", third, path="^/live/room$"),
            ]
        )
        one = message("chat", path="/live/room")
        self.assertRoutes(router, one, third)
        self.assertEqual(one.content, {"path": "/live/room"})

    def test_other_values_are_visible_to_inner_filters_whole(self) -> None:
        router = Router([include([route("chat", first, path="^$", method="^GET$")], path="^/live")])
        self.assertRoutes(router, message("chat", path="/live", method="GET"), first)

    def test_named_groups_of_prefixes_are_passed_on(self) -> None:
        router = Router([include([route("chat", first, path=r"^/(?P<room>\w+)")], path=r"^/(?P<language>\w\w)")])
        self.assertRoutes(router, message("chat", path="/de/a"), first, language="de", room="a")

    def test_inner_named_groups_win(self) -> None:
        inner = include([route("chat", first, method="^(?P<name>.*)")], path="^/(?P<name>b)(?P<other>c)")
        router = Router([include([inner], path="^/(?P<name>a)(?P<other>b)")])
        self.assertRoutes(router, message("chat", path="/ab/bc", method="GET"), first, name="GET", other="c")

    def test_bytes_are_decoded_for_prefix_and_inner_filter(self) -> None:
        router = Router([include([route("chat", first, query_string="^b$")], query_string="^a")])
        self.assertRoutes(router, message("chat", query_string=b"ab"), first)
        self.assertIsNone(router.match(message("chat", query_string=b"\xff")))

    def test_a_positional_group_is_refused(self) -> None:
        self.assertRefused(lambda: include([], path="(a)"), "(a)", error=ValueError)

    def test_falls_through_to_later_routes(self) -> None:
        router = Router([include([route("chat", first, path="^/x")], path="^/live"), route("chat", second)])
        self.assertRoutes(router, message("chat", path="/live/y"), second)
        self.assertRoutes(router, message("chat", path="/dead"), second)

    def test_an_open_route_inside_of_an_include_with_prefix_does_not_hide_later_ones(self) -> None:
        router = Router([include([route("chat", first), route("chat", third)], path="^/a"), route("chat", second)])
        self.assertRoutes(router, message("chat", path="/a"), first)
        self.assertRoutes(router, message("chat", path="/b"), second)

    def test_a_prefix_is_tried_once_for_all_inner_routes(self) -> None:
        tried = []

        class Counting(str):
            def __getitem__(self, key: Any) -> str:
                tried.append(key)
                return str(self)[key]

        routes = [route("chat", first, path=f"^/{number}$") for number in range(5)]
        router = Router([include(routes, path="^/live")])
        self.assertRoutes(router, message("chat", path=Counting("/live/4")), first)
        self.assertEqual(len(tried), 1)

    def test_an_include_matches_by_itself_as_well(self) -> None:
        alone = include([route("chat", first)], path="^/a")
        self.assertEqual(alone.channel_names(), {"chat"})
        self.assertRoutes(alone, message("chat", path="/a"), first)
        self.assertIsNone(alone.match(message("news", path="/a")))


class ForeignTests(RoutingTestCase):
    def test_is_asked_in_its_turn_for_its_channels_only(self) -> None:
        foreign = Foreign("chat", result=(second, {"a": 1}))
        router = Router([route("chat", first, path="^/a"), foreign, route("chat", third)])
        self.assertRoutes(router, message("chat", path="/a"), first)
        self.assertEqual(foreign.seen, [])
        self.assertRoutes(router, message("chat", path="/b"), second, a=1)
        self.assertIsNone(router.match(message("news")))
        self.assertEqual(len(foreign.seen), 1)

    def test_may_decline(self) -> None:
        self.assertRoutes(Router([Foreign("chat"), route("chat", third)]), message("chat"), third)

    def test_comes_first_although_a_later_route_takes_everything(self) -> None:
        router = Router([Foreign("chat", result=(second, {})), route("chat", first)])
        self.assertRoutes(router, message("chat"), second)

    def test_inside_of_an_include_sees_the_cut_message_and_the_others_do_not(self) -> None:
        foreign = Foreign("chat", result=(second, {"name": "inner"}))
        router = Router([include([foreign], path="^/(?P<name>a)(?P<other>b)")])
        one = message("chat", path="/ab/c", key=1)
        self.assertRoutes(router, one, second, name="inner", other="b")
        self.assertEqual(foreign.seen, [{"path": "/c", "key": 1}])
        self.assertEqual(one.content, {"path": "/ab/c", "key": 1})

    def test_a_subclass_with_a_match_of_its_own_is_asked(self) -> None:
        class Never(Route):
            def match(self, message: Message) -> None:
                return None

        class NeverInside(Include):
            def match(self, message: Message) -> None:
                return None

        router = Router([Never("chat", first), NeverInside([route("chat", first)]), route("chat", second)])
        self.assertRoutes(router, message("chat"), second)

    def test_a_subclass_with_more_channels_is_asked(self) -> None:
        class More(Route):
            def channel_names(self) -> set[str]:
                return {"chat", "news"}

        router = Router([More("chat", first)])
        self.assertEqual(router.channels, {"chat", "news"})
        self.assertRoutes(router, message("chat"), first)
        self.assertIsNone(router.match(message("news")))


class RouterTests(RoutingTestCase):
    def test_channels_are_those_of_all_routes(self) -> None:
        router = Router([route(["a", "b"], first), include([route("c", first)], path="x"), Foreign("d")])
        self.assertEqual(router.channels, {"a", "b", "c", "d"})

    def test_channels_are_the_callers_own(self) -> None:
        router = Router({"chat": first})
        router.channels.add("left over")
        self.assertEqual(router.channels, {"chat"})

    def test_add_route_appends(self) -> None:
        router = Router([route("chat", first, path="^/a")])
        router.add_route(route(["chat", "news"], second))
        self.assertRoutes(router, message("chat", path="/a"), first)
        self.assertRoutes(router, message("chat", path="/b"), second)
        self.assertRoutes(router, message("news"), second)
        self.assertEqual(router.channels, {"chat", "news"})

    def test_what_was_found_for_a_path_is_remembered(self) -> None:
        router = Router(
            [include([route("chat", first, path=r"/(?P<room>\w+)$")], path="^/chat"), route("chat", second)]
        )
        for _ in range(2):
            found = router.match(message("chat", path="/chat/a"))
            self.assertEqual(found, (first, {"room": "a"}))
            found[1]["room"] = "altered"
            self.assertRoutes(router, message("chat", path="/else"), second)
            self.assertRoutes(router, message("chat", path=["/chat/a"]), second)
            self.assertRoutes(router, message("chat", path=b"/chat/a"), first, room="a")
        router.root = include([route("chat", third)])
        self.assertRoutes(router, message("chat", path="/chat/a"), third)

    def test_what_is_remembered_is_bounded(self) -> None:
        router = Router([route("chat", first, path="^/")])
        for number in range(3 * MOST_PATHS):
            self.assertRoutes(router, message("chat", path=f"/{number}"), first)
        self.assertRoutes(router, message("chat", path="/" * (LONGEST_PATH + 1)), first)
        self.assertLessEqual(len(router._found["chat"]), MOST_PATHS)
        self.assertLessEqual(max(map(len, router._found["chat"])), LONGEST_PATH)

    def test_filters_on_other_keys_are_tried_each_time(self) -> None:
        router = Router([route("chat", first, path="^/a", method="^GET$"), route("chat", second, path="")])
        self.assertRoutes(router, message("chat", path="/a", method="GET"), first)
        self.assertRoutes(router, message("chat", path="/a", method="POST"), second)

    def test_add_route_takes_includes_and_foreign_objects(self) -> None:
        router = Router([])
        router.add_route(include([route("chat", first)], path="^/a"))
        router.add_route(Foreign("chat", result=(second, {})))
        self.assertRoutes(router, message("chat", path="/a"), first)
        self.assertRoutes(router, message("chat", path="/b"), second)

    def test_add_route_refuses_what_is_no_route(self) -> None:
        router = Router({"chat": first})
        self.assertRefused(lambda: router.add_route(first), "route()")
        self.assertRoutes(router, message("chat"), first)

    def test_the_message_is_never_copied(self) -> None:
        class Uncopyable(Message):
            def copy(self) -> Message:
                raise AssertionError("copied")

            def __deepcopy__(self, memo: Any) -> Message:
                raise AssertionError("copied")

        router = Router([include([route("chat", first, path="^/b")], path="^/a")])
        self.assertRoutes(router, Uncopyable({"path": "/a/b"}, "chat", LAYER), first)


class SlashTests(RoutingTestCase):
    """Patterns of paths that match none."""

    def test_slashless(self) -> None:
        """Only those that must begin with something else than a slash, in the first pattern that looks at the path."""
        wrong = ["^chat/$", "ws/(?P<room>[a-z]+)/$"]
        right = ["", "^", "/a/$", "^/a/$", r"\A/a", "^(?:/app)?/a", "a?/b", "a|/b", "^[^/]*/x", "(?i)/x", ".*"]
        routes = [route("websocket.connect", first, path=pattern) for pattern in wrong + right]
        own = [route("own", first, path="^x"), include([route("websocket.receive", first, path="^x")], path="^/y/")]
        self.assertEqual(Router(routes + own).slashless(), wrong)
        self.assertEqual(Router([include(routes, path="^app/")]).slashless(), ["^app/"])


class DefaultTests(RoutingTestCase):
    def test_default_routes(self) -> None:
        router = Router([])
        router.check_default(http_consumer=first)
        self.assertRoutes(router, message("http.request"), first)
        self.assertRoutes(router, message("websocket.connect"), connect_consumer)
        for channel in ("websocket.receive", "websocket.disconnect", "http.disconnect"):
            self.assertRoutes(router, message(channel), null_consumer)

    def test_http_requests_go_to_django_by_default(self) -> None:
        router = Router([])
        router.check_default()
        consumer, kwargs = router.match(message("http.request", path="/", method="GET"))
        self.assertIsInstance(consumer, ViewConsumer)
        self.assertEqual(kwargs, {})

    def test_http_consumer_may_be_a_dotted_name(self) -> None:
        router = Router([])
        router.check_default("tests.test_routing.first")
        self.assertRoutes(router, message("http.request"), first)

    def test_the_applications_own_routes_come_first(self) -> None:
        router = Router([route("websocket.connect", second, path="^/a"), route("websocket.receive", third)])
        router.check_default(first)
        self.assertRoutes(router, message("websocket.connect", path="/a"), second)
        self.assertRoutes(router, message("websocket.connect", path="/b"), connect_consumer)
        self.assertRoutes(router, message("websocket.receive"), third)

    def test_the_default_consumers_do_nothing_and_take_any_arguments(self) -> None:
        layer = InMemoryChannelLayer()
        one = Message({"reply_channel": "websocket.send.a!1"}, "websocket.connect", layer)
        self.assertIsNone(connect_consumer(one, room="a"))
        self.assertIsNone(null_consumer(one, room="a"))
        self.assertEqual(layer.receive(["websocket.send.a!"]), (None, None))
