"""Every code block of README and documentation does what it says, as far as that can be tried.

Blocks that are files are written into a project, section after section of a page; commands are run there, or, if they
would not come back, their options are read. :mod:`tests.docs` says how a page tells what is what. A block that nothing
here understands is an error.
"""

from __future__ import annotations

import configparser
import doctest
import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.options import resolve
from channelserver.start.cli import COMMANDS
from channelserver.start.parser import Options
from tests import preloaded
from tests.docs import PAGES, ROOT, Block, blocks, is_python
from tests.process import ServerTestCase, project
from tests.redis_server import RedisServer

#: The project of a page that does not make its own.
SKELETON = project("docs")

#: Pages whose first commands make the project, and pages about a project that is there.
BEGIN_WITH_NOTHING = ("docs/first-chat.rst", "docs/tutorial.rst")
BEGIN_WITH = {
    "examples/answers/README.rst": ("examples/answers", "answers.settings"),
    "examples/chat/README.rst": ("examples/chat", "chatsite.settings"),
}

#: Renders a template.
RENDER = """
from django.template import Context, Engine
Engine(libraries={{"static": "django.templatetags.static"}}).from_string({!r}).render(Context())
"""

#: Commands of ``manage.py`` that come back by themselves.
QUICK = ("check", "collectstatic", "makemigrations", "migrate", "startapp", "test")

#: Programs of others, with what is looked at.
FOREIGN = {
    "apt": "nothing: it would change the machine",
    "chown": "nothing: it would change the machine",
    "curl": "nothing: no server runs",
    "docker": "nothing: it is not at hand",
    "echo": "nothing: it only writes into the next command",
    "certbot": "nothing: it would ask for a certificate",
    "gunicorn": "nothing: tests.sites.test_gunicorn runs the line",
    "chmod": "nothing: it would change the machine",
    "install": "nothing: it would change the machine",
    "journalctl": "nothing: no unit runs",
    "cp": "that its files are in the checkout",
    "pre-commit": "nothing: it would change how git commits",
    "scp": "nothing: there is no other machine",
    "systemctl": "that the units are in the checkout",
    "tox": "that the environments exist",
    "twine": "nothing: it would upload",
    "useradd": "nothing: it would change the machine",
}


class PageTestCase(ServerTestCase):
    """A page, tried out in a project of its own."""

    timeout = 300

    def setUp(self) -> None:
        super().setUp()
        for name in ("settings.py", "routing.py", "urls.py", "manage.py"):
            (self.folder / name).unlink()
        self.modules: list[str] = []
        self.code: list[tuple[str, int, str]] = []
        self.changed = False
        self.settings = "mysite.settings"

    def try_page(self, page: Path) -> int:
        """Try all blocks of a page; return how many there were."""
        found = list(blocks(page))
        name = found[0].page
        if name in BEGIN_WITH:
            folder, self.settings = BEGIN_WITH[name]
            shutil.copytree(ROOT / folder, self.folder, ignore=shutil.ignore_patterns("data"), dirs_exist_ok=True)
        elif name not in BEGIN_WITH_NOTHING:
            self.write(SKELETON)
        section = 0
        for block in found:
            if block.section != section:
                self.end_section()
                section = block.section
            try:
                self.try_block(block)
            except Exception as error:
                raise AssertionError(f"{block}: {error}\n\n{block.text}") from error
        self.end_section()
        return len(found)

    def try_block(self, block: Block) -> None:
        """Try one block, or keep it for the end of the section."""
        kind, _, argument = block.marker.partition(" ")
        if kind == "configuration":
            # tests.test_proxies and tests.test_redis_proxy read it from the page and run it.
            self.assertIn(f'"{argument}"', (ROOT / "tests" / "test_proxies.py").read_text())
        elif kind == "syntax":
            compile(block.text, str(block), "exec")
        elif kind == "braces":
            self.assertEqual(block.text.count("{"), block.text.count("}"))
        elif block.language == "literalinclude":
            self.assertTrue((ROOT / block.page).parent.joinpath(block.text).is_file())
        elif block.language == "javascript":
            # Run in a browser.
            self.assertTrue((ROOT / "browser_tests" / "test_docs.py").is_file())
        elif block.language == "html+django":
            # Shown to a browser, too.
            self.code.append((str(block), block.line, RENDER.format(block.text)))
        elif block.file[0]:
            self.write_block(block)
        elif block.text.startswith("#!/bin/sh"):
            self.run_command(["sh", "-n"], block.text)
        elif block.language == "ini":
            configparser.ConfigParser(strict=False, interpolation=None).read_string("[Service]\n" + block.text)
        elif block.language == "python":
            self.code.append((str(block), block.line, block.text))
        elif block.language == "text":
            # A picture of the code: it names folders that are there.
            for name in re.findall(r"^ *(\w[\w/]*)/ ", block.text, re.MULTILINE):
                self.assertTrue(list((ROOT / "channelserver").rglob(name)), name)
        elif block.language == "":
            self.try_literal(block)
        else:
            raise AssertionError(f"no way is known to try {block.language!r}")

    def try_literal(self, block: Block) -> None:
        """Try a block after ``::``: commands, Python, or paragraphs of both."""
        if is_python(block.text):
            self.code.append((str(block), block.line, block.text))
            return
        if block.text.startswith("{"):
            json.loads(block.text)
            return
        if block.text.startswith("ACL "):
            redis = RedisServer()
            self.addCleanup(redis.remove)
            answer = redis.command(*block.text.replace("\\\n", " ").split())
            self.assertIn(b"OK", answer)
            return
        line = block.line
        for paragraph in block.text.split("\n\n"):
            if is_python(paragraph):
                self.code.append((str(block), line, paragraph))
            elif paragraph.startswith(">>>"):
                examples = doctest.DocTestParser().get_examples(paragraph)
                self.code.append((str(block), line, "".join(example.source for example in examples)))
            else:
                self.end_section()
                for command in re.split(r"\n|&&| [|] ", paragraph.replace("\\\n", " ").strip()):
                    self.try_command(shlex.split(command, comments=True))
            line += paragraph.count("\n") + 2

    # -- files and code ------------------------------------------------------------------------------------------------

    def write_block(self, block: Block) -> None:
        """Write a file of the project; settings are added to those that are there."""
        name, how = block.file
        name = name if "/" in name else f"mysite/{name}"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        before = path.read_text() if path.exists() else ""
        if "at the top" in how:
            path.write_text(block.text + before)
        elif "in part" in how or name.endswith("settings.py"):
            path.write_text(before + "\n" + block.text)
        else:
            path.write_text(block.text)
        self.changed = True
        if name.endswith(".py") and not name.endswith(("settings.py", "tests.py", "models.py")):
            self.modules.append(name.removesuffix(".py").replace("/", "."))

    def end_section(self) -> None:
        """Try what the section has written."""
        if self.changed or self.code:
            (self.folder / "section.json").write_text(json.dumps({"modules": self.modules, "code": self.code}))
            self.run_script(project("programs")["try_section.py"])
        self.modules, self.code, self.changed = [], [], False

    # -- commands ------------------------------------------------------------------------------------------------------

    def run_command(self, words: list[str], given: str = "") -> str:
        """Run a program in the project's folder; it must succeed."""
        environment = {**self.environment, "DJANGO_SETTINGS_MODULE": self.settings}
        if given:
            done = subprocess.run(
                words, cwd=self.folder, env=environment, input=given, capture_output=True, text=True, timeout=240
            )
        else:
            done = preloaded.run(words, self.folder, environment, 240)
        if done.returncode:
            raise AssertionError(f"{shlex.join(words)[:200]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def run_script(self, text: str, *arguments: str) -> None:
        """Run a program in the project's folder; it must succeed."""
        (self.folder / "try_it.py").write_text(text)
        self.run_command([sys.executable, "try_it.py", *arguments])

    def try_command(self, words: list[str]) -> None:
        """Run a command line, or read its options."""
        while re.match(r"[A-Z_]+=", words[0]):  # a variable for the command
            words = words[1:]
        program = words[0].rpartition("/")[2]
        method = getattr(self, "try_" + program.replace("-", "_"), None)
        if method is not None:
            method(words[1:])
        elif program not in FOREIGN:
            raise AssertionError(f"no way is known to try the command {program!r}")

    def try_cd(self, words: list[str]) -> None:
        self.folder = self.folder / words[0]
        self.assertTrue(self.folder.is_dir())

    def try_django_admin(self, words: list[str]) -> None:
        self.run_command([sys.executable, "-m", "django", *words])
        # The settings of the page name a routing before the page writes one.
        self.write({f"{words[1]}/{words[1]}/routing.py": SKELETON["mysite/routing.py"]})

    def try_python(self, words: list[str]) -> None:
        if words == ["-m", "build"]:  # installed by the page
            return
        if words[:2] == ["-m", "benchmarks"]:
            self.try_python3(words)
            return
        if words[0] == "crowd.py":  # asks a running server; tests.test_example has one
            self.assertTrue((self.folder / words[0]).is_file())
            return
        self.assertEqual(words[0], "manage.py")
        if words[1] in QUICK:
            output = self.run_command([sys.executable, *words])
            if words[1] == "test":
                self.assertRegex(output, r"\nRan [1-9]\d* tests? in")
        else:
            if words[1:3] == ["shell", "-c"]:
                compile(words[3], "shell", "exec")
            code = (
                "import sys, django; django.setup()\n"
                "from django.core.management import get_commands, load_command_class\n"
                "app = get_commands()[sys.argv[1]]\n"
                "load_command_class(app, sys.argv[1]).create_parser('manage.py', sys.argv[1]).parse_args(sys.argv[2:])"
            )
            self.run_script(code, *words[1:])

    def try_mysite(self, words: list[str]) -> None:
        """A packed site; tests.test_pack has one."""
        if words[:1] not in (["migrate"], ["check-site"]):
            Options().parseOptions(words)

    def try_python3(self, words: list[str]) -> None:
        if words[:2] == ["-m", "benchmarks"]:
            told = subprocess.run(
                [sys.executable, "-m", "benchmarks", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
            for word in words[2:]:
                if word.startswith("-"):
                    self.assertIn(f"{word} ", told)
        else:
            self.assertEqual(words[:2], ["-m", "venv"])

    def try_pip(self, words: list[str]) -> None:
        extras = configparser.ConfigParser()
        extras.read(ROOT / "setup.cfg")
        for named in re.findall(r"\[(.*?)\]", " ".join(words)):
            for extra in named.split(","):
                self.assertIn(extra, extras["options.extras_require"])

    def try_runuser(self, words: list[str]) -> None:
        if "manage.py" in words[-2]:
            self.try_command(["python", "manage.py", *words[-1:]])

    def try_ddtrace_run(self, words: list[str]) -> None:
        self.try_command(words)

    def try_opentelemetry_instrument(self, words: list[str]) -> None:
        self.try_command(words)

    def try_newrelic_admin(self, words: list[str]) -> None:
        self.assertEqual(words[0], "run-program")
        self.try_command(words[1:])

    def try_trial(self, words: list[str]) -> None:
        self.assertIn(words, (["tests"], ["-j4", "tests"]))

    def try_run(self, words: list[str]) -> None:
        self.assertEqual(words, [])
        self.assertTrue(os.access(ROOT / ".ci" / "run", os.X_OK))

    def try_git(self, words: list[str]) -> None:
        self.assertIn(words[0], ("clone", "commit", "push", "tag"))
        if words[0] == "clone" and not words[-1].startswith("/"):
            self.folder = self.folder / "checkout"  # so that what is made beside it is in the test's own folder
            self.folder.mkdir()
            (self.folder / words[-1]).mkdir()

    def try_tox(self, words: list[str]) -> None:
        environments = (ROOT / "tox.ini").read_text()
        self.assertIn(f"[testenv:{words[words.index('-e') + 1]}]", environments)

    def try_cp(self, words: list[str]) -> None:
        for pattern in words[:-1]:
            if pattern.startswith(("/", "-")):  # of a machine, not of the checkout
                continue
            self.assertTrue(glob.glob(pattern, root_dir=ROOT), pattern)

    def try_systemctl(self, words: list[str]) -> None:
        for word in words[1:]:
            if not word.startswith("-"):
                self.assertTrue((ROOT / "examples" / "deploy" / word).is_file(), word)

    def try_twistd(self, words: list[str]) -> None:
        split = words.index("channelserver")
        self.assertLessEqual(set(words[:split]), {"-n"})
        self.try_channelserver(["serve", *words[split + 1 :]])

    def try_channelserver(self, words: list[str]) -> None:
        name, *rest = words
        self.assertIn(name, COMMANDS)
        if name in ("send", "work"):
            self.try_python(["manage.py", {"work": "runworker"}.get(name, name), *rest])
        if name not in ("serve", "demo", "check"):
            return
        options = Options()
        options.parseOptions(rest)
        given = options.given()
        resolve(given, {})
        if name == "serve" and given in ({}, {"settings": self.settings}) and (self.folder / "manage.py").exists():
            self.run_command(self.command("serve", *rest, "--check"))


def _test_of(page: Path) -> Any:
    def test(self: PageTestCase) -> None:
        self.try_page(page)

    test.__doc__ = f"The blocks of {page.relative_to(ROOT)}."
    return test


class DocsTests(PageTestCase):
    """Each page that has blocks."""


for _page in PAGES:
    if any(True for _ in blocks(_page)):
        _name = str(_page.relative_to(ROOT).with_suffix("")).replace("/", "_").replace("-", "_").lower()
        setattr(DocsTests, f"test_{_name}", _test_of(_page))


class ReadmeTests(SynchronousTestCase):
    """The README as PyPI shows it, where no other file of the checkout is."""

    def test_addresses(self) -> None:
        """Every address of the project names a file of the checkout, or a page; no other link is relative."""
        text = (ROOT / "README.rst").read_text()
        project = "channelserver/channelserver"
        files = re.findall(rf"https://(?:raw\.githubusercontent|github)\.com/{project}/(?:blob/)?main/(\S+)", text)
        pages = re.findall(r"https://channelserver\.readthedocs\.io/en/latest/(\S+)\.html", text)
        self.assertGreater(min(len(files), len(pages)), 3)
        for path in (*files, *(f"docs/{page}.rst" for page in pages)):
            self.assertTrue((ROOT / path).is_file(), path)
        targets = re.findall(r"^\.\. (?:_[^:]+:|image::) (\S+)", text, re.MULTILINE) + re.findall(r"<(\S+)>`_", text)
        self.assertEqual([target for target in targets if not target.startswith("https://")], [])

    def test_figures(self) -> None:
        """Its figures are those of the page about performance, rounded to two digits."""
        results = (ROOT / "docs/performance-results.txt").read_text()
        row = re.search(r"Django's default middleware\n((?:     - .*\n)+)", results)
        assert row is not None
        ours, _, gunicorn, uvicorn, daphne = (int(figure) for figure in re.findall(r"- (\d+)", row[1]))
        found = re.findall(r"- about (\d+)", (ROOT / "README.rst").read_text())
        self.assertEqual(found, [f"{float(f'{figure:.2g}'):.0f}" for figure in (ours, daphne, uvicorn, gunicorn)])


class ReaderTests(PageTestCase):
    """The reading of pages itself: what is wrong is found."""

    def page(self, text: str) -> Path:
        path = self.folder / "page.rst"
        path.write_text(text)
        return path

    def test_all_forms_are_found(self) -> None:
        """With their languages, lines, sections and marks."""
        page = self.page(
            "Title\n=====\n\nText::\n\n    a = 1\n\n    b = 2\n\nMore\n----\n\n"
            ".. test: syntax\n\n.. code-block:: python\n"
            "   :caption: a/b.py (in part)\n\n   return\n\n* Item::\n\n      cmd\n\n.. test: run\n\n   x = 1\n\n"
            ".. literalinclude:: ../f\n   :language: ini\n\n::\n\n    # c.py\n    pass\n"
        )
        found = list(blocks(page))
        self.assertEqual(
            [(block.language, block.line, block.section, block.marker, block.file) for block in found],
            [
                ("", 6, 1, "", ("", "")),
                ("python", 18, 2, "syntax", ("a/b.py", "in part")),
                ("", 22, 2, "", ("", "")),
                ("python", 26, 2, "run", ("", "")),
                ("literalinclude", 30, 2, "", ("", "")),
                ("", 33, 2, "", ("c.py", "")),
            ],
        )
        self.assertEqual([found[0].text, found[3].text], ["a = 1\n\nb = 2\n", "x = 1\n"])

    def test_what_is_wrong_is_found(self) -> None:
        """Each of these pages fails, and the error says where or why."""
        python = ".. code-block:: python\n\n   "
        for text, words in (
            (python + "import no_such_module", "no_such_module"),
            (python + "1 / 0", "page.rst:3"),
            (python + "# chat/consumers.py\n   import no_such_module", "no_such_module"),
            (python + 'CHANNELSERVER = {"prot": 80}', "'prot'"),
            (".. test: syntax\n\n" + python + "def", "invalid syntax"),
            (".. test: braces\n\n::\n\n    site {", "1 != 0"),
            ("::\n\n    unknown --option", "no way is known to try the command 'unknown'"),
            ("::\n\n    python manage.py migrate --nothing", "--nothing"),
            ("::\n\n    python manage.py runserver --nothing", "--nothing"),
            ("::\n\n    pip install channelserver[nothing]", "nothing"),
            ("::\n\n    cp examples/nothing /tmp", "examples/nothing"),
            ("::\n\n    systemctl start nothing.service", "nothing.service"),
            (".. literalinclude:: nothing.ini", ""),
            (".. code-block:: cobol\n\n    STOP RUN", "'cobol'"),
        ):
            with self.subTest(text):
                self.changed, self.code, self.modules = False, [], []
                with self.assertRaisesRegex(AssertionError, f"(?s){words}"):
                    self.try_page(self.page(text + "\n"))

    def test_wrong_options_of_the_server_are_found(self) -> None:
        for command in ("channelserver --nothing", "channelserver --port many", "--nothing channelserver"):
            with self.assertRaises((SystemExit, Exception)):
                self.try_command(["twistd", "-n", *command.split()])
