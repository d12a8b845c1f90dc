"""The names of Channels 1, served by this package.

Each test is a small program run in a process of its own, as the names would otherwise stay for all later tests.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap

from twisted.trial.unittest import TestCase

from tests.process import TIMEOUT

CHECKOUT = pathlib.Path(__file__).parent.parent

SETTINGS = """
    import channelserver.compat
    SECRET_KEY = "only for tests"
    INSTALLED_APPS = ["channels"]
    DATABASES = {}
"""


class CompatTests(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, path: str, text: str = "") -> None:
        """Write a module into the folder in which the programs run."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def program(self, text: str, settings: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program in the folder, with warnings as errors."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DJANGO_")}
        environment["PYTHONPATH"] = os.pathsep.join([str(self.folder), str(CHECKOUT)])
        if settings:
            environment["DJANGO_SETTINGS_MODULE"] = settings
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(text)],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False,
        )  # fmt: skip

    def assertRuns(self, text: str, settings: str = "") -> str:
        """Assert that a program ends without error; return what it has printed."""
        done = self.program(text, settings)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stderr)
        return done.stdout

    def assertFails(self, text: str, error: str, *words: str) -> None:
        """Assert that a program ends with an error of that name, with all of `words` in its text."""
        done = self.program(text)
        self.assertEqual(done.returncode, 1, done.stderr)
        last = done.stderr.strip().splitlines()[-1]
        self.assertTrue(last.startswith(error + ":"), done.stderr)
        for word in words:
            self.assertIn(word, last)

    def test_modules_are_the_same_objects(self) -> None:
        self.assertRuns(
            """
            import channelserver.compat
            import channels, channels.sessions, channels.routing
            import channelserver.sessions, channelserver.routing, channelserver.exceptions
            from channels import exceptions
            from channels.sessions import channel_session
            assert channels is channelserver
            assert channels.sessions is channelserver.sessions
            assert exceptions is channelserver.exceptions
            assert channel_session is channelserver.sessions.channel_session
            """
        )

    def test_it_does_not_matter_which_name_is_imported_first(self) -> None:
        self.assertRuns(
            """
            import channelserver.compat, sys
            import channels.layers.memory
            import channelserver.layers.memory
            assert sys.modules["channels.layers.memory"] is sys.modules["channelserver.layers.memory"]
            assert sys.modules["channels.layers"] is sys.modules["channelserver.layers"]
            """
        )

    def test_the_exports_of_channels_are_there(self) -> None:
        self.assertRuns(
            """
            import channelserver.compat
            from channels import DEFAULT_CHANNEL_LAYER, Channel, Group, channel_layers, include, route, route_class
            from channels.asgi import get_channel_layer
            from channelserver.channel import Group as OurGroup
            assert Group is OurGroup
            """
        )

    def test_the_modules_keep_the_names_and_specs_of_their_own(self) -> None:
        self.assertRuns(
            """
            import channelserver.compat, importlib
            for name in ("", ".sessions", ".layers", ".layers.memory"):
                module = importlib.import_module("channels" + name)
                ours = "channelserver" + name
                assert module.__name__ == module.__spec__.name == ours, module.__spec__
                package = ours if hasattr(module, "__path__") else ours.rpartition(".")[0]
                assert module.__package__ == module.__spec__.parent == package
                assert module.__loader__ is module.__spec__.loader
                assert type(module.__loader__).__module__ != "channelserver.compat"
                assert not module.__spec__._initializing
            """
        )

    def test_relative_imports_inside_of_an_aliased_package_still_work(self) -> None:
        self.assertRuns(
            """
            import channelserver.compat, channels.layers, importlib
            names = importlib.import_module(".names", channels.layers.__package__)
            assert names.__name__ == "channelserver.layers.names"
            """
        )

    def test_a_name_that_nothing_here_stands_for_is_not_found(self) -> None:
        for name in ("channels.nothing", "channels.nothing.deeper", "channels.layers.nothing"):
            missing = name.removesuffix(".deeper")
            self.assertFails(
                f"import channelserver.compat, {name}", "ModuleNotFoundError", f"No module named '{missing}'"
            )
        self.assertFails(
            "import channelserver.compat, channels.routing.x", "ModuleNotFoundError", "'channels.routing.x'", "package"
        )

    def test_a_missing_name_in_a_module_is_an_import_error(self) -> None:
        self.assertFails("import channelserver.compat\nfrom channels import nothing", "ImportError", "nothing")

    def test_other_names_that_begin_alike_are_left_alone(self) -> None:
        self.write("channels_plus.py", "a = 1")
        self.assertRuns("import channelserver.compat, channels_plus\nassert channels_plus.a == 1")

    def test_the_three_modules_of_asgiref_1(self) -> None:
        self.assertRuns(
            """
            import channelserver.compat
            import asgiref.inmemory, asgiref
            from asgiref.base_layer import BaseChannelLayer
            from asgiref.conformance import ConformanceTestCase
            from channelserver import layers
            assert asgiref.inmemory.ChannelLayer is layers.InMemoryChannelLayer
            assert BaseChannelLayer is layers.BaseChannelLayer
            assert ConformanceTestCase is layers.ConformanceTestCase
            """
        )

    def test_the_ready_layer_of_asgiref_1_is_made_once_when_asked_for(self) -> None:
        self.assertRuns(
            """
            import channelserver.compat
            import asgiref.inmemory
            assert "channel_layer" not in vars(asgiref.inmemory)
            from asgiref.inmemory import channel_layer
            assert isinstance(channel_layer, asgiref.inmemory.ChannelLayer)
            assert asgiref.inmemory.channel_layer is channel_layer
            assert not hasattr(asgiref.inmemory, "nothing")
            """
        )

    def test_the_rest_of_asgiref_stays_as_it_is(self) -> None:
        self.assertRuns(
            """
            import channelserver.compat
            import asgiref.sync, asgiref.local, asgiref.inmemory
            from pathlib import Path
            assert asgiref.sync.async_to_sync
            ours = str(Path(channelserver.__file__).parent)
            assert not asgiref.__file__.startswith(ours) and not asgiref.sync.__file__.startswith(ours)
            """
        )
        self.assertFails("import channelserver.compat, asgiref.nothing", "ModuleNotFoundError", "'asgiref.nothing'")

    def test_asgi_redis(self) -> None:
        self.assertRuns(
            """
            import sys
            import channelserver.compat, channelserver.layers
            assert "txredisapi" not in sys.modules and "twisted.internet" not in sys.modules
            from asgi_redis import RedisChannelLayer, RedisLocalChannelLayer, RedisSentinelChannelLayer
            assert RedisChannelLayer is RedisLocalChannelLayer is channelserver.layers.RedisChannelLayer
            assert RedisSentinelChannelLayer is channelserver.layers.RedisSentinelChannelLayer
            """
        )

    def test_needs_no_settings(self) -> None:
        printed = self.assertRuns(
            """
            import channelserver.compat, sys
            print(sorted(name for name in sys.modules if name.partition(".")[0] in ("django", "twisted")))
            """
        )
        self.assertEqual(printed.strip(), "[]")

    def test_may_be_imported_twice(self) -> None:
        self.assertRuns(
            """
            import sys
            import channelserver.compat, channels.sessions, asgiref.inmemory
            sessions, layer = channels.sessions, asgiref.inmemory.ChannelLayer
            del sys.modules["channelserver.compat"]
            before = list(sys.meta_path)
            import channelserver.compat
            assert sys.meta_path == before
            del sys.modules["channels.sessions"]
            import channels.sessions
            assert channels.sessions is sessions
            """
        )

    def test_if_the_real_channels_is_imported_already_it_says_so_and_the_cure(self) -> None:
        self.write("channels/__init__.py")
        self.assertFails(
            "import channels\nimport channelserver.compat",
            "ImportError", "'channels'", "already imported", "channels/__init__.py", "first line of the settings",
        )  # fmt: skip

    def test_if_the_real_channels_is_installed_but_not_imported_ours_wins(self) -> None:
        self.write("channels/__init__.py", "Group = 'theirs'")
        self.write("channels/theirs.py")
        self.assertRuns(
            """
            import channelserver.compat, channelserver, channels
            assert channels is channelserver
            """
        )
        self.assertFails("import channelserver.compat, channels.theirs", "ModuleNotFoundError", "'channels.theirs'")

    def install_channels_4(self) -> None:
        """Lay modern Channels beside this package: what of it is seen from outside."""
        self.write("channels/__init__.py", "__version__ = '4.3.2'")
        self.write(
            "channels/apps.py",
            """
            from django.apps import AppConfig
            class ChannelsConfig(AppConfig):
                name = "channels"
            """,
        )
        self.write("channels/layers.py", "class InMemoryChannelLayer: pass")
        self.write("channels/generic/__init__.py")
        self.write("channels/generic/websocket.py", "class AsyncWebsocketConsumer: pass")
        self.write("channels-4.3.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: channels\nVersion: 4.3.2\n")
        self.write("channels-4.3.2.dist-info/top_level.txt", "channels\n")

    def test_beside_channels_4_our_names_win(self) -> None:
        self.install_channels_4()
        self.write("site_settings.py", SETTINGS)
        self.assertRuns(
            """
            import django, importlib.metadata
            django.setup()
            from django.apps import apps
            import channels, channelserver, channels.generic.websockets, channels.layers
            assert importlib.metadata.version("channels") == "4.3.2"
            assert channels is channelserver and channels.layers is channelserver.layers
            assert [config.name for config in apps.get_app_configs()] == ["channelserver"]
            try:
                from channels.generic.websocket import AsyncWebsocketConsumer
            except ImportError as error:
                assert "channels.generic.websocket" in str(error), error
            else:
                raise AssertionError("a mixture of both")
            """,
            settings="site_settings",
        )

    def test_beside_channels_4_without_compat_nothing_of_ours_has_a_foreign_name(self) -> None:
        self.install_channels_4()
        self.write(
            "site_settings.py",
            """
            SECRET_KEY = "only for tests"
            INSTALLED_APPS = [
                "channels", "channelserver", "channelserver.delay", "channelserver.jobs",
                "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.messages",
                "django.contrib.sessions",
            ]
            DATABASES = {}
            """,
        )
        self.assertRuns(
            """
            import django, importlib, os, pkgutil, sys
            django.setup()
            import channelserver
            for module in pkgutil.walk_packages(channelserver.__path__, "channelserver."):
                if module.name.rpartition(".")[2] != "__main__" and module.name != "channelserver.compat":
                    try:
                        importlib.import_module(module.name)
                    except ImportError as error:  # an extra that is not installed
                        assert not (error.name or "").startswith("channels"), error
            import channels.layers
            assert channels.__version__ == "4.3.2" and channels.layers.InMemoryChannelLayer
            home = os.path.dirname(channelserver.__file__)
            for name, module in list(sys.modules.items()):
                if (getattr(module, "__file__", None) or "").startswith(home + os.sep):
                    assert name.partition(".")[0] == "channelserver", name
            for name in ("asgiref.inmemory", "asgiref.base_layer", "asgi_redis"):
                assert importlib.util.find_spec(name) is None, name
            assert not any("channelserver" in type(finder).__module__ for finder in sys.meta_path)
            """,
            settings="site_settings",
        )

    def test_beside_channels_4_imported_before_it_says_so(self) -> None:
        self.install_channels_4()
        self.assertFails(
            "import channels.layers\nimport channelserver.compat",
            "ImportError", "'channels'", "already imported", "uninstall the other package",
        )  # fmt: skip

    def test_the_older_path_of_the_test_package(self) -> None:
        self.write("site_settings.py", SETTINGS)
        self.assertRuns(
            """
            import django
            django.setup()
            import channels.test, channels.tests
            from channels.tests import ChannelTestCase, HttpClient
            from channels.tests.base import Client
            from channels.tests.http import HttpClient as TheSame
            from channels.test.base import ChannelTestCase as TheSameAgain
            assert channels.tests is channels.test and HttpClient is TheSame and ChannelTestCase is TheSameAgain
            """,
            settings="site_settings",
        )

    def test_without_it_foreign_names_are_not_touched(self) -> None:
        self.write("channels/__init__.py", "Group = 'theirs'")
        self.assertRuns("import channelserver.sessions, channels\nassert channels.Group == 'theirs'")

    def test_channels_in_installed_apps_is_this_package(self) -> None:
        self.write("site_settings.py", SETTINGS)
        self.assertRuns(
            """
            import django
            django.setup()
            from django.apps import apps
            config = apps.get_app_config("channelserver")
            assert type(config).__name__ == "ChannelServerConfig", config
            assert config.name == "channelserver"
            assert len(apps.get_app_configs()) == 1
            """,
            settings="site_settings",
        )

    def test_channels_in_installed_apps_brings_the_management_commands(self) -> None:
        self.write("site_settings.py", SETTINGS)
        self.assertRuns(
            """
            import django, importlib, os
            django.setup()
            import channelserver
            from django.core import management
            commands = {name for name, app in management.get_commands().items() if app == "channelserver"}
            folder = os.path.join(os.path.dirname(channelserver.__file__), "management")
            assert "runserver" in commands and commands == set(management.find_commands(folder)), commands
            assert importlib.import_module("channels.management").__name__ == "channelserver.management"
            """,
            settings="site_settings",
        )

    def test_concurrent_first_imports_all_get_the_same_modules(self) -> None:
        self.assertRuns(
            """
            import channelserver.compat, importlib, threading
            names = ["channels.exceptions", "channelserver.exceptions", "channels.signals", "channelserver.signals"]
            start, seen = threading.Barrier(16), []
            def load(name):
                start.wait()
                seen.append((name.rpartition(".")[2], importlib.import_module(name)))
            threads = [threading.Thread(target=load, args=(names[number % 4],)) for number in range(16)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            assert len(seen) == 16 and len({id(module) for last, module in seen}) == 2
            assert all(module.__spec__.name == module.__name__ for last, module in seen)
            """
        )
