"""``manage.py send``: send a message from a shell or a cron job.

Runs in the main thread.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management import BaseCommand, CommandError

from channelserver.asgi import InvalidChannelLayerError, channel_layers
from channelserver.channel import Channel, Group
from channelserver.layers import ChannelFull, DeliveryUnknown, MessageTooLarge
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER

#: Exit codes: the message was not sent; the arguments are wrong (as for a wrong option); the channel is full; nobody
#: knows whether it was sent.
NOT_SENT, WRONG, FULL, UNKNOWN = 1, 2, 3, 4


class Command(BaseCommand):
    """Sends one message to a channel or a group."""

    help = (
        "Sends one message to a channel, or with --group to all members of a group, through the running server. "
        "Exit codes: 0 sent; 1 not sent, for example because no server is running; 2 invalid name or message; "
        "3 the channel is full; 4 the server did not answer, so the message may have arrived."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("name", metavar="NAME", help="The channel's name; with --group, the group's.")
        parser.add_argument(
            "message",
            metavar="JSON",
            help='The message, a JSON object such as \'{"text": "hello"}\'; - reads it from stdin.',
        )
        parser.add_argument("--group", action="store_true", help="NAME is the name of a group.")
        parser.add_argument(
            "--layer", default=DEFAULT_CHANNEL_LAYER, help="Alias in CHANNEL_LAYERS. Default: %(default)s."
        )

    def handle(self, *args: Any, name: str, message: str, group: bool, layer: str, **options: Any) -> None:
        content = _parse(sys.stdin.read() if message == "-" else message)
        if layer not in channel_layers:
            known = ", ".join(channel_layers.configs)
            raise CommandError(f"--layer {layer!r} is not in CHANNEL_LAYERS; there is {known}", returncode=WRONG)
        try:
            (Group if group else Channel)(name, alias=layer).send(content, immediately=True)
        except DeliveryUnknown as error:
            raise CommandError(f"perhaps not sent: {error}", returncode=UNKNOWN) from error
        except ChannelFull as error:
            raise CommandError(f"not sent: {error}", returncode=FULL) from error
        except (TypeError, MessageTooLarge) as error:
            raise CommandError(f"not sent: {error}", returncode=WRONG) from error
        except (OSError, ValueError, InvalidChannelLayerError) as error:
            raise CommandError(f"not sent: {error}", returncode=NOT_SENT) from error
        if options["verbosity"] > 1:
            self.stdout.write(f"sent to {'group' if group else 'channel'} {name!r}")


def _parse(text: str) -> dict[str, Any]:
    """Return the message in `text`.

    :raises CommandError: it is not a JSON object.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise CommandError(
            f'the message is not JSON: {error}; write for example \'{{"text": "hello"}}\', in quotes', returncode=WRONG
        ) from error
    if not isinstance(content, dict):
        raise CommandError(
            f'the message must be a JSON object, such as \'{{"text": "hello"}}\', not {text.strip()[:60]!r}',
            returncode=WRONG,
        )
    return content
