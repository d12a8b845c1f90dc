"""Puts together what ``--https`` needs: the store of certificates, the authority, and what orders there.

Runs before the reactor, in the main thread. A server without ``--https`` need not wait for the imports.
"""

from __future__ import annotations

import os
import time
from typing import Any

from channelserver.layers.vault import Vault
from channelserver.processes.gatherer import Gatherer, SiblingFigures
from channelserver.server.acme.authority import Authority
from channelserver.server.acme.challenges import Tokens
from channelserver.server.acme.client import make_agent
from channelserver.server.acme.served import Served
from channelserver.server.acme.service import Certificates
from channelserver.server.acme.sharing import Sharing, answer_for_others
from channelserver.server.acme.store import Store, StoreError, authority_of, default_folder
from channelserver.server.common.host_names import certificate_names
from channelserver.server.common.option import OptionError
from channelserver.server.common.options import ACME_DIRECTORIES, Settings
from channelserver.server.tls.contexts import Contexts


def serve_certificates(values: Settings, contexts: Contexts, vault: Vault | None, reactor: Any) -> Served:
    """Serve the stored certificates of ``--https``, and placeholders for those that are not there yet.

    :param vault: what hosts share, if the layer is for several.
    :raises OptionError: the store cannot be used.
    """
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
    if vault is not None:
        if not vault.seals:
            raise OptionError(
                "--https shares private keys with the other hosts over Redis, and these must be encrypted; set "
                "symmetric_encryption_keys in the CONFIG of the layer in CHANNEL_LAYERS, to the same long random text "
                "on all hosts"
            )
        answer_for_others(vault, served, reactor)
    return served


def order_certificates(
    values: Settings, served: Served, reactor: Any, gatherer: Gatherer | SiblingFigures | None, vault: Vault | None
) -> Certificates:
    """Return what keeps the certificates valid.

    :param vault: what hosts share, if the layer is for several.
    :param gatherer: reaches the other processes.
    :raises OptionError: an option is wrong.
    """
    agent = make_agent(reactor, values.acme_ca_file)
    eab = None
    if values.acme_eab_kid is not None and values.acme_eab_key is not None:
        eab = values.acme_eab_kid, values.acme_eab_key
    authority = Authority(served.store, agent, reactor, time.time, values.email, eab, values.acme_profile)
    rehearsal = None
    if values.acme_directory == "letsencrypt":
        staging = Store(str(served.store.folder), ACME_DIRECTORIES["staging"])
        rehearsal = Authority(staging, agent, reactor, time.time, values.email, None, values.acme_profile)
    url = directory_url(values)
    sharing = None if vault is None else Sharing(vault, served.store, authority_of(url), reactor)
    certificates = Certificates(served, authority, rehearsal, reactor, reactor, time.time, sharing=sharing)
    if values.processes > 1:
        if not isinstance(gatherer, Gatherer):
            raise OptionError("--https with --processes needs one of channelserver's own layers in CHANNEL_LAYERS")
        tell, gatherer.when_joined = gatherer.tell, lambda link: link.note("own_certificates", served.state())
        certificates.tell = lambda: tell("own_certificates", served.state())
    return certificates


def directory_url(values: Settings) -> str:
    """Return the URL of the authority's directory."""
    return ACME_DIRECTORIES.get(values.acme_directory, values.acme_directory)
