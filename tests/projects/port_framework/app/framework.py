"""What a package for Channels 1.0 added to its bindings: one group for each action, subscriptions, replies."""

import json

from channels import Group
from channels.binding.base import CREATE, DELETE, BindingMetaclass
from channels.binding.websockets import WebsocketBinding
from channels.log import setup_logger
from channels.utils import name_that_thing

logger = setup_logger("app.framework")
resources = {}


class ResourceMetaclass(BindingMetaclass):
    def __new__(mcs, name, bases, body):
        resource = super().__new__(mcs, name, bases, body)
        if body.get("model") is not None:
            resources[resource.stream] = resource
            logger.info("resource %s", name_that_thing(resource))
        return resource


class ResourceBinding(WebsocketBinding, metaclass=ResourceMetaclass):
    model = None

    @classmethod
    def group_names(cls, instance, action):
        names = [f"{cls.stream}-{action}"]
        if instance.pk is not None:
            names.append(f"{cls.stream}-{action}-{instance.pk}")
        return names

    @classmethod
    def pre_change_receiver(cls, instance, action):
        if not hasattr(instance, "_binding_group_names"):
            instance._binding_group_names = {}
        instance._binding_group_names[cls] = set() if action == CREATE else set(cls.group_names(instance, action))

    @classmethod
    def post_change_receiver(cls, instance, action, **kwargs):
        names = instance._binding_group_names[cls] if action == DELETE else set(cls.group_names(instance, action))
        self = cls()
        self.instance = instance
        self.send_messages(instance, names, action, **kwargs)

    def has_permission(self, user, action, pk):
        return True

    def deserialize(self, message):
        body = json.loads(message["text"])
        self.request_id = body.get("request_id")
        return body["action"], body.get("pk"), body.get("data")

    def run_action(self, action, pk, data):
        if action == "subscribe":
            Group("{}-{}".format(self.stream, data["action"])).add(self.message.reply_channel)
            self.reply(action, data, 200)
        elif action == "list":
            names = list(self.model.objects.order_by("pk").values_list("name", flat=True))
            self.reply(action, names, 200)
        else:
            super().run_action(action, pk, data)
            self.reply(action, None, 201 if action == "create" else 200)

    def reply(self, action, data, status):
        payload = {"action": action, "data": data, "response_status": status, "request_id": self.request_id}
        self.message.reply_channel.send(self.encode(self.stream, payload))
