"""Puts together what ``--https`` needs: the store of certificates, the authority, and what orders there.

Runs before the reactor, in the main thread. A server without ``--https`` need not wait for the imports.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connections
from django.utils.module_loading import import_string
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from channelserver.layers.vault import Vault
from channelserver.processes.gatherer import Gatherer, SiblingFigures
from channelserver.processes.link import IReactor
from channelserver.processes.remote import RemoteLayer
from channelserver.server.acme.authority import Authority
from channelserver.server.acme.challenges import Tokens
from channelserver.server.acme.client import make_agent
from channelserver.server.acme.on_demand import HANDSHAKE_SECONDS, OnDemand
from channelserver.server.acme.served import Served
from channelserver.server.acme.service import Certificates
from channelserver.server.acme.sharing import Sharing, answer_for_others
from channelserver.server.acme.store import Store, StoreError, authority_of, default_folder
from channelserver.server.common.host_names import certificate_names
from channelserver.server.common.option import OptionError
from channelserver.server.common.options import ACME_DIRECTORIES, Settings
from channelserver.server.service import ServerService
from channelserver.server.site import Site
from channelserver.server.tls.contexts import Contexts


def add_https(
    service: ServerService,
    values: Settings,
    contexts: Contexts,
    site: Site,
    gatherer: Gatherer | SiblingFigures | None,
    reactor: IReactor,
    number: int,
) -> None:
    """Serve the stored certificates, and placeholders for those that are not there yet; the first process orders.

    :param gatherer: reaches the other processes.
    :param number: of this process, from 1.
    :raises OptionError: an option, the store or the setting ``ACME_ALLOW`` is wrong.
    """
    layer: Any = site.layer
    vault: Vault | None = getattr(layer, "vault", None)
    if vault is not None and not vault.seals:
        raise OptionError(
            "--https shares private keys with the other hosts over Redis, and these must be encrypted; set "
            "symmetric_encryption_keys in the CONFIG of the layer in CHANNEL_LAYERS, to the same long random text on "
            "all hosts"
        )
    served = _serve(values, contexts)
    site.tokens = served.tokens
    if vault is not None:
        answer_for_others(vault, served, reactor)
    allow = _allow(reactor)
    obtain: Callable[[str], Deferred[bool]]
    if number == 1:
        certificates = service.certificates = _order(values, served, reactor, vault)
        obtain = lambda name: Deferred.fromCoroutine(certificates.demand(name))  # noqa: E731
        if allow is not None:
            certificates.allow = allow
        if isinstance(gatherer, Gatherer):
            tell, gatherer.when_joined = gatherer.tell, lambda link: link.note("own_certificates", served.state())
            certificates.tell = lambda: tell("own_certificates", served.state())
            gatherer.calls["demand"] = obtain
        elif values.processes > 1:
            raise OptionError("--https with --processes needs one of channelserver's own layers in CHANNEL_LAYERS")
    elif isinstance(layer, RemoteLayer):
        layer.provide("certificates", served.apply)
        obtain = partial(layer.ask_first, HANDSHAKE_SECONDS, "demand")
    elif isinstance(gatherer, SiblingFigures):
        gatherer.figures["certificates"] = served.apply
        obtain = partial(gatherer.ask, HANDSHAKE_SECONDS, "demand")
    if allow is not None:
        contexts.on_unknown = OnDemand(contexts, allow, obtain, reactor)


def _serve(values: Settings, contexts: Contexts) -> Served:
    wanted = certificate_names(values.https)
    contexts.expect([name for names in wanted for name in names])
    folder = os.path.abspath(values.acme_store) if values.acme_store else default_folder(os.environ)
    try:
        served = Served(contexts, Tokens(), Store(folder, directory_url(values)), wanted)
        for names in wanted:
            served.load(names)
        served.store.check_account(values.email)
    except StoreError as error:
        raise OptionError(str(error)) from error
    return served


def _order(values: Settings, served: Served, reactor: IReactor, vault: Vault | None) -> Certificates:
    agent = make_agent(reactor, values.acme_ca_file)
    eab = None
    if values.acme_eab_kid is not None and values.acme_eab_key is not None:
        eab = values.acme_eab_kid, values.acme_eab_key

    def authority(store: Store, eab: tuple[str, str] | None = None) -> Authority:
        return Authority(store, agent, reactor, time.time, values.email, eab, values.acme_profile)

    rehearsal = None
    if values.acme_directory == "letsencrypt":
        rehearsal = authority(Store(str(served.store.folder), ACME_DIRECTORIES["staging"]))
    sharing = None
    if vault is not None:
        sharing = Sharing(vault, served.store, authority_of(directory_url(values)), reactor)
    return Certificates(served, authority(served.store, eab), rehearsal, reactor, reactor, time.time, sharing=sharing)


def _allow(reactor: IReactor) -> Callable[[str, str | None], Deferred[bool]] | None:
    """Return what calls the project's function in a thread; None: there is none.

    :raises OptionError: it cannot be imported.
    """
    path = getattr(settings, "ACME_ALLOW", None)
    if path is None:
        return None
    try:
        function = import_string(path)
    except (ImportError, AttributeError, TypeError) as error:
        raise OptionError(
            f"the setting ACME_ALLOW must be the dotted name of a function (name, address) -> bool, not {path!r}: "
            f"{error}"
        ) from error
    if iscoroutinefunction(function):
        function = async_to_sync(function)

    def ask(name: str, address: str | None) -> bool:
        try:
            return bool(function(name, address))
        finally:
            connections.close_all()

    return lambda name, address: deferToThreadPool(reactor, reactor.getThreadPool(), ask, name, address)


def directory_url(values: Settings) -> str:
    """Return the URL of the authority's directory."""
    return ACME_DIRECTORIES.get(values.acme_directory, values.acme_directory)
