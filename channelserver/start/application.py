"""A server, put together: layer, routing, views, workers, listeners.

Runs before the reactor, in the main thread.
"""

from __future__ import annotations

import copyreg
import os
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import django
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.urls import set_script_prefix
from twisted.logger import Logger

from channelserver.asgi import ChannelLayerWrapper, InvalidChannelLayerError, channel_layers, local_socket_path
from channelserver.bridge import Bridge
from channelserver.delay.consumers import add_delay
from channelserver.handler import AsgiHandler, ViewConsumer
from channelserver.layers import BaseChannelLayer, InMemoryChannelLayer
from channelserver.layers.local import SERVER_CHANNELS, LocalLayer
from channelserver.processes.connectors import Connector
from channelserver.processes.figures import add_up
from channelserver.processes.gatherer import Gatherer, SiblingFigures
from channelserver.processes.hub import Hub
from channelserver.processes.local import LocalFactory
from channelserver.processes.remote import RemoteLayer
from channelserver.processes.shares import WISHES
from channelserver.routing import Route
from channelserver.server.common.access import AccessLog
from channelserver.server.common.option import OptionError
from channelserver.server.common.options import Settings, resolve
from channelserver.server.edge.health import Health
from channelserver.server.http.proxy import ProxyPolicy
from channelserver.server.service import ListenError, ServerService
from channelserver.server.site import Site
from channelserver.server.websocket.origin import OriginPolicy
from channelserver.start.files import files
from channelserver.start.project import StartError, clean_root_path, describe
from channelserver.start.workers import AllWorkers, LoopWatch, LostWatch, Workers, make_workers
from channelserver.workers import django_cleanup
from channelserver.workers.loop import event_loop

_log = Logger("channelserver")

#: The hosts of a site under development (Django: ``HttpRequest.get_host``).
_LOCAL_HOSTS = [".localhost", "127.0.0.1", "[::1]"]

#: Errors at the start whose text is one sentence for the user.
START_ERRORS = (StartError, OptionError, InvalidChannelLayerError, ListenError)


def _pickle_as_ever() -> None:
    """Undo how ``twisted.application`` changes pickling in the whole process (``twisted.persisted.styles``).

    A class method that was pickled so cannot be loaded, and Django 6.1 pickles a task by one. What a site puts into a
    cache must be the same under every server.
    """
    for kind, reduce in list(copyreg.dispatch_table.items()):
        if getattr(reduce, "__module__", None) == "twisted.persisted.styles":
            del copyreg.dispatch_table[kind]


_pickle_as_ever()


def one_listener(bind: str, port: int, **values: Any) -> Settings:
    """Return the options of a development or test server: those of the settings, but with one plain TCP listener.

    :param values: other options to replace.
    :raises OptionError: a setting is wrong.
    """
    options = resolve({}, getattr(settings, "CHANNELSERVER", {}))
    others = {"endpoint": (), "unix_socket": None, "fd": None, "https": (), "tls_cert": (), "tls_key": ()}
    plain = {"tls_self_signed": False, "redirect_http": False}
    values = {"processes": 1, "static": False, **others, **plain, **values}
    return replace(options, bind=bind, port=port, simple_listener=True, **values)


def use_remote_layer(alias: str, connector: Connector) -> None:
    """Use the layer of another process in place of an in-memory one.

    :param alias: which of ``CHANNEL_LAYERS``.
    """
    channel_layers.remote = lambda alias, parameters: RemoteLayer(connector, **parameters)
    channel_layers.remote_alias = alias


def make_server(
    values: Settings,
    reactor: Any,
    access_log: AccessLog,
    handler: AsgiHandler | None = None,
    development: bool = False,
    thread_started: Callable[[], object] = lambda: None,
    number: int = 1,
    connector: Connector | None = None,
    started: Callable[[list[str]], object] = lambda lines: None,
) -> ServerService:
    """Put a server together.

    :param reactor: the reactor it will run in.
    :param access_log: gets a line for each request and socket.
    :param handler: runs Django's views, instead of the one that fits the settings.
    :param development: another server of the project may be running beside this one.
    :param thread_started: called at the start of each worker thread, in it.
    :param number: which of several processes this is, from 1.
    :param connector: of a further process to the first one.
    :param started: called when everything listens, with one line for each listener.
    :raises StartError, InvalidChannelLayerError: the project's settings are wrong.
    :raises OptionError: the certificate is invalid.
    :raises ListenError: another server of the project is running.
    """
    wrapper = load_layer(values.layer, values.local_socket)
    wrapper.router.add_route(Route("http.request", http_consumer(values, handler)))
    bridge = Bridge(reactor)
    reactor.callWhenRunning(channel_layers.begin)
    hosts = allowed_hosts()
    if settings.SECURE_HSTS_SECONDS:
        values.hsts = 0  # Django sends the field
    origins = OriginPolicy(hosts, values.allowed_origin)
    root_path = values.root_path = clean_root_path(values.root_path or settings.FORCE_SCRIPT_NAME)
    static = files(values, log=number == 1)
    proxies = ProxyPolicy(values.trust_proxy)
    site = Site(wrapper.channel_layer, values, bridge, reactor, origins, access_log, static, proxies=proxies)

    workers = pool = make_workers(wrapper, bridge, values, thread_started)
    if isinstance(pool, Workers):
        site.replies.client_gone.append(event_loop.client_gone)
        site.wheel.add(LoopWatch(bridge), site.wheel.now() + 1.0)
        pool.context.run(set_script_prefix, root_path + "/")  # for consumers; a request sets its own
    hub = None
    gatherer: Gatherer | SiblingFigures | None = None
    layer = wrapper.channel_layer
    if type(wrapper.channel_layer) is InMemoryChannelLayer:
        options = {"auto_accept": values.auto_accept, "reject_unrouted": values.reject_unrouted}
        gatherer = hub = Hub(wrapper.channel_layer, bridge, reactor, options)
        workers = AllWorkers(workers, hub, bridge)
        site.replies.client_gone.append(hub.client_gone)
    elif isinstance(layer, LocalLayer) and not isinstance(layer, RemoteLayer):  # which asks the first process itself
        if connector is not None:
            gatherer = SiblingFigures(layer, connector, bridge, reactor)
            reactor.callWhenRunning(gatherer.open)
        elif values.processes > 1:
            gatherer = Gatherer(layer, bridge, reactor)
    if values.health_path:
        site.health = health = Health(site, values.health_path, lambda: len(workers.busy()), values.threads)
        if isinstance(pool, Workers):
            health.stalled = pool.stalled
            health.hung = partial(pool.hung, values.hang_timeout)
            health.further = lambda: {
                "streams": len(pool.streams) + len(site.replies.events),
                "coroutines": len(event_loop),
                "loop_lag": round(event_loop.lag, 3),
                **pool.job_figures(),
            }
        if isinstance(wrapper.channel_layer, RemoteLayer):
            wrapper.channel_layer.provide("figures", health.figures)
            health.gather = wrapper.channel_layer.gather_figures
        elif gatherer is not None and (values.processes > 1 or connector is not None):
            gatherer.figures["figures"] = health.figures
            health.gather = partial(gatherer.gather, "figures")
    if gatherer is not None and isinstance(layer, LocalLayer) and (values.processes > 1 or connector is not None):
        layer.gather = lambda *name: add_up(gatherer.gather_from_thread(*name))
    tls = None
    if values.tls_self_signed or values.tls_cert or values.tls_key or values.redirect_http or values.https:
        from channelserver.server.edge.certificates import server_tls  # it imports OpenSSL

        tls = server_tls(values, hosts)
    service = ServerService(site, workers, reactor, started, tls)
    if values.https and tls is not None:
        from channelserver.start.https import add_https

        service.redirects_to_https = not settings.SECURE_SSL_REDIRECT
        add_https(service, values, tls.contexts, site, gatherer, reactor, number)
        if service.certificates is not None and site.health is not None:
            health.certificates = service.certificates.figures
    service.hub = gatherer if isinstance(gatherer, Gatherer) else None
    if isinstance(pool, Workers):
        service.when_retired = partial(_retire, pool, hub, wrapper.channel_layer)
        site.wish = _wish(values, pool, wrapper.channel_layer)
        if pool.claimers and values.hang_timeout and values.processes == 1 and connector is None and not development:
            site.wheel.add(LostWatch(pool, values.hang_timeout, reactor.stop), site.wheel.now() + 1.0)
    if site.health is not None:
        health.replaced = lambda: {} if service.siblings is None else dict(service.siblings.replaced)
    if hub is not None:
        factory = LocalFactory(hub.layer, wrapper.alias, bridge, reactor, hub)
        _serve_locally(service, factory, values, development)
    return service


def _retire(pool: Workers, hub: Hub | None, layer: BaseChannelLayer) -> None:
    """Leave jobs and the application's own channels to other processes; the server's belong to the connections."""
    if pool.delay_timer is not None:
        pool.delay_timer.stop()
    pool.drain()
    if hub is None:
        layer.retire()
    else:
        hub.left = frozenset(pool.channels).difference(SERVER_CHANNELS)
        hub.changed()


def _wish(values: Settings, pool: Workers, layer: Any) -> Callable[[], str]:
    """Return what says whether this process should be replaced by a new one (``shares.WISHES``)."""
    most = values.max_requests and values.max_requests + random.randrange(values.max_requests // 10 + 1)

    def wish() -> str:
        if values.hang_timeout and pool.stalled(values.hang_timeout):
            return "worker threads hung"
        if values.hang_timeout and pool.lost_to_jobs(values.hang_timeout):
            return WISHES[-1]
        if (
            most
            and isinstance(layer, LocalLayer)
            and layer.own_channel_statistics("http.request")["messages_count"] >= most
        ):
            return "max requests"
        return ""

    return wish


def local_socket_of(values: Settings) -> str:
    """Return the absolute path of the local socket; empty: there is none."""
    path = values.local_socket if values.local_socket is not None else local_socket_path()
    return path and os.path.abspath(path)


def _serve_locally(service: ServerService, factory: LocalFactory, values: Settings, development: bool) -> None:
    """Let other processes of this machine use an in-memory layer."""
    path = local_socket_of(values)
    if not path:
        return
    try:
        service.serve_locally(path, factory)
    except ListenError as error:
        # An error if the option asks for it, or if a server already listens there. Else the server works without it.
        if values.local_socket is not None or (os.path.exists(path) and not development):
            raise
        _log.warn("no local socket, so other processes cannot send through this server: {error}", error=error)


def install_shortcuts(values: Settings) -> str:
    """Replace functions of Django by quicker ones, unless ``--no-shortcuts`` is given; return words for the log."""
    if not values.shortcuts:
        return "Django shortcuts: off"
    off = ", ".join(django_cleanup.install())
    which = f"on but for {off}, whose code in Django {django.__version__} is unknown or was replaced" if off else "on"
    return f"Django shortcuts: {which}"


def load_layer(alias: str, local_socket: str | None) -> ChannelLayerWrapper:
    """Build the channel layer that this process serves, and its routing.

    :param local_socket: the option of that name.

    :raises StartError: the routing does not resolve.
    :raises InvalidChannelLayerError: the settings do not describe a layer.
    """
    channel_layers.served = alias
    if channel_layers.socket_path is None:  # a sibling knows it: that of the first process
        channel_layers.socket_path = local_socket and os.path.abspath(local_socket)
    try:
        wrapper = channel_layers[alias]
        wrapper.delays = add_delay(wrapper)
    except (ImproperlyConfigured, ImportError, ValueError, TypeError) as error:
        if isinstance(error, InvalidChannelLayerError):
            raise
        raise StartError(f"CHANNEL_LAYERS[{alias!r}]['ROUTING'] is wrong: {describe(error)}") from error
    return wrapper


def allowed_hosts() -> list[str]:
    hosts = list(settings.ALLOWED_HOSTS)
    return _LOCAL_HOSTS if settings.DEBUG and not hosts else hosts


def _debug_handler() -> AsgiHandler:
    from channelserver.staticfiles import StaticFilesHandler

    return StaticFilesHandler()


def http_consumer(values: Settings, handler: AsgiHandler | None = None) -> ViewConsumer:
    """Return the consumer that runs Django's views.

    :raises StartError: the middleware does not load.
    """
    try:
        if handler is None:
            # Under DEBUG nobody runs collectstatic after each change.
            debug = settings.DEBUG and apps.is_installed("django.contrib.staticfiles")
            handler = _debug_handler() if debug else AsgiHandler()
        return ViewConsumer(handler, values.http_timeout)
    except (ImproperlyConfigured, ImportError) as error:
        raise StartError(f"the setting MIDDLEWARE is wrong: {describe(error)}") from error
