"""Runs a section of a page: the project must be in order, its new modules import, the pieces of code run."""

import importlib
import json
import sys
import warnings
from pathlib import Path

import django
from django.core.management import call_command
from django.test import override_settings

from channelserver.asgi import channel_layers
from channelserver.server.common.options import resolve
from channelserver.test.layer import captive_layers

warnings.simplefilter("error")
sys.path.insert(0, "")
django.setup()
work = json.loads(Path("section.json").read_text())
call_command("check")
for module in work["modules"]:
    importlib.import_module(module)
namespace = {"__name__": "__main__"}
if work["code"]:
    call_command("migrate", run_syncdb=True, verbosity=0)
    with captive_layers(["default"]):
        for page, line, text in work["code"]:
            exec(compile("\n" * (line - 1) + text, page, "exec"), namespace)
if "CHANNEL_LAYERS" in namespace:
    with override_settings(CHANNEL_LAYERS=namespace["CHANNEL_LAYERS"]):
        for alias in channel_layers.configs:
            channel_layers.make_backend(alias)
if "CHANNELSERVER" in namespace:
    resolve({}, namespace["CHANNELSERVER"])
