"""Bindings: changes of models go out to groups, and come in from clients."""

from __future__ import annotations

import json
import unittest
from typing import Any
from unittest import mock

from django.apps import apps
from django.contrib.auth.models import Group as AuthGroup
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.db.models import F

from channelserver import Message, route
from channelserver.asgi import channel_layers
from channelserver.binding import Binding, outgoing
from channelserver.binding.websockets import WebsocketBinding, WebsocketBindingWithMembers
from channelserver.generic.websockets import WebsocketDemultiplexer
from channelserver.layers import InMemoryChannelLayer
from channelserver.test import ChannelTestCase, WSClient, apply_routes
from tests import DatabaseTestCase
from tests.lab import LabTestCase
from tests.places.models import Cafe, Landmark, Place, Tag
from tests.process import TIMEOUT, project


class BindingTestCase(ChannelTestCase, DatabaseTestCase):
    """Tests with bindings that end with the test."""

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """See :class:`DatabaseTestCase`: the settings of the class come first, then the layers."""
        return (ChannelTestCase if self._prepared else DatabaseTestCase).run(self, result)

    def bound(self, base: type[Binding] = WebsocketBinding, **attributes: Any) -> Any:
        """Make a binding, by default one that tells a group for the first letter of the name, and everybody."""

        def group_names(cls: Any, instance: Any) -> list[str]:
            return ["everybody", f"letter-{instance.name[0]}"]

        def has_permission(self: Any, user: Any, action: str, pk: Any) -> bool:
            return True

        attributes = {
            "model": AuthGroup,
            "fields": ["name", "permissions"],
            "stream": "groups",
            "channel_session_user": False,
            "group_names": classmethod(group_names),
            "has_permission": has_permission,
            **attributes,
        }
        binding: Any = type("GroupBinding", (base,), attributes)
        self.addCleanup(binding.unregister)
        return binding

    def told(self, group: str = "everybody") -> list[Any]:
        """Return the payloads sent to a group since the last call for it."""
        seen = self._seen.setdefault(group, 0)
        sent = self.sent_to_group(group)
        self._seen[group] = len(sent)
        frames = [json.loads(content["text"]) for content in sent[seen:]]
        self.assertTrue(all(frame["stream"] == "groups" for frame in frames))
        return [frame["payload"] for frame in frames]

    def actions(self, group: str = "everybody") -> list[str]:
        """Return the actions among those."""
        return [payload["action"] for payload in self.told(group)]

    def assertTold(self, wanted: dict[str, list[str]]) -> None:
        """Assert what actions the groups have been told of since the last call."""
        self.assertEqual({group: self.actions(group) for group in wanted}, wanted)

    def setUp(self) -> None:
        super().setUp()
        self._seen: dict[str, int] = {}

    def permissions(self, *names: str) -> list[Permission]:
        """Make permissions."""
        kind, _ = ContentType.objects.get_or_create(app_label="tests", model="thing")
        return [Permission.objects.create(codename=name, name=name, content_type=kind) for name in names]


class OutTests(BindingTestCase):
    """Changes that go out."""

    def test_life(self) -> None:
        """Create, update, delete."""
        self.bound()
        group = AuthGroup.objects.create(name="ants")
        payload = {"pk": group.pk, "data": {"name": "ants", "permissions": []}, "model": "auth.group"}
        self.assertEqual(self.told(), [{**payload, "action": "create"}])
        group.save()
        self.assertEqual(self.told(), [{**payload, "action": "update"}])
        group.delete()
        self.assertEqual(self.told(), [{**payload, "action": "delete"}])

    def test_groups_change(self) -> None:
        """Who sees it no more hears of a deletion, who sees it now of a creation."""
        self.bound()
        AuthGroup.objects.create(name="ants")
        self.assertTold({"everybody": ["create"], "letter-a": ["create"]})
        group = AuthGroup.objects.get(name="ants")
        group.name = "bees"
        group.save()
        self.assertTold({"everybody": ["update"], "letter-a": ["delete"], "letter-b": ["create"]})
        group.name = "changed, but not stored"
        group.delete()
        self.assertTold({"everybody": ["delete"], "letter-b": ["delete"], "letter-c": []})

    def test_on_commit(self) -> None:
        """Sent when the transaction is committed, not at all if it is rolled back; as it was at each change."""
        self.bound()
        with transaction.atomic():
            group = AuthGroup.objects.create(name="ants")
            group.name = "apes"
            group.save()
            self.assertEqual(self.told(), [])
        self.assertEqual([payload["data"]["name"] for payload in self.told()], ["ants", "apes"])
        with self.assertRaises(KeyError), transaction.atomic():
            group.delete()
            raise KeyError
        self.assertEqual(self.told(), [])

    def test_many_to_many(self) -> None:
        """Each way to change a many-to-many field is an update; what changes nothing is none."""
        self.bound()
        one, two, three = self.permissions("one", "two", "three")
        group = AuthGroup.objects.create(name="ants")
        self.told()

        def keys() -> list[list[int]]:
            payloads = self.told()
            self.assertEqual({payload["action"] for payload in payloads}, {"update"} if payloads else set())
            return [payload["data"]["permissions"] for payload in payloads]

        group.permissions.add(one)
        self.assertEqual(keys(), [[one.pk]])
        group.permissions.add(one)
        self.assertEqual(keys(), [])
        group.permissions.set([two, three])
        self.assertEqual(keys()[-1], [two.pk, three.pk])
        group.permissions.remove(two)
        self.assertEqual(keys(), [[three.pk]])
        one.group_set.add(group)
        self.assertEqual(keys(), [[one.pk, three.pk]])
        one.group_set.clear()
        self.assertEqual(keys(), [[three.pk]])
        group.permissions.clear()
        self.assertEqual(keys(), [[]])

    def test_many_to_many_unbound(self) -> None:
        """A field that is not bound changes nothing to tell, but perhaps who is told."""

        def group_names(cls: Any, instance: Any) -> list[str]:
            return ["everybody", *(f"may-{permission.codename}" for permission in instance.permissions.all())]

        self.bound(fields=["name"], group_names=classmethod(group_names))
        one, two = self.permissions("one", "two")
        group = AuthGroup.objects.create(name="ants")
        self.told()
        group.permissions.set([one, two])
        self.assertTold({"everybody": [], "may-one": ["create"], "may-two": ["create"]})
        two.group_set.clear()
        self.assertTold({"everybody": [], "may-one": [], "may-two": ["delete"]})
        group.delete()
        self.assertTold({"everybody": ["delete"], "may-one": ["delete"], "may-two": []})

    def test_values(self) -> None:
        """Values are what Django's serializers write: keys of what is referred to, times in ISO format."""
        kind = ContentType.objects.create(app_label="tests", model="thing")
        self.bound(model=Permission, fields=["__all__"])
        permission = Permission.objects.create(name="may", codename="may", content_type=kind)
        self.assertEqual(self.told()[0]["data"], {"name": "may", "codename": "may", "content_type": kind.pk})
        permission.delete()

        def group_names(cls: Any, instance: Any) -> list[str]:
            return ["users"]

        self.bound(model=User, fields=None, exclude=["password", "groups"], group_names=classmethod(group_names))
        user = User.objects.create_user("ada", password="secret")
        data = self.told("users")[0]["data"]
        self.assertNotIn("password", data)
        self.assertNotIn("groups", data)
        self.assertEqual((data["username"], data["last_login"], data["user_permissions"]), ("ada", None, []))
        self.assertEqual(data["date_joined"][:19], user.date_joined.isoformat()[:19])

    def test_members(self) -> None:
        """``send_members``: attributes of attributes, and results of methods."""
        self.bound(
            WebsocketBindingWithMembers,
            model=Permission,
            fields=["name"],
            send_members=["content_type.app_label", "natural_key", "group_set.count"],
        )
        self.permissions("one")
        self.assertEqual(
            self.told()[0]["data"],
            {
                "name": "one",
                "content_type__app_label": "tests",
                "natural_key": ["one", "tests", "thing"],
                "group_set__count": 0,
            },
        )
        self.bound(WebsocketBindingWithMembers, send_members=["no_such"])
        with self.assertLogs("channelserver.binding", "ERROR") as logged:
            AuthGroup.objects.create(name="ants")
        self.assertIn("no_such", logged.output[0])

    def test_fixtures(self) -> None:
        """What a fixture loads is told to nobody: what it refers to may not be there yet."""
        self.bound()
        AuthGroup(pk=5, name="ants").save_base(raw=True)
        self.assertEqual(self.told(), [])

    def test_in_a_consumer(self) -> None:
        """A change that is made remains when its consumer raises afterwards, and so does the message about it."""
        self.bound()

        def consumer(message: Message) -> None:
            AuthGroup.objects.create(name="ants")
            raise KeyError

        with apply_routes([route("task", consumer)]):
            self.assertRaises(KeyError, WSClient().send_and_consume, "task", {})
        self.assertEqual(self.actions(), ["create"])

    def test_nobody_there(self) -> None:
        """Without a server nobody is told; the change is made all the same, and one warning is logged, not one each."""
        self.bound()
        with mock.patch.object(outgoing.Group, "send", side_effect=ConnectionError("no server")):
            with self.assertLogs("channelserver.binding", "WARNING") as logged:
                for name in ("ants", "apes"):
                    AuthGroup.objects.create(name=name)
                self.told()
        self.assertEqual(len(logged.output), 1)
        self.assertEqual(AuthGroup.objects.count(), 2)
        with mock.patch.object(outgoing.Group, "send", side_effect=KeyError("broken")):
            with self.assertLogs("channelserver.binding", "ERROR"):
                AuthGroup.objects.create(name="bees")
                self.told()


class RowTests(BindingTestCase):
    """What goes out is what the database has, through whichever model it was changed."""

    def setUp(self) -> None:
        super().setUp()
        self.failing: list[str] = []

    def bound_places(self, model: Any = Place, **attributes: Any) -> Any:
        """Bind a model of places; a group for each town, and for each tag."""

        def group_names(cls: Any, instance: Any) -> list[str]:
            if "group_names" in self.failing:
                Place.objects.get(pk="x")
            tags = Tag.objects.filter(place=instance.pk).values_list("name", flat=True)
            return ["everybody", f"town-{instance.town}", *(f"tag-{name}" for name in tags)]

        fields = ["name", "town", "opened", "visits", "sign", "tags"]
        return self.bound(model=model, fields=fields, group_names=classmethod(group_names), **attributes)

    def data(self, group: str = "everybody") -> dict[str, Any]:
        """Return the values in the only payload for a group since the last call."""
        (payload,) = self.told(group)
        data: dict[str, Any] = payload["data"]
        return data

    def test_update_fields(self) -> None:
        """Values that were not saved are not sent, and a move that was not saved is none."""
        self.bound_places()
        place = Place.objects.create(name="bar")
        self.assertTold({"everybody": ["create"], "town-here": ["create"]})
        place.name, place.town, place.visits = "pub", "there", 5
        place.save(update_fields=["visits"])
        self.assertTold({"town-there": []})
        data = self.data("town-here")
        self.assertEqual((data["name"], data["town"], data["visits"]), ("bar", "here", 5))
        self.assertEqual(place.name, "pub")  # the instance itself stays as it is

    def test_values_of_the_database(self) -> None:
        """Expressions, text for a date, generated fields: as stored."""
        self.bound_places()
        place = Place.objects.create(name="bar", opened="2026-03-04", visits="7")
        data = self.data()
        self.assertEqual((data["opened"], data["visits"], data["sign"]), ("2026-03-04", 7, "BAR"))
        place.name, place.visits = "pub", F("visits") + 1
        place.save()
        data = self.data()
        self.assertEqual((data["visits"], data["sign"]), (8, "PUB"))

    def test_attributes(self) -> None:
        """What the application has put on the instance is there for the binding."""

        def serialize_data(self: Any, instance: Any) -> dict[str, Any]:
            return {"by": instance.changed_by}

        self.bound_places(serialize_data=serialize_data)
        place: Any = Place(name="bar")
        place.changed_by = "ada"
        place.save()
        self.assertEqual(self.data(), {"by": "ada"})

    def test_farewell(self) -> None:
        """Those who may no longer see a row get what they could see."""
        self.bound_places()
        place = Place.objects.create(name="bar")
        self.told("town-here")
        place.name, place.town = "secret", "there"
        place.save()
        payloads = [self.told(group)[-1] for group in ("town-here", "town-there")]
        self.assertEqual([payload["action"] for payload in payloads], ["delete", "create"])
        self.assertEqual([payload["data"]["name"] for payload in payloads], ["bar", "secret"])
        place.name = "not stored"
        place.delete()
        self.assertEqual(self.told("town-there")[-1]["data"]["name"], "secret")

    def test_farewell_of_a_relation(self) -> None:
        """The same with a many-to-many field."""
        self.bound_places()
        one, two = (Tag.objects.create(name=name) for name in ("one", "two"))
        place = Place.objects.create(name="bar")
        place.tags.add(one)
        self.told("tag-one")
        place.name = "not stored"
        with transaction.atomic():
            place.tags.set([two])
        payloads = [self.told(group)[-1] for group in ("tag-one", "tag-two", "everybody")]
        self.assertEqual([payload["action"] for payload in payloads], ["delete", "create", "update"])
        self.assertEqual([payload["data"]["tags"] for payload in payloads], [[one.pk], [two.pk], [two.pk]])
        self.assertEqual({payload["data"]["name"] for payload in payloads}, {"bar"})

    def test_proxy(self) -> None:
        """A proxy of a bound model, and a bound proxy."""
        for bound, other in ((Place, Landmark), (Landmark, Place)):
            binding = self.bound_places(bound)
            row: Any = other.objects.create(name="bar")
            row.save()
            row.tags.add(Tag.objects.create(name="one"))
            row.delete()
            self.assertEqual(self.actions(), ["create", "update", "update", "delete"])
            binding.unregister()

    def test_child(self) -> None:
        """A child changes the row of its parent."""
        self.bound_places()
        cafe = Cafe.objects.create(name="bar")
        cafe.name = "pub"
        cafe.save()
        cafe.tags.add(Tag.objects.create(name="one"))
        Cafe.objects.get().delete()
        payloads = self.told()
        self.assertEqual([payload["action"] for payload in payloads], ["create", "update", "update", "delete"])
        self.assertEqual([payload["data"]["name"] for payload in payloads], ["bar", "pub", "pub", "pub"])

    def test_parent(self) -> None:
        """A parent changes the row of a bound child, if there is one."""
        self.bound_places(Cafe)
        cafe = Cafe.objects.create(name="bar")
        plain = Place.objects.create(name="hut")
        plain.tags.add(Tag.objects.create(name="none"))
        plain.delete()
        self.assertEqual(self.actions(), ["create"])
        place = Place.objects.get(pk=cafe.pk)
        place.name = "pub"
        place.save()
        self.assertEqual(self.data()["name"], "pub")
        place.tags.add(Tag.objects.create(name="one"))
        place.delete()
        self.assertEqual(self.actions(), ["update", "delete"])

    def test_later_model(self) -> None:
        """A proxy that is made after the binding."""
        self.bound_places()
        meta = type("Meta", (), {"proxy": True})
        later: Any = type("Later", (Place,), {"__module__": Place.__module__, "Meta": meta})
        self.addCleanup(apps.clear_cache)
        self.addCleanup(apps.all_models["places"].pop, "later")
        later.objects.create(name="bar")
        self.assertEqual(self.actions(), ["create"])

    def test_errors(self) -> None:
        """An error in a binding is logged; the change is made, and the transaction goes on."""
        self.bound_places()
        place = Place.objects.create(name="bar")
        self.told()
        self.failing.append("group_names")
        with self.assertLogs("channelserver.binding", "ERROR") as logged, transaction.atomic():
            place.name = "pub"
            place.save()
            place.tags.add(Tag.objects.create(name="one"))
            Place.objects.create(name="hut")
            place.delete()
        self.assertTrue(all("cannot send a change of places.Place" in line for line in logged.output))
        self.assertEqual(self.told(), [])
        self.assertEqual(list(Place.objects.values_list("name", flat=True)), ["hut"])


class DefinitionTests(BindingTestCase):
    """What a binding must say."""

    def test_wrong(self) -> None:
        """What is missing is an error at once, which names it."""
        for attributes, error, text in (
            ({"fields": None}, ValueError, "fields"),
            ({"fields": ["name", "nmae"]}, ValueError, "'nmae'"),
            ({"fields": None, "exclude": ["nmae"]}, ValueError, "'nmae'"),
            ({"model": 7}, TypeError, "7"),
            ({"model": "Group"}, ValueError, "app.Model"),
        ):
            with self.assertRaises(error) as raised:
                type("Wrong", (WebsocketBinding,), {"model": AuthGroup, "fields": ["name"], **attributes})
            self.assertIn(text, str(raised.exception))
        self.bound(stream=None)
        with self.assertLogs("channelserver.binding", "ERROR") as logged:
            AuthGroup.objects.create(name="ants")
        self.assertIn("must name its stream", logged.output[0])

    def test_primary_key(self) -> None:
        """The primary key may be named; it travels beside the data."""
        self.bound(fields=["id", "name"])
        group = AuthGroup.objects.create(name="ants")
        (payload,) = self.told()
        self.assertEqual((payload["pk"], payload["data"]), (group.pk, {"name": "ants"}))

    def test_bases(self) -> None:
        """A binding without a model is a base; a subclass of a binding that names no model is not one more."""
        abstract = type("Base", (WebsocketBinding,), {"stream": "groups"})
        active = self.bound(abstract)
        type("Variant", (active,), {})
        AuthGroup.objects.create(name="ants")
        self.assertEqual(self.actions(), ["create"])

    def test_hooks(self) -> None:
        """What must be overridden says so."""
        binding: Any = Binding()
        for call in (
            lambda: Binding.group_names(None),
            lambda: Binding.encode("stream", None),
            lambda: binding.serialize(None, "create"),
            lambda: binding.deserialize(None),
            lambda: binding.has_permission(None, "create", None),
        ):
            with self.assertRaises(NotImplementedError) as raised:
                call()
            self.assertIn("must define", str(raised.exception))

    def test_own_transport(self) -> None:
        """A transport of one's own; it can see what the signal said."""

        def serialize(self: Any, instance: Any, action: str) -> list[Any]:
            return [action, instance.name, self.signal_kwargs["created"]]

        def encode(cls: Any, stream: str, payload: Any) -> dict[str, Any]:
            return {"text": json.dumps({"stream": stream, "payload": payload})}

        self.bound(Binding, serialize=serialize, encode=classmethod(encode))
        AuthGroup.objects.create(name="ants")
        self.assertEqual(self.told(), [["create", "ants", True]])


class InTests(BindingTestCase):
    """Changes that come in."""

    def setUp(self) -> None:
        super().setUp()
        self.asked: list[Any] = []
        self.may = True

        def has_permission(_: Any, user: Any, action: str, pk: Any) -> bool:
            self.asked.append((str(user), action, pk))
            return self.may

        self.binding = self.bound(has_permission=has_permission)

    def consume(self, payload: Any, binding: Any = None, layer: Any = None) -> None:
        """Have a frame's payload consumed."""
        text = payload if isinstance(payload, str) else json.dumps(payload)
        layer = layer or channel_layers["default"].channel_layer
        content = {"reply_channel": "x!y", "path": "/", "order": 1, "text": text}
        (binding or self.binding).consumer(Message(content, "websocket.receive", layer))

    def assertIgnored(self, payload: Any, *parts: str, binding: Any = None) -> None:
        """Assert that a payload changes nothing, and that one line says why."""
        before = list(AuthGroup.objects.values())
        layer = InMemoryChannelLayer()  # which has logged none before
        with self.assertLogs("channelserver.layers", "WARNING") as logged:
            self.consume(payload, binding, layer)
        self.assertEqual(len(logged.output), 1)
        for part in parts:
            self.assertIn(part, logged.output[0])
        self.assertLess(len(logged.output[0]), 400)
        self.assertEqual(list(AuthGroup.objects.values()), before)

    def test_life(self) -> None:
        """Create, update, delete; the change goes out as any other does."""
        one, two = self.permissions("one", "two")
        self.consume({"action": "create", "data": {"name": "ants", "permissions": [one.pk]}})
        group = AuthGroup.objects.get()
        self.assertEqual((group.name, list(group.permissions.all())), ("ants", [one]))
        self.consume({"action": "update", "pk": group.pk, "data": {"name": "apes"}})
        self.assertEqual(AuthGroup.objects.get().name, "apes")
        self.consume({"action": "update", "pk": group.pk, "data": {"permissions": [two.pk, two.pk]}})
        self.assertEqual(list(group.permissions.all()), [two])
        self.consume({"action": "delete", "pk": group.pk})
        self.assertFalse(AuthGroup.objects.exists())
        self.assertEqual([action for _, action, _ in self.asked], ["create", "update", "update", "delete"])
        actions = self.actions()
        self.assertEqual((actions[0], actions[-1], set(actions[1:-1])), ("create", "delete", {"update"}))

    def test_no_permission(self) -> None:
        """Nothing is done without permission, which is asked for each action and each instance."""
        group = AuthGroup.objects.create(name="ants")
        self.may = False
        self.consume({"action": "create", "data": {"name": "bees"}})
        self.consume({"action": "update", "pk": group.pk, "data": {"name": "bees"}})
        self.consume({"action": "delete", "pk": group.pk})
        self.assertEqual([other.name for other in AuthGroup.objects.all()], ["ants"])
        asked = [
            ("AnonymousUser", "create", None),
            ("AnonymousUser", "update", group.pk),
            ("AnonymousUser", "delete", group.pk),
        ]
        self.assertEqual(self.asked, asked)

    def test_primary_key(self) -> None:
        """A rule sees the primary key as the model has it."""
        group = AuthGroup.objects.create(name="ants")
        self.consume({"action": "update", "pk": str(group.pk), "data": {"name": "apes"}})
        self.consume({"action": "create", "pk": group.pk, "data": {"name": "bees"}})
        self.assertEqual(self.asked, [("AnonymousUser", "update", group.pk), ("AnonymousUser", "create", None)])
        self.assertEqual(AuthGroup.objects.get(pk=group.pk).name, "apes")

    def test_unbound_fields(self) -> None:
        """Fields that are not bound, and primary keys, cannot be set."""
        binding = self.bound(model=Permission, fields=["id", "name"])
        (permission,) = self.permissions("one")
        data = {"name": "renamed", "codename": "hacked", "id": 99, "pk": 99, "no_such": 1}
        self.consume({"action": "update", "pk": permission.pk, "data": data}, binding)
        permission.refresh_from_db()
        self.assertEqual((permission.name, permission.codename), ("renamed", "one"))
        self.assertEqual(Permission.objects.filter(pk=99).count(), 0)

    def test_wrong(self) -> None:
        """What cannot be done is ignored, with one line in the log."""
        group = AuthGroup.objects.create(name="ants")
        AuthGroup.objects.create(name="bees")
        update = {"action": "update", "pk": group.pk}
        for payload, *parts in (
            ("no JSON", "JSON"),
            ("[" * 100_000, "JSON"),
            ([1], "action"),
            ({"pk": 1}, "action"),
            ({"action": "drop"}, "'drop'"),
            ({"action": ["x" * 10_000]}, "'action'"),
            ({"action": "update", "pk": 0, "data": {}}, "primary key 0"),
            ({"action": "update", "pk": "x" * 10_000, "data": {}}, "primary key"),
            ({"action": "update", "pk": 10**30, "data": {}}, "primary key"),
            ({"action": "update", "pk": [1], "data": {}}, "primary key"),
            ({"action": "delete", "pk": None}, "primary key None"),
            ({"action": "delete", "pk": {"a": 1}}, "primary key"),
            (update, "'data'"),
            ({**update, "data": [1]}, "'data'"),
            ({**update, "data": {"name": None}}, "name"),
            ({**update, "data": {"name": ""}}, "name"),
            ({**update, "data": {"name": "x" * 1000}}, "name"),
            ({**update, "data": {"name": "bees"}}, "name", "already exists"),
            ({**update, "data": {"name": "null \0"}}, "'name'", "null"),
            ({**update, "data": {"name": "half \ud800"}}, "surrogates"),
            ({**update, "data": {"permissions": 5}}, "'permissions'"),
            ({**update, "data": {"permissions": [12345]}}, "'permissions'"),
            ({**update, "data": {"permissions": ["x"]}}, "'permissions'"),
            ({**update, "data": {"permissions": [{}]}}, "'permissions'"),
            ({"action": "create", "data": {}}, "name"),
        ):
            self.assertIgnored(payload, *parts)

    def test_references(self) -> None:
        """What an instance refers to must be there."""
        kind = ContentType.objects.create(app_label="tests", model="thing")
        binding = self.bound(model=Permission, fields=["__all__"])
        data = {"name": "may", "codename": "may", "content_type": kind.pk}
        self.consume({"action": "create", "data": data}, binding)
        self.assertEqual(Permission.objects.get(codename="may").content_type, kind)
        for wrong in (kind.pk + 1, None, "x", [1]):
            data = {**data, "content_type": wrong, "codename": "other"}
            self.assertIgnored({"action": "create", "data": data}, "content_type", binding=binding)

    def test_own_validation(self) -> None:
        """``clean`` may be overridden, for example to validate nothing."""
        binding = self.bound(clean=lambda self, instance, exclude: None)
        self.consume({"action": "create", "data": {"name": "x" * 1000}}, binding)
        self.assertTrue(AuthGroup.objects.filter(name="x" * 1000).exists())

    def test_refused_by_the_database(self) -> None:
        """What only the database knows to be wrong."""
        AuthGroup.objects.create(name="ants")
        binding = self.bound(clean=lambda self, instance, exclude: None)
        self.assertIgnored({"action": "create", "data": {"name": "ants"}}, "UNIQUE", binding=binding)

    def test_all_or_nothing(self) -> None:
        """An error half-way leaves nothing behind."""
        with mock.patch("channelserver.binding.fields.Assignment.save_related", side_effect=KeyError):
            self.assertRaises(KeyError, self.consume, {"action": "create", "data": {"name": "ants"}})
        self.assertFalse(AuthGroup.objects.exists())
        self.assertEqual(self.told(), [])

    def test_message_without_text(self) -> None:
        """A payload that is the message itself, as demultiplexers before Channels 1.0 made them."""
        layer = channel_layers["default"].channel_layer
        content = {"reply_channel": "x!y", "action": "create", "data": {"name": "ants"}}
        self.binding.consumer(Message(content, "groups.in", layer))
        self.assertTrue(AuthGroup.objects.filter(name="ants").exists())

    def test_demultiplexer(self) -> None:
        """Behind a demultiplexer, with the user of the session."""
        binding = self.bound(
            channel_session_user=True, has_permission=self.binding.has_permission, strict_ordering=True
        )
        self.binding.unregister()
        attributes = {
            "consumers": {"groups": binding.consumer},
            "http_user": True,
            "connection_groups": lambda self, **kwargs: ["everybody"],
        }
        demultiplexer: Any = type("Streams", (WebsocketDemultiplexer,), attributes)
        User.objects.create_user("ada", password="secret")
        with apply_routes([demultiplexer.as_route()]):
            client = WSClient(ordered=True)
            client.login(username="ada", password="secret")
            client.send_and_consume("websocket.connect", path="/")
            frame = {"stream": "groups", "payload": {"action": "create", "data": {"name": "ants"}}}
            client.send_and_consume("websocket.receive", text=frame, path="/")
            self.assertEqual(self.asked, [("ada", "create", None)])
            received = client.receive()
            self.assertEqual((received["stream"], received["payload"]["action"]), ("groups", "create"))
            client.send_and_consume("websocket.disconnect", path="/")


class ServerTests(LabTestCase):
    """A real server, with real sockets."""

    files = project("binding")
    migrate = True

    def test_between_clients_and_processes(self) -> None:
        """What one client changes, all see; what another process changes as well; what may not be done is not."""
        with self.server.connect("/streams/") as one, self.server.connect("/streams/") as two:

            def told() -> tuple[str, str, Any]:
                frames = [json.loads(socket.recv(TIMEOUT)) for socket in (one, two)]
                self.assertEqual(frames[0], frames[1])
                payload = frames[0]["payload"]
                return payload["action"], payload["data"]["name"], payload["pk"]

            def say(**payload: Any) -> None:
                one.send(json.dumps({"stream": "groups", "payload": payload}))

            say(action="create", data={"name": "ants"})
            action, name, key = told()
            self.assertEqual((action, name), ("create", "ants"))
            say(action="delete", pk=key)
            say(action="update", pk=key, data={"name": "x" * 1000})
            say(action="update", pk=key, data={"name": "apes"})
            self.assertEqual(told(), ("update", "apes", key))
            change = "import routing; from django.contrib.auth.models import Group; Group.objects.all().delete()"
            self.manage("shell", "--no-imports", "-c", change)
            self.assertEqual(told(), ("delete", "apes", key))
        self.assertLogged("a client's message is ignored: name:")
        self.assertNoTraceback()

    def test_no_server(self) -> None:
        """A process changes a model while no server runs."""
        server = self.start()
        server.stop()
        change = (
            "import routing; from django.contrib.auth.models import Group; print(Group.objects.create(name='ants'))"
        )
        said = self.manage("shell", "--no-imports", "-c", change, stderr=True)
        self.assertIn("ants\n", said)
        self.assertIn("cannot send changes of models: no server of this project answers", said)
        self.assertNotIn("Traceback", said)
