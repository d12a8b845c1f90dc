"""The folder with certificates, private keys and accounts, laid out as Caddy's (certmagic).

Runs in the reactor thread (the first look before the reactor); owns the files.

Under the folder, ``CA`` being made of the URL of the authority's directory:

``certificates/CA/NAME/NAME.crt``, ``.key``, ``.json``
    the certificate and its chain, its private key, and what is known of both: names, order, tries, window for renewal.
``acme/CA/users/EMAIL/USER.json``, ``.key``
    the account and its private key.
``acme/CA/demands.json``
    when certificates were last ordered on demand.
``locks/NAME.lock``
    held (``flock``) by the process that orders.

Folders have mode 0700, files 0600. A file is written aside, synced and renamed. A new key and certificate are first
written as ``NAME.key.next`` and ``NAME.crt.next``; whoever reads the folder after a crash between their two renames
finds the pair that fits, and completes them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import josepy
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from channelserver.server.acme.challenges import key_pem
from channelserver.server.common.state import state_folder

#: Certificates in a chain, each of which every handshake sends.
_LONGEST_CHAIN = 10
#: Characters of a file's name before it is cut short.
_LONGEST = 200


class StoreError(Exception):
    """The folder cannot be used; the text names the file, the reason and the cure."""


@dataclass(frozen=True)
class Pair:
    """A certificate with its key.

    :param key: PEM.
    :param chain: PEM: the certificate, then those that lead to a root.
    :param serial: the ID of the certificate: its issuer's key and its serial number (RFC 9773 section 4.1).
    :param begins: POSIX time from which it is valid.
    :param ends: when it expires.
    """

    key: bytes
    chain: bytes
    serial: str
    begins: float
    ends: float


def read_pair(key: bytes, chain: bytes, names: Sequence[str]) -> Pair:
    """Return a certificate with its key.

    :param names: that the certificate must be for.
    :raises ValueError: they do not fit; the text says why.
    """
    try:
        certificates = x509.load_pem_x509_certificates(chain)
        certificate = certificates[0]
        private: Any = serialization.load_pem_private_key(key, None)
        fits = certificate.public_key() == private.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("a certificate or its private key is not in PEM form") from error
    if not fits:
        raise ValueError("the private key does not belong to the certificate")
    if len(certificates) > _LONGEST_CHAIN:
        raise ValueError(f"its chain has {len(certificates)} certificates")
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        covered = set(extension.value.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        covered = set()
    missing = [name for name in names if name not in covered]
    if missing:
        raise ValueError(f"the certificate is not for {', '.join(missing)}")
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return Pair(key, chain, _certificate_id(certificate), begins, ends)


def _certificate_id(certificate: x509.Certificate) -> str:
    number = certificate.serial_number
    serial = josepy.b64encode(number.to_bytes(number.bit_length() // 8 + 1, "big")).decode()
    try:
        extension: Any = certificate.extensions.get_extension_for_oid(ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
        issuer = josepy.b64encode(extension.value.key_identifier or b"").decode()
    except x509.ExtensionNotFound:
        issuer = ""
    return f"{issuer}.{serial}"


class Store:
    """The files of one certificate authority.

    :param folder: made, when there is something to store, if it is missing.
    :param directory_url: of the authority.
    :raises StoreError: the folder cannot be used.
    """

    def __init__(self, folder: str, directory_url: str) -> None:
        self.folder = Path(folder)
        self.directory_url = directory_url
        self._authority = authority_of(directory_url)
        self._certificates = self.folder / "certificates" / self._authority
        for path in (self._certificates, self.folder / "locks"):
            self._examine(path)

    # -- certificates --------------------------------------------------------------------------------------------------

    def load(self, names: Sequence[str]) -> Pair | None:
        """Return the stored certificate for `names`; None: there is none that can be used.

        :raises StoreError: others may read the key, or a file or the folder is not ours.
        """
        base = self._base(names)
        self._examine(base.parent)
        key, chain = base.with_name(base.name + ".key"), base.with_name(base.name + ".crt")
        choices = [(key, chain), (_next(key), _next(chain)), (key, _next(chain))]
        for number, (key_file, chain_file) in enumerate(choices):
            found_key, found_chain = self._read(key_file, secret=True), self._read(chain_file)
            if found_key is None or found_chain is None:
                continue
            try:
                pair = read_pair(found_key, found_chain, names)
            except ValueError:
                continue
            if number:  # a crash came between two renames
                with suppress(StoreError, OSError), self.lock(names) as alone:
                    if alone:
                        self.save(names, pair)
            return pair
        return None

    def save(self, names: Sequence[str], pair: Pair) -> None:
        """Store a certificate and its key in place of the old ones."""
        base = self._base(names)
        key, chain = base.with_name(base.name + ".key"), base.with_name(base.name + ".crt")
        self._write(_next(key), pair.key)
        self._write(_next(chain), pair.chain)
        os.rename(_next(key), key)
        os.rename(_next(chain), chain)
        _sync(base.parent)

    def pending_key(self, names: Sequence[str], new: bool) -> ec.EllipticCurvePrivateKey:
        """Return the key of the certificate that is being ordered.

        :param new: make one, for a new order.
        """
        base = self._base(names)
        return self._key(_next(base.with_name(base.name + ".key")), new)

    def get_pending_key(self, names: Sequence[str]) -> bytes | None:
        """Return the key of the certificate that is being ordered, as PEM; None: there is none."""
        base = self._base(names)
        return self._read(_next(base.with_name(base.name + ".key")), secret=True)

    def put_pending_key(self, names: Sequence[str], key: bytes) -> None:
        """Store the key of an order that another host has begun."""
        base = self._base(names)
        self._write(_next(base.with_name(base.name + ".key")), key)

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """Return what was kept about a certificate by :meth:`keep`."""
        found = self._json(names).get("channelserver")
        return found if isinstance(found, dict) else {}

    def keep(self, names: Sequence[str], record: dict[str, Any]) -> None:
        """Keep what is known about a certificate; other programs' entries in the file stay."""
        base = self._base(names)
        content = {**self._json(names), "sans": list(names), "channelserver": record}
        self._write(base.with_name(base.name + ".json"), json.dumps(content, indent="\t").encode())

    def _json(self, names: Sequence[str]) -> dict[str, Any]:
        base = self._base(names)
        try:
            found = json.loads(self._read(base.with_name(base.name + ".json")) or b"{}")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @contextmanager
    def lock(self, names: Sequence[str]) -> Iterator[bool]:
        """Keep other processes of this machine from ordering the same certificate; yields whether none does."""
        self._make_folder(self.folder / "locks")
        path = self.folder / "locks" / f"{_safe(','.join(sorted(names)))}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unusable("cannot be opened", path, error) from error
        try:
            os.fchmod(descriptor, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    # -- the account ---------------------------------------------------------------------------------------------------

    def account(self, email: str | None) -> tuple[ec.EllipticCurvePrivateKey, str]:
        """Return the account's key, made if there is none, and the account's URL; empty: not known.

        :raises StoreError: others may read the key, or the file is not ours.
        """
        base = self._user(email)
        try:
            url = json.loads(self._read(base.with_name(base.name + ".json")) or b"{}").get("location", "")
        except (ValueError, AttributeError, RecursionError):
            url = ""
        key_file = base.with_name(base.name + ".key")
        before = self._read(key_file, secret=True)
        key = self._key(key_file, before is None)
        # An account has one key: with a new one, in place of a broken one, too, it is another account.
        known = self._read(key_file, secret=True) == before and isinstance(url, str) and url.startswith("https://")
        return key, url if known else ""

    def check_account(self, email: str | None) -> None:
        """Check that the account's key, if there is one, is ours alone.

        :raises StoreError: it is not.
        """
        base = self._user(email)
        self._read(base.with_name(base.name + ".key"), secret=True)

    def put_account(self, email: str | None, key: bytes, url: str) -> None:
        """Store the account of another host."""
        base = self._user(email)
        if self._read(base.with_name(base.name + ".key"), secret=True) != key:
            self._write(base.with_name(base.name + ".key"), key)
        self.keep_account(email, url)

    def keep_account(self, email: str | None, url: str) -> None:
        """Keep the URL of the account."""
        base = self._user(email)
        contact = [f"mailto:{email}"] if email else []
        content = {"status": "valid", "contact": contact, "location": url}
        self._write(base.with_name(base.name + ".json"), json.dumps(content, indent="\t").encode())

    # -- on demand -----------------------------------------------------------------------------------------------------

    def demands(self) -> list[float]:
        """Return when certificates were last ordered for names that are not configured (POSIX times)."""
        try:
            found = json.loads(self._read(self._demands) or b"[]")
        except (ValueError, RecursionError):
            return []
        return [when for when in found if isinstance(when, float)] if isinstance(found, list) else []

    def keep_demands(self, times: Sequence[float]) -> None:
        """Keep these times."""
        self._write(self._demands, json.dumps(times).encode())

    # -- files ---------------------------------------------------------------------------------------------------------

    @property
    def _demands(self) -> Path:
        return self.folder / "acme" / self._authority / "demands.json"

    def _base(self, names: Sequence[str]) -> Path:
        name = _safe(",".join(sorted(names)))
        return self._certificates / name / name

    def _user(self, email: str | None) -> Path:
        folder = self.folder / "acme" / self._authority / "users" / _safe(email or "default")
        return folder / _safe((email or "default").partition("@")[0])

    def _key(self, path: Path, new: bool) -> ec.EllipticCurvePrivateKey:
        found = None if new else self._read(path, secret=True)
        if found is not None:
            with suppress(ValueError, TypeError):
                key = serialization.load_pem_private_key(found, None)
                if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
                    return key
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(path, key_pem(key))
        return key

    def _make_folder(self, path: Path) -> None:
        """Make a folder below ours, ours included, and check that it is nobody else's."""
        if not path.is_dir():
            for each in self._way(path):
                try:
                    with suppress(FileExistsError):
                        each.mkdir(mode=0o700, parents=True)
                        os.chmod(each, 0o700)  # a umask may have taken rights
                except OSError as error:
                    raise _unusable("cannot be made", each, error) from error
        self._examine(path)

    def _way(self, path: Path) -> Iterator[Path]:
        """Yield our folder, and those below it that lead to `path`."""
        inside = path.relative_to(self.folder)
        yield self.folder
        yield from (self.folder / part for part in [*reversed(inside.parents[:-1]), inside])

    def _examine(self, path: Path) -> None:
        """Check the folders that lead to `path`, as far as they are there; write nothing.

        :raises StoreError: one cannot be used.
        """
        for each in self._way(path):
            try:
                found = each.stat()
                if not stat.S_ISDIR(found.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, "it is not a folder")
            except FileNotFoundError:
                above = next(parent for parent in each.parents if parent.exists())
                if not os.access(above, os.W_OK | os.X_OK):
                    raise StoreError(
                        f"the folder {str(each)!r} for certificates cannot be made, because {str(above)!r} cannot be "
                        "written; name another with --acme-store"
                    ) from None
                return
            except OSError as error:
                raise _unusable("cannot be used", each, error) from error
            _check_owner(each, found)
            if stat.S_IMODE(found.st_mode) & 0o022:
                raise StoreError(
                    f"others may write to the folder {str(each)!r} of the certificates (--acme-store); "
                    "run chmod 700 on it"
                )
            if not os.access(each, os.W_OK | os.X_OK):
                raise StoreError(
                    f"the folder {str(each)!r} of the certificates cannot be written; name another with --acme-store"
                )

    def _read(self, path: Path, secret: bool = False) -> bytes | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # which does not wait for a pipe
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable("cannot be read", path, error) from error
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            os.close(descriptor)
            raise _unusable("cannot be read", path, IsADirectoryError(errno.EISDIR, "it is a folder"))
        with open(descriptor, "rb") as stream:
            _check_owner(path, found)
            if secret and stat.S_IMODE(found.st_mode) & 0o077:
                raise StoreError(
                    f"the private key {str(path)!r} has mode {stat.S_IMODE(found.st_mode):04o}, so others may use it; "
                    "run chmod 600 on it"
                )
            try:
                return stream.read()
            except OSError as error:
                raise _unusable("cannot be read", path, error) from error

    def _write(self, path: Path, data: bytes) -> None:
        self._make_folder(path.parent)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as stream:
                os.fchmod(descriptor, 0o600)
                stream.write(data)
                stream.flush()
                os.fsync(descriptor)
            os.rename(aside, path)
            _sync(path.parent)
            _clean(path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(aside)
            raise _unusable("cannot be written", path, error) from error


def authority_of(directory_url: str) -> str:
    """Return the name of the folder for an authority."""
    parts = urlsplit(directory_url)
    return _safe(parts.netloc + parts.path.replace("/", "-"))


def default_folder(environment: Any) -> str:
    """Return where certificates are stored unless ``--acme-store`` says so.

    :param environment: the variables of the process.
    """
    return os.path.join(state_folder(environment), "certificates")


def _next(path: Path) -> Path:
    return path.with_name(path.name + ".next")


def _safe(text: str) -> str:
    """Return `text` as the name of a file, as certmagic writes it."""
    text = text.lower().strip().replace(" ", "_").replace("+", "_plus_").replace("*", "wildcard_").replace(":", "-")
    kept = "".join(letter for letter in text.replace("..", "") if letter.isalnum() or letter in "-_.@,")
    if len(kept) > _LONGEST:
        kept = kept[: _LONGEST - 33] + "-" + hashlib.sha256(kept.encode()).hexdigest()[:32]
    return kept


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise StoreError(
            f"{str(path)!r} belongs to user {found.st_uid}, and the server runs as {os.geteuid()}; run chown on the "
            "folder of the certificates (--acme-store), or name another"
        )


def _unusable(what: str, path: Path, error: OSError) -> StoreError:
    reason = (error.strerror or str(error)).lower()
    return StoreError(f"{str(path)!r}, where certificates are stored, {what}: {reason}; see --acme-store")


def _clean(path: Path) -> None:
    """Remove what processes that were killed have left aside."""
    for left in path.parent.glob(f".{path.name}.*"):
        number = left.name.rpartition(".")[2]
        if number.isdecimal() and not Path("/proc", number).exists():
            left.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
