"""`/metrics` and `/healthz` over HTTP, in threads of their own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from monitor.errors import FeaturewatchError
from monitor.rpc import Target
from monitor.sidecar.metrics.families import sidecar_families
from monitor.sidecar.metrics.snapshot import Snapshot
from monitor.sidecar.metrics.tap_families import tap_families
from monitor.sidecar.problem_log import ProblemLog

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

_log = logging.getLogger(__name__)

SNAPSHOT_SECONDS: Final = 1.0
"""How long a scrape waits for its turn between frames; then it gets the counters as they were last."""
_IDLE_SECONDS: Final = 10.0

AskForSnapshot = Callable[[], "Future[Snapshot]"]


class _SidecarCollector(Collector):
    """Asks between frames for the counters and makes the text here, in the thread of the scrape."""

    def __init__(self, ask: AskForSnapshot) -> None:
        self._ask = ask
        self._last = Snapshot()
        self._asking = threading.Lock()
        self._problems = ProblemLog(_log, "metrics")

    def collect(self) -> Iterator[Metric]:
        snapshot, _ = self.snapshot()
        yield from sidecar_families(snapshot)
        yield from tap_families(snapshot.taps)

    def describe(self) -> list[Metric]:
        """Nothing, so that registering it takes no snapshot."""
        return []

    def snapshot(self) -> tuple[Snapshot, bool]:
        """The counters, and whether they are of now."""
        with self._asking:
            try:
                self._last = self._ask().result(SNAPSHOT_SECONDS)
            except (TimeoutError, CancelledError, RuntimeError) as error:
                # The judge is busy with something long, or the sidecar is about to stop: the age says so.
                self._problems.note("counters are old", f"{type(error).__name__} {error}".strip())
                return self._last, False
            return self._last, True


class MetricsServer:
    """Serves until `close`. A scrape costs judging no more than a copy of numbers."""

    def __init__(self, target: Target, ask: AskForSnapshot, *, insecure_tcp: bool) -> None:
        """Listens at once; raises FeaturewatchError when it may not or cannot."""
        _check(target, insecure_tcp)
        self._collector = _SidecarCollector(ask)
        registry = CollectorRegistry()
        registry.register(self._collector)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self._metrics = make_wsgi_app(registry)
        try:
            self._server = _Server((target.host.strip("[]"), target.port), _Handler, ipv6=target.host.startswith("["))
        except (OSError, OverflowError) as error:
            raise FeaturewatchError(
                f"metrics address {target} ({getattr(error, 'strerror', None) or error})",
                "the sidecar must be able to listen there, and another process may have it",
                "stop that process or choose another address with --metrics",
            ) from error
        self._server.set_app(self._serve)
        self.target = Target(host=target.host, port=self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return self._metrics(environ, start_response)  # type: ignore[no-any-return]
        if path == "/healthz":
            _, fresh = self._collector.snapshot()
            status, text = ("200 OK", "ok\n") if fresh else ("503 Service Unavailable", "judging does not answer\n")
        else:
            status, text = "404 Not Found", "there are /metrics and /healthz\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))])
        return [text.encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler], *, ipv6: bool) -> None:
        self.address_family = socket.AF_INET6 if ipv6 else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # WSGIServer's own asks DNS for the host's name, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.warning("metrics: request of %s failed", client_address, exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = _IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("metrics: %s", format % args)


def _check(target: Target, insecure_tcp: bool) -> None:
    if target.is_unix or target.tls:
        raise FeaturewatchError(
            f"metrics address {target}",
            "metrics are served over plain HTTP on a TCP port",
            "write for example 127.0.0.1:9109",
        )
    if not target.is_loopback and not insecure_tcp:
        raise FeaturewatchError(
            f"metrics address {target}",
            "other machines can reach it, and metrics are served without TLS",
            "listen on 127.0.0.1, or pass --insecure-tcp where the network itself is trusted",
        )
