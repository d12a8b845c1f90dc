"""The certificates of the server's own listeners, as the options ask for them.

Runs before the reactor, and in its thread when the files of ``--tls-cert`` are read again; owns what it puts into the
contexts.

A renewed certificate is read by :meth:`ServerTLS.reload`. Connections keep the context they began with, so none of them
notices.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address

from twisted.logger import Logger

from channelserver.server.common.host_names import certificate_names
from channelserver.server.common.option import OptionError
from channelserver.server.common.options import Settings
from channelserver.server.common.state import state_folder
from channelserver.server.edge.covered_names import expected_names, uncovered
from channelserver.server.tls.contexts import Contexts, Entry
from channelserver.server.tls.pem import check_pair, describe, names_of, read_certificates, read_key
from channelserver.server.tls.self_signed import fingerprint, stored

_log = Logger("channelserver.server.tls")

#: What is spoken over TLS (ALPN), the preferred one first.
PROTOCOLS = b"h2", b"http/1.1"


class ServerTLS:
    """The certificates of the default listener.

    :param files: pairs of paths of PEM files: a certificate, then those that lead to a root; and the private key, None:
        it is in the same file. Clients that ask for an unknown name, or for none, get the first one.
    :param protocols: the ALPN names of what is spoken here (RFC 7301), the preferred one first.
    :param hosts: the names of the site, as Django's ``ALLOWED_HOSTS``.
    :param ordered: the names of ``--https``, whose certificates do not come from files.
    :param now: returns the time.
    :raises OptionError: a file cannot be used; the text says which and why.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, str | None]],
        protocols: tuple[bytes, ...],
        hosts: Sequence[str] = (),
        ordered: Sequence[str] = (),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        # twistd may change the folder.
        self._files = [(os.path.abspath(path), None if key is None else os.path.abspath(key)) for path, key in files]
        self._hosts = hosts
        self._ordered = frozenset(ordered)
        self._now = now
        #: The certificates by name.
        self.contexts = Contexts(protocols, lambda: now().timestamp())
        self._names: list[str] = []
        self._load()

    def reload(self) -> None:
        """Read the files again. If one is invalid, new connections keep the old certificates."""
        if not self._files:
            _log.info("there is no --tls-cert to read again; other certificates are kept up to date without a signal")
            return
        try:
            self._load()
        except OptionError as error:
            _log.error("the new certificate is not used, the old one stays: {error}", error=error)
        else:
            self.announce("certificate read again")

    def announce(self, what: str = "certificate") -> None:
        """Log the names of the certificates, and which hosts they do not cover."""
        if self._files:
            _log.info("{what}: {summary}", what=what, summary=self.summary)
        if self.gap:
            _log.warn("{gap}", gap=self.gap)

    def _load(self) -> None:
        entries: dict[str, Entry] = {}
        certificates = []
        for path, key_path in self._files:
            chain = read_certificates(path, self._now())
            key = read_key(key_path if key_path is not None else path, key_path is None)
            check_pair(chain, key, path, key_path)
            try:
                entry = self.contexts.entry_of(chain, key)
            except ValueError as error:
                raise OptionError(f"--tls-cert {path!r} cannot be used: {error}") from error
            certificates.append(chain[0])
            for name in names_of(chain[0]) or [path]:
                if name.lower() not in self._ordered:
                    entries.setdefault(name.lower(), entry)
        self.contexts.exchange(entries, self._names)
        self._names = list(entries)
        self.summary = "; ".join(describe(certificate) for certificate in certificates)
        missing = uncovered(certificates, self._hosts) if certificates else []
        missing = [name for name in missing if name not in self._ordered]
        whose = "the certificate does" if len(certificates) == 1 else "the certificates do"
        #: A sentence about the hosts that no certificate covers; empty if there are none.
        self.gap = f"{whose} not cover {', '.join(missing)} of ALLOWED_HOSTS" if missing else ""


def server_tls(options: Settings, hosts: Sequence[str] = ()) -> ServerTLS | None:
    """Return what the options ask for, None if they ask for no TLS.

    :param hosts: the names of the site, as Django's ``ALLOWED_HOSTS``.
    :raises OptionError: the options contradict each other, or a file is invalid.
    """
    if options.tls_self_signed:
        return _self_signed_tls(options, hosts)
    if not options.tls_cert:
        for name, flag in (("tls_key", "--tls-key"), ("redirect_http", "--redirect-http")):
            if getattr(options, name):
                raise OptionError(f"{flag} needs --tls-cert, the certificate of the site")
        if not options.https:
            return None
    keys = options.tls_key or (None,) * len(options.tls_cert)
    if len(keys) != len(options.tls_cert):
        raise OptionError(
            f"--tls-cert is given {len(options.tls_cert)} times and --tls-key {len(keys)} times; give one key for each "
            "certificate, or none and put the keys into the files of the certificates"
        )
    ordered = [name for names in certificate_names(options.https) for name in names]
    tls = ServerTLS(tuple(zip(options.tls_cert, keys, strict=True)), PROTOCOLS, hosts, ordered)
    tls.announce()
    return tls


def _self_signed_tls(options: Settings, hosts: Sequence[str]) -> ServerTLS:
    names = ["localhost", "127.0.0.1", "::1", *expected_names(hosts)]
    with contextlib.suppress(ValueError):
        if not ip_address(options.bind).is_unspecified:
            names.append(options.bind)
    names = [name for name in dict.fromkeys(names) if name.isascii()]
    key, certificate, problem = stored(names, state_folder())
    if problem:
        if options.processes > 1:
            raise OptionError(f"--tls-self-signed: {problem}; --processes needs the file, so use one process")
        _log.warn("{problem}, so each start has another certificate", problem=problem)
    tls = ServerTLS((), PROTOCOLS)
    tls.contexts.expect(names, (key, certificate))
    tls.summary = (
        f"self-signed certificate for {', '.join(names)}, with the SHA-256 fingerprint {fingerprint(certificate)}"
    )
    _log.info("{summary}: browsers warn of it, so compare that", summary=tls.summary)
    return tls
