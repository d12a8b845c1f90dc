"""Names that frameworks on top of Channels 1, and scripts beside it, import and override."""

from __future__ import annotations

import logging
from functools import partial
from unittest import mock

from channels import channel_layers, include, route
from channels.asgi import ChannelLayerWrapper
from channels.binding.base import CREATE, DELETE, UPDATE, Binding, BindingMetaclass
from channels.binding.websockets import WebsocketBinding
from channels.generic.websockets import WebsocketDemultiplexer
from channels.log import setup_logger
from channels.message import Message
from channels.routing import Router
from channels.test import WSClient, apply_routes
from channels.utils import name_that_thing
from django.contrib.auth.models import Group as AuthGroup

from tests.compat import ChannelCase, by_own_names_too


class FrameworkMetaclass(BindingMetaclass):
    """Notes the bindings of a framework."""

    made = []

    def __new__(mcs, name, bases, body):
        binding = super().__new__(mcs, name, bases, body)
        if body.get("model") is not None:
            mcs.made.append(binding)
        return binding


class FrameworkBinding(WebsocketBinding, metaclass=FrameworkMetaclass):
    """Sends to one group for each action, as frameworks for Channels 1.0 did."""

    model = None
    stream = "framework"
    fields = ["name"]

    @classmethod
    def group_names(cls, instance, action):
        return [f"{cls.model_label}-{action}"]

    @classmethod
    def pre_change_receiver(cls, instance, action):
        if not hasattr(instance, "_binding_group_names"):
            instance._binding_group_names = {}
        instance._binding_group_names[cls] = set() if action == CREATE else set(cls.group_names(instance, action))

    @classmethod
    def post_change_receiver(cls, instance, action, **kwargs):
        self = cls()
        self.instance = instance
        self.send_messages(instance, set(cls.group_names(instance, action)), action, **kwargs)

    def serialize(self, instance, action):
        return {} if instance.name == "silent" else super().serialize(instance, action)

    def has_permission(self, user, action, pk):
        return user.username != "nobody"


class BindingTests(ChannelCase):
    """Bindings."""

    def bound(self, **body):
        binding = type(FrameworkBinding)("GroupBinding", (FrameworkBinding,), {"model": AuthGroup, **body})
        self.addCleanup(binding.unregister)
        return binding

    def received(self, client):
        return [(reply["payload"]["action"], reply["payload"]["data"]) for reply in iter(client.receive, None)]

    def test_metaclass(self) -> None:
        binding = self.bound()
        self.assertIn(binding, FrameworkMetaclass.made)
        self.assertIn(binding, BindingMetaclass.binding_classes)
        self.assertNotIn(FrameworkBinding, FrameworkMetaclass.made)
        self.assertIsInstance(Binding, BindingMetaclass)
        BindingMetaclass.register_all()

    def test_own_receivers_and_groups_by_action(self) -> None:
        binding = self.bound()
        self.assertEqual(binding.model_label, "auth.group")
        client = WSClient()
        for action in (CREATE, UPDATE, DELETE):
            client.join_group(f"auth.group-{action}")
        group = AuthGroup.objects.create(name="ants")
        group.name = "bees"
        group.save()
        AuthGroup.objects.create(name="silent")
        group.delete()
        expected = [("create", {"name": "ants"}), ("update", {"name": "bees"}), ("delete", {"name": "bees"})]
        self.assertEqual(self.received(client), expected)

    def test_groups_by_action_without_own_receivers(self) -> None:
        class ActionBinding(WebsocketBinding):
            model = "auth.Group"
            stream = "actions"
            fields = "__all__"

            @classmethod
            def group_names(cls, instance, action):
                return ["all"] if action == CREATE else ["all", f"auth.group-{action}"]

        self.addCleanup(ActionBinding.unregister)
        client = WSClient()
        client.join_group("all")
        group = AuthGroup.objects.create(name="ants")
        group.delete()
        self.assertEqual([action for action, _ in self.received(client)], ["create", "delete"])

    def test_super_of_the_receivers(self) -> None:
        seen = []

        class SeeingBinding(WebsocketBinding):
            model = AuthGroup
            stream = "seen"
            fields = ["name"]

            @classmethod
            def group_names(cls, instance):
                return [f"group-{instance.name}"]

            @classmethod
            def post_change_receiver(cls, instance, action, **kwargs):
                seen.append((action, kwargs.get("created")))
                super().post_change_receiver(instance, action, **kwargs)

        self.addCleanup(SeeingBinding.unregister)
        client = WSClient()
        client.join_group("group-ants")
        group = AuthGroup.objects.create(name="ants")
        group.save()
        group.delete()
        self.assertEqual(seen, [("create", True), ("update", False), ("delete", None)])
        self.assertEqual([action for action, _ in self.received(client)], ["create", "update", "delete"])

    def test_own_handler(self) -> None:
        seen = []

        class Handled(FrameworkBinding):
            model = AuthGroup

            @classmethod
            def get_handler(cls):
                handler = super().get_handler()

                def noted(message, **kwargs):
                    seen.append(message.channel.name)
                    handler(message, **kwargs)

                return noted

        self.addCleanup(Handled.unregister)

        class Demultiplexer(WebsocketDemultiplexer):
            consumers = {"framework": Handled.consumer}

        with apply_routes([Demultiplexer.as_route()]):
            client = WSClient()
            client.send_and_consume("websocket.connect")
            payload = {"action": "create", "data": {"name": "ants"}}
            client.send_and_consume("websocket.receive", text={"stream": "framework", "payload": payload})
        self.assertEqual(seen, ["websocket.connect", "websocket.receive"])
        self.assertEqual(AuthGroup.objects.get().name, "ants")


class HelperTests(ChannelCase):
    """The rest."""

    def test_name_that_thing(self) -> None:
        self.assertEqual(name_that_thing(Router), f"{Router.__module__}.Router")
        self.assertEqual(name_that_thing(include([])), f"{Router.__module__}.Include")
        self.assertEqual(name_that_thing(Router([]).match), f"{Router.__module__}.Router.match")
        self.assertEqual(name_that_thing(setup_logger), f"{setup_logger.__module__}.setup_logger")
        self.assertEqual(name_that_thing(partial(print)), "functools.partial")
        self.assertTrue(name_that_thing(Binding.consumer).endswith(".base.Binding.consumer"))
        self.assertEqual(name_that_thing(mock.Mock()), "<mock>")

    def test_setup_logger(self) -> None:
        logger = setup_logger("compat.logger", verbosity=2)
        self.assertIs(logger, logging.getLogger("compat.logger"))
        self.assertEqual((logger.level, logger.propagate), (logging.DEBUG, False))
        self.assertEqual(setup_logger("compat.logger").level, logging.INFO)
        self.assertEqual(len(logger.handlers), 1)

    def test_root_of_a_router(self) -> None:
        router = Router([route("first", lambda message: "first")])
        self.assertEqual(router.root.channel_names(), {"first"})
        message = Message({}, "second", None)
        self.assertIsNone(router.root.match(message))
        router.root = include([route("second", lambda message: "second")])
        self.assertEqual(router.match(message)[0](message), "second")
        self.assertEqual(router.channels, {"second"})

    def test_another_layer_of_the_same_kind(self) -> None:
        wrapper = channel_layers.make_backend("default")
        layer = type(wrapper.channel_layer)(expiry=30, capacity=7)
        self.assertEqual((layer.expiry, layer.capacity), (30, 7))
        self.assertEqual(str(ChannelLayerWrapper(layer, "own", [])).split()[0], "own")


by_own_names_too(globals())
