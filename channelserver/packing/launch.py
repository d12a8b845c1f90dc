"""The main function of a packed site: serves, or runs a command.

Runs in the main thread, on the machine where the file is. Owns the lock on the unpacked folder.

Without an argument, or with options, the file serves; any other word is one of Django's commands.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from channelserver.packing.data import VARIABLE

#: Words that make no sense here, and what to do instead.
REFUSED = {
    "runserver": "it is for development; run the file without a command to serve",
    "pack": "pack the project again where its sources are",
    "collectstatic": "the static files were collected when the site was packed",
    "makemigrations": "write migrations where the sources are, then pack again",
    "startapp": "write code where the sources are, then pack again",
    "startproject": "write code where the sources are, then pack again",
    "test": "run the tests where the sources are",
}
#: The server's commands, which work whether or not it is among the installed applications. ``check`` is Django's.
SERVER = {"check-site": "check", "work": "work", "runworker": "work", "send": "send"}
SETTINGS = "channelserver_packed"


def main() -> None:
    """Run the command line of the file."""
    packed = Path(os.environ["PACKED_SITE"])
    file = Path(os.environ["PACKED_FILE"])
    about = json.loads((packed / "about.json").read_text())
    name, prefix = about["name"], about["prefix"]
    _hold(packed, file)
    _read_environment(file.with_name(f"{name}.env"))
    state = (os.environ.get("STATE_DIRECTORY") or "").split(":")[0]
    data = os.environ.get(f"{prefix}_DATA") or os.environ.get(VARIABLE) or state or str(file.with_name(f"{name}-data"))
    os.environ[VARIABLE] = os.path.abspath(data)
    os.environ["DJANGO_SETTINGS_MODULE"] = SETTINGS
    if not about["local_socket"]:
        os.environ.setdefault("CHANNELSERVER_LOCAL_SOCKET", os.path.join(os.environ[VARIABLE], "channelserver.sock"))
    arguments = sys.argv[1:]
    sys.argv[0] = name
    word = arguments[0] if arguments else ""
    if word in ("--version", "version"):
        print(_version(about))
    elif word == "--sbom":
        print("\n".join(f"{package} {version}" for package, version in about["packages"]))
    elif word in ("-h", "--help", "help") and len(arguments) == 1:
        print(_help(about))
    elif word == "unpack":
        _unpack(packed, arguments[1:], name)
    else:
        _with_data(name, prefix)
        _clean(packed, name)
        if not word or word.startswith("-"):
            _serve(arguments)
        elif word == "serve":
            _serve(arguments[1:])
        elif word == "install":
            from channelserver.packing.install import install

            install(about, file, arguments[1:])
        elif word in REFUSED:
            _die(name, f"{word} is not for a packed site: {REFUSED[word]}")
        elif word in SERVER:
            from channelserver.start.cli import main as command

            command([SERVER[word], *arguments[1:]])
        else:
            from django.core.management import execute_from_command_line

            execute_from_command_line([name, *arguments])


def _die(name: str, sentence: str) -> NoReturn:
    sys.stderr.write(f"{name}: {sentence}\n")
    raise SystemExit(1)


def _with_data(name: str, prefix: str) -> None:
    """Make the data folder.

    A problem ends the process with a sentence.
    """
    folder = os.environ[VARIABLE]
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        probe = os.path.join(folder, f".probe-{os.getpid()}")
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(probe)
    except OSError as error:
        _die(
            name,
            f"the site's data cannot be written to {folder!r} ({error.strerror}); set {prefix}_DATA to another folder",
        )


def _read_environment(path: Path) -> None:
    """Read ``mysite.env``: lines of KEY=value; what the environment has already stays."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        _die(path.stem, f"{path} cannot be read ({getattr(error, 'strerror', None) or 'it is not in UTF-8'})")
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, separator, value = line.removeprefix("export ").partition("=")
        if not separator or not key.strip().isidentifier():
            _die(path.stem, f"{path}, line {number}, is not KEY=value: {line[:60]!r}")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        os.environ.setdefault(key.strip(), value)


# -- serve -------------------------------------------------------------------------------------------------------------


def _serve(arguments: Sequence[str]) -> None:
    from channelserver.start.cli import main as command

    arguments = list(arguments)
    if "--migrate" in arguments:
        arguments.remove("--migrate")
        _migrate()
    command(["serve", *arguments])  # which says what is not applied


def _migrate() -> None:
    import django
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    with open(os.path.join(os.environ[VARIABLE], ".migrate.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes that start together
        call_command("migrate", interactive=False, verbosity=1)
    connections.close_all()


# -- the unpacked folders ----------------------------------------------------------------------------------------------


def _hold(packed: Path, file: Path) -> None:
    """Hold a lock on the folder for as long as this process lives: nobody removes it meanwhile."""
    descriptor = os.open(packed, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not (packed / ".complete").exists() and file.is_file():  # somebody removed it just before
        os.execv("/bin/sh", ["/bin/sh", str(file), *sys.argv[1:]])


def _clean(packed: Path, name: str) -> None:
    """Remove versions that nobody runs but for the newest, and copies whose unpacking was cut off."""
    place = packed.parent
    if not packed.name.startswith(f"{name}-"):
        return  # made by "unpack"
    old: list[tuple[float, Path]] = []
    try:
        for path in place.iterdir():
            if path.name.startswith(f".{name}-") and path.is_dir() and _is_left(path.name):
                _remove(path)
            elif path != packed and _is_version(path, name):
                if (path / ".complete").exists():
                    old.append((path.stat().st_mtime, path))
                else:  # its removal was cut off
                    _remove(path)
    except OSError:
        return
    for _, path in sorted(old)[:-1]:
        _remove(path)


def _is_version(path: Path, name: str) -> bool:
    rest = path.name.removeprefix(f"{name}-")
    return rest != path.name and len(rest) == 16 and path.is_dir() and path.stat().st_uid == os.geteuid()


def _is_left(name: str) -> bool:
    """Whether the process that was unpacking into a folder has ended."""
    with suppress(ValueError, IndexError):
        try:
            os.kill(int(name.split(".")[2]), 0)
        except OSError as error:
            return error.errno == errno.ESRCH
    return False


def _remove(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(OSError):
                (path / ".complete").unlink()  # a start that finds it half removed must not take it
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _unpack(packed: Path, arguments: Sequence[str], name: str) -> None:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        _die(name, f"write {name} unpack FOLDER")
    target = Path(arguments[0]).resolve()
    if target.exists() and any(target.iterdir()):
        _die(name, f"{str(target)!r} is not empty; name a new folder")
    shutil.copytree(packed, target, dirs_exist_ok=True)
    script = target / "bin" / name
    script.parent.mkdir(exist_ok=True)
    script.write_text(
        "#!/bin/sh\n"
        'here=$(readlink -f -- "$0")\nhere=${here%/bin/*}\n'
        'export PACKED_SITE="$here" PACKED_FILE="$here/bin/${0##*/}"\n'
        "unset PYTHONPATH PYTHONSTARTUP PYTHONUSERBASE PYTHONPLATLIBDIR\n"
        'exec "$here/python/bin/python" -sP -m channelserver.packing.launch "$@"\n'
    )
    script.chmod(0o755)
    print(f"unpacked; run {script}")


# -- texts -------------------------------------------------------------------------------------------------------------


def _version(about: dict[str, Any]) -> str:
    versions = about["versions"]
    return (
        f"{about['name']} {about['version'] or about['hash']} (channelserver {versions['channelserver']}, "
        f"Django {versions['django']}, Python {versions['python']}, needs glibc {about['glibc']} or later)"
    )


def _help(about: dict[str, Any]) -> str:
    name, prefix = about["name"], about["prefix"]
    return f"""{_version(about)}

  ./{name}                    serve; options as for channelserver serve, see ./{name} serve --help
  ./{name} --migrate          apply migrations first
  ./{name} migrate            any command of the project; ./{name} help --commands lists them
  ./{name} check-site         what would fail in production
  ./{name} work               run consumers in a process beside the server
  ./{name} send NAME JSON     send a message through the running server
  ./{name} install            print units for systemd; with --write, as root, install them
  ./{name} unpack FOLDER      unpack, for a read-only disk
  ./{name} --version | --sbom

The site writes to {os.environ[VARIABLE]}.
Variables: {prefix}_HOSTS (names of the site, with commas), {prefix}_DEBUG, {prefix}_DATA, PACKED_DIR (where to unpack).
They can stand in {name}.env beside the file, as KEY=value."""


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # ./mysite --sbom | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(1) from None
