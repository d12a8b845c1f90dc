"""The table of the server's options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.option import OptionError
from channelserver.server.common.options import (
    BY_NAME,
    OPTIONS,
    Settings,
    closest,
    default_threads,
    resolve,
    unknown_variables,
)


class TableTests(SynchronousTestCase):
    """What every row of the table must be."""

    def test_names(self) -> None:
        """Names, flags and short flags are different, and names are lower case."""
        for values in (
            [option.name for option in OPTIONS],
            [option.flag for option in OPTIONS],
            [option.short for option in OPTIONS if option.short],
        ):
            self.assertEqual(len(values), len(set(values)))
        for option in OPTIONS:
            self.assertRegex(option.name, r"^[a-z]+(_[a-z]+)*$")
            self.assertIn(option.kind, ("str", "int", "float", "flag", "no-flag"))
            self.assertIs(BY_NAME[option.name], option)

    def test_defaults_are_allowed(self) -> None:
        """Every default is a value which the option could be given."""
        for option in OPTIONS:
            self.assertEqual(option.convert(option.default, option.flag), option.default, option.name)

    def test_helps(self) -> None:
        """Every option has a help; numbers have limits, as far as there are any, the right way round."""
        for option in OPTIONS:
            self.assertTrue(option.help and not option.help.endswith("."), option.name)
            if option.kind in ("int", "float"):
                self.assertIsNotNone(option.low, option.name)
                if option.high is not None:
                    self.assertLess(option.low, option.high)
            self.assertEqual(option.kind == "no-flag", option.default is True, option.name)

    def test_types(self) -> None:
        """The attributes of the values are of the types that their fields declare."""
        values = resolve({}, {})
        types = get_type_hints(Settings)
        self.assertEqual(list(vars(values)), list(types))
        for name, kind in types.items():
            kind = tuple if get_origin(kind) is tuple else kind
            self.assertIsInstance(getattr(values, name), kind, name)
        self.assertEqual([name for name in types if name not in BY_NAME], ["simple_listener"])

    def test_flags(self) -> None:
        """A flag is its name with dashes; what is on by default is switched off with --no-."""
        flags = [BY_NAME[name].flag for name in ("ping_interval", "static", "auto_accept", "demo")]
        self.assertEqual(flags, ["--ping-interval", "--no-static", "--no-auto-accept", "--demo"])

    def test_documented_defaults(self) -> None:
        """The defaults that the documentation promises."""
        values = resolve({}, {})
        for name, default in {
            "port": 8000, "bind": "127.0.0.1", "layer": "default", "max_message_bytes": 1024**2,
            "max_body_bytes": 100 * 1024**2, "send_buffer_bytes": 4 * 1024**2, "header_timeout": 10,
            "body_timeout": 60, "keep_alive": 75, "http_timeout": 120,
            "connect_timeout": 10, "ping_interval": 20, "ping_timeout": 30, "drain_timeout": 30, "static": True,
            "auto_accept": True, "reject_unrouted": False, "allowed_origin": (), "ws_protocol": (), "endpoint": (),
            "root_path": "", "access_log": "-", "log_format": None, "threads": default_threads(),
        }.items():  # fmt: skip
            self.assertEqual((name, getattr(values, name)), (name, default))

    def test_threads(self) -> None:
        """So many threads that cores are busy while some wait, eight at most."""
        for cores, threads in ((None, 4), (1, 4), (2, 6), (3, 8), (64, 8)):
            self.patch(os, "cpu_count", lambda cores=cores: cores)
            self.assertEqual(default_threads(), threads)
            self.assertEqual(resolve({}, {}).threads, threads)
        self.assertEqual(resolve({}, {"threads": 0}).threads, 0)


class ResolveTests(SynchronousTestCase):
    """Where a value comes from."""

    def test_order(self) -> None:
        """A flag beats the setting, which beats the default."""
        self.assertEqual(resolve({}, {}).keep_alive, 75)
        self.assertEqual(resolve({}, {"keep_alive": 5}).keep_alive, 5)
        self.assertEqual(resolve({"keep_alive": "7"}, {"keep_alive": 5}).keep_alive, 7)
        self.assertEqual(resolve({"ws_protocol": ["a"]}, {"ws_protocol": ["b", "c"]}).ws_protocol, ("a",))

    def test_unknown_attribute(self) -> None:
        """What is no option is no attribute."""
        self.assertRaises(AttributeError, getattr, resolve({}, {}), "nonsense")
        self.assertFalse(hasattr(resolve({}, {}), "__wrapped__"))

    def test_simple_listener(self) -> None:
        """The simple listener is wanted if its port or its address was given, wherever."""
        self.assertFalse(resolve({}, {}).simple_listener)
        for command_line, configured in (
            ({"port": "80"}, {}),
            ({"bind": "::"}, {}),
            ({}, {"port": 80}),
            ({}, {"bind": "::"}),
        ):
            self.assertTrue(resolve(command_line, configured).simple_listener)


class EnvironmentTests(SynchronousTestCase):
    """Variables ``CHANNELSERVER_…``."""

    def test_each_option(self) -> None:
        """Every option but actions has a variable, the port a second one."""
        for option in OPTIONS:
            self.assertEqual(option.variables[:1], () if option.action else (f"CHANNELSERVER_{option.name.upper()}",))
        self.assertEqual(BY_NAME["port"].variables, ("CHANNELSERVER_PORT", "PORT"))
        self.assertEqual([option.name for option in OPTIONS if option.action], ["check"])

    def test_order(self) -> None:
        """A flag beats the environment, which beats the setting."""
        environment = {"CHANNELSERVER_KEEP_ALIVE": "6"}
        self.assertEqual(resolve({}, {"keep_alive": 5}, environment).keep_alive, 6)
        self.assertEqual(resolve({"keep_alive": "7"}, {"keep_alive": 5}, environment).keep_alive, 7)

    def test_kinds(self) -> None:
        """Lists have commas, switches are true or false; an empty one counts only where emptiness is a value."""
        values = resolve(
            {},
            {"media": True, "local_socket": "/run/x", "bind": "::"},
            {
                "CHANNELSERVER_TRUST_PROXY": "10.0.0.0/8, unix,", "CHANNELSERVER_STATIC": "no",
                "CHANNELSERVER_REJECT_UNROUTED": "TRUE", "CHANNELSERVER_MAX_BODY_BYTES": "10MB",
                "CHANNELSERVER_HTTP_TIMEOUT": "2m", "CHANNELSERVER_LOCAL_SOCKET": "", "CHANNELSERVER_BIND": "",
                "CHANNELSERVER_MEDIA": "",
            },
        )  # fmt: skip
        self.assertEqual(values.trust_proxy, ("10.0.0.0/8", "unix"))
        self.assertEqual((values.static, values.reject_unrouted, values.media), (False, True, True))
        self.assertEqual((values.max_body_bytes, values.http_timeout), (10_000_000, 120))
        self.assertEqual((values.local_socket, values.bind), ("", "::"))

    def test_port_of_a_platform(self) -> None:
        """``PORT`` is the last word on the port of the default listener, and asks for no listener by itself."""
        self.assertEqual(resolve({}, {}, {"PORT": "5000"}).port, 5000)
        self.assertEqual(resolve({}, {"port": 80}, {"PORT": "5000"}).port, 80)
        self.assertEqual(resolve({}, {}, {"PORT": "5000", "CHANNELSERVER_PORT": "6000"}).port, 6000)
        self.assertFalse(resolve({"endpoint": ["tcp:1"]}, {}, {"PORT": "5000"}).simple_listener)
        self.assertTrue(resolve({"endpoint": ["tcp:1"]}, {}, {"CHANNELSERVER_PORT": "5000"}).simple_listener)
        # Kubernetes, beside a service of that name.
        self.assertEqual(resolve({}, {}, {"CHANNELSERVER_PORT": "tcp://10.0.0.1:80"}).port, 8000)

    def test_errors(self) -> None:
        """They name the variable and the value."""
        for variable, value, words in (
            ("CHANNELSERVER_PORT", "many", "a whole number, not 'many'"), ("PORT", "x", "a whole number, not 'x'"),
            ("CHANNELSERVER_STATIC", "maybe", "true or false, not 'maybe'"),
            ("CHANNELSERVER_TRUST_PROXY", "10.0.0.0/8,x", "a network .*, not 'x'"),
        ):  # fmt: skip
            with self.assertRaisesRegex(OptionError, f"the environment variable {variable} must be {words}"):
                resolve({}, {}, {variable: value})

    def test_misspelt_variables(self) -> None:
        """The log names them and the one that may be meant, but for those of Kubernetes."""
        (line,) = unknown_variables({"CHANNELSERVER_PROT": "1", "CHANNELSERVER_PORT": "1", "PATH": ""})
        self.assertIn("CHANNELSERVER_PROT sets no option; did you mean CHANNELSERVER_PORT?", line)
        self.assertEqual(
            unknown_variables({"CHANNELSERVER_SERVICE_HOST": "", "CHANNELSERVER_PORT_80_TCP_ADDR": ""}), []
        )


class UnitTests(SynchronousTestCase):
    """Sizes and times."""

    def test_units(self) -> None:
        """On the command line and in the settings; sizes in decimal and binary units, as written."""
        for text, size in (
            ("10MB", 10_000_000), ("10 MiB", 10 << 20), ("64k", 64 << 10), ("1.5kB", 1500), ("2G", 2 << 30), ("7", 7),
            ("7b", 7),
        ):  # fmt: skip
            self.assertEqual(resolve({"max_body_bytes": text}, {}).max_body_bytes, size)
            self.assertEqual(resolve({}, {"max_body_bytes": text}).max_body_bytes, size)
        for text, seconds in (("5s", 5), ("2m", 120), ("500ms", 0.5), ("1h", 3600), ("1.5 min", 90), ("1e1", 10)):
            self.assertEqual(resolve({"http_timeout": text}, {}).http_timeout, seconds)

    def test_others(self) -> None:
        """Other units, and units where there is none, are errors that show how to write it."""
        for name, text, example in (
            ("max_body_bytes", "10s", "10MB"), ("http_timeout", "5MB", "500ms"), ("port", "8k", ""),
            ("max_body_bytes", "1.5", ""), ("http_timeout", "5 s s", ""), ("http_timeout", "s", ""),
        ):  # fmt: skip
            with self.assertRaisesRegex(OptionError, f"{example}.*not {text!r}"):
                resolve({name: text}, {})


class ErrorTests(SynchronousTestCase):
    """Wrong values: the error names the option, the value and the cure."""

    def refusal(self, command_line: dict[str, Any], configured: Any = None) -> str:
        """Assert that values are refused; return why, in one line."""
        with self.assertRaises(OptionError) as caught:
            resolve(command_line, {} if configured is None else configured)
        self.assertNotIn("\n", str(caught.exception))
        return str(caught.exception)

    def test_setting_that_is_no_dict(self) -> None:
        """The setting is a dict."""
        for value in ([], "port", 7, [("port", 80)]):
            text = self.refusal({}, value)
            self.assertIn("CHANNELSERVER must be a dict", text)
            self.assertIn(repr(value), text)

    def test_unknown_setting(self) -> None:
        """An unknown setting is named, with the one that may be meant."""
        text = self.refusal({}, {"ping_intervall": 1})
        self.assertIn("CHANNELSERVER['ping_intervall'] is unknown; did you mean 'ping_interval'?", text)
        self.assertIn("'keep_alive'", self.refusal({}, {"keep-alive": 1}))
        self.assertNotIn("did you mean", self.refusal({}, {"qqqqqq": 1}))
        self.assertIn("[7]", self.refusal({}, {7: 1}))

    def test_flags_that_are_no_settings(self) -> None:
        """What tells where the settings are is no setting itself."""
        for name in ("settings", "pythonpath", "demo", "check"):
            text = self.refusal({}, {name: "x"})
            self.assertIn(repr(name), text)
            self.assertIn(BY_NAME[name].flag, text)

    def test_numbers(self) -> None:
        """Numbers are numbers, as text from the command line or as they are; whole ones are whole."""
        for value in ("eight", "", "80.5", 80.5, None, True, [80], "1e400", float("nan"), float("inf"), "0x50"):
            self.assertIn("['port'] must be a whole number", self.refusal({}, {"port": value}))
        for value in ("soon", "", None, False, [1], float("nan"), "nan"):
            self.assertIn("['http_timeout'] must be a number of seconds", self.refusal({}, {"http_timeout": value}))
        values = resolve({"port": "80", "http_timeout": "1.5"}, {"threads": 4.0, "keep_alive": 5})
        self.assertEqual((values.port, values.http_timeout, values.threads, values.keep_alive), (80, 1.5, 4, 5.0))
        self.assertEqual([type(value) for value in (values.port, values.threads, values.keep_alive)], [int, int, float])

    def test_endless_times(self) -> None:
        """A time without end is no number of seconds."""
        for value in ("inf", float("inf"), "-inf", "infinity", "1e400"):
            self.assertIn("--http-timeout", self.refusal({"http_timeout": value}))

    def test_limits(self) -> None:
        """Numbers are within their limits, which the error tells."""
        for name, value, limits in (
            ("port", "65536", "from 0 to 65535"), ("port", -1, "from 0 to 65535"),
            ("threads", 1001, "from 0 to 1000"), ("http_timeout", 0, "from 0.1 up"),
            ("max_message_bytes", 0, "from 1 up"), ("ping_interval", -1, "from 0 up"),
        ):  # fmt: skip
            text = self.refusal({name: value})
            self.assertIn(limits, text)
            self.assertIn(BY_NAME[name].flag, text)
            self.assertIn(repr(value), text)
        values = resolve({}, {"port": 0, "threads": 1000, "max_body_bytes": 0, "ping_interval": 0})
        self.assertEqual((values.port, values.threads, values.max_body_bytes, values.ping_interval), (0, 1000, 0, 0))

    def test_texts(self) -> None:
        """Texts are text or paths."""
        for value in (7, None, b"x", True, ["x"]):
            self.assertIn("['bind'] must be text", self.refusal({}, {"bind": value}))
        self.assertEqual(resolve({}, {"unix_socket": Path("/run/x")}).unix_socket, "/run/x")
        self.assertIsNone(resolve({}, {"unix_socket": None}).unix_socket)

    def test_choices(self) -> None:
        """Where there is a choice, the error tells it."""
        self.assertIn("one of text, json, not 'xml'", self.refusal({"log_format": "xml"}))
        self.assertEqual(resolve({"log_format": "json"}, {}).log_format, "json")

    def test_switches(self) -> None:
        """Switches are True or False."""
        for value in ("yes", 1, None, "False"):
            self.assertIn("['static'] must be True or False", self.refusal({}, {"static": value}))
        self.assertFalse(resolve({"static": False}, {}).static)

    def test_lists(self) -> None:
        """Flags that can be repeated are lists in the settings; a single text is none."""
        for value in ("a", None, {"a"}, 7, {"a": 1}):
            self.assertIn("['ws_protocol'] must be a list", self.refusal({}, {"ws_protocol": value}))
        self.assertIn("must be text", self.refusal({}, {"ws_protocol": ["a", 7]}))
        for value in (["a", "b"], ("a", "b")):
            self.assertEqual(resolve({}, {"ws_protocol": value}).ws_protocol, ("a", "b"))

    def test_closest(self) -> None:
        """The closest name is found, with dashes, too; far ones are not."""
        self.assertEqual((closest("ping-intervall"), closest("prot"), closest("zzzz")), ("ping_interval", "port", ""))
