"""`featurewatch sidecar`: the process that judges."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from monitor import __version__
from monitor.cli.audit_reader import default_store
from monitor.cli.common import console, default_policies, default_socket, default_zoo, home
from monitor.cli.log_lines import log_to_stderr
from monitor.cli.problems import print_problems
from monitor.errors import FeaturewatchError
from monitor.policy import PolicyError
from monitor.rpc import ServerTls, Target, name_of
from monitor.sidecar.config import RedisConfig, SidecarConfig
from monitor.sidecar.modes import parse_modes
from monitor.sidecar.policy_audit import Cause
from monitor.sidecar.policy_watch import WATCH_SECONDS
from monitor.sidecar.server import Sidecar
from monitor.v1.alerts_pb2 import Mode

#: While policies are compiled, whoever judges a frame waits so long for the interpreter, each time that it has given it
#: up. With Python's own 5 ms that would be most of a frame's time.
SWITCH_SECONDS: Final = 0.0005


def sidecar(  # noqa: PLR0917 - one parameter per command-line option
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET",
            help="unix:<path>, host:port or tls:host:port; may be repeated. Default: unix:<cache>/sidecar.sock.",
            show_default=False,
        ),
    ] = None,
    policies: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR|FILE",
            help="Policy file or folder; may be repeated. Default: policies/ of the checkout.",
            show_default=False,
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODE",
            help="Put a policy into another mode than its file says; may be repeated.",
            show_default=False,
        ),
    ] = None,
    no_watch: Annotated[
        bool, typer.Option("--no-watch", help="Read policies again only when asked: by call or SIGHUP.")
    ] = False,
    zoo: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder with SAEs; may be repeated. Default: zoo/ of the checkout and <cache>/zoo.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="SQLite file of flagged generations. Default: <cache>/audit.sqlite.",
            show_default=False,
        ),
    ] = None,
    alerts_jsonl: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File that alerts are appended to, one line of JSON each. Default: <cache>/alerts.jsonl.",
            show_default=False,
        ),
    ] = None,
    no_alerts_jsonl: Annotated[bool, typer.Option("--no-alerts-jsonl", help="Write no such file.")] = False,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Also add alerts to a stream of this Redis. Default: none.", show_default=False
        ),
    ] = None,
    redis_stream: Annotated[str, typer.Option(metavar="NAME", help="Key of the Redis Stream.")] = "mon:events",
    spool: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where alerts wait while Redis is away. Default: <cache>/redis.spool.",
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder with tokenizer.json. Default: the one that the engine names.",
            show_default=False,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve Prometheus metrics at /metrics and liveness at /healthz there. Default: nowhere.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificate chain for tls: addresses, PEM.", show_default=False),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Private key of --tls-cert, PEM.", show_default=False)
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Let in only clients with a certificate that one of these signed, PEM.",
            show_default=False,
        ),
    ] = None,
    insecure_tcp: Annotated[
        bool, typer.Option("--insecure-tcp", help="Allow TCP addresses that other machines can reach, without TLS.")
    ] = False,
    history_mib: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Memory for token ids and scores of live requests.")
    ] = 64,
    prefix_state_mib: Annotated[
        int,
        typer.Option(min=0, metavar="MIB", help="Memory for detector state of cached prefixes; 0 keeps none."),
    ] = 64,
    drain_seconds: Annotated[float, typer.Option(min=0, help="Longest wait for open calls at shutdown.")] = 5.0,
    keep_share: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Also record this share of the generations that nothing flags, chosen at random: their scores without "
            "content, for `featurewatch policy calibrate --records`.",
        ),
    ] = 0.0,
) -> None:
    """Judge what taps see: serve gRPC, evaluate policies, send alerts, keep the audit.

    <cache> is $FEATUREWATCH_HOME, else ~/.cache/featurewatch. Ends on Ctrl-C or SIGTERM.
    """
    if redis is None and spool is not None:
        raise FeaturewatchError(
            f"--spool {spool}", "only alerts to Redis are spooled", "add --redis URL or leave it out"
        )
    if no_alerts_jsonl and alerts_jsonl is not None:
        raise FeaturewatchError(
            f"--alerts-jsonl {alerts_jsonl} with --no-alerts-jsonl",
            "one names the file of alerts, the other switches it off",
            "leave one of them out",
        )
    log_to_stderr()
    sys.setswitchinterval(SWITCH_SECONDS)
    config = SidecarConfig(
        listen=tuple(dict.fromkeys(Target.parse(text) for text in listen or [default_socket()])),
        policies=tuple(policies or [default_policies()]),
        zoo=tuple(zoo or default_zoo()),
        store=store or default_store(),
        tokenizer=tokenizer,
        alerts_jsonl=None if no_alerts_jsonl else alerts_jsonl or home() / "alerts.jsonl",
        redis=None if redis is None else RedisConfig(redis, redis_stream, spool or home() / "redis.spool"),
        metrics=None if metrics is None else Target.parse(metrics),
        tls=_server_tls(tls_cert, tls_key, tls_client_ca),
        insecure_tcp=insecure_tcp,
        history_mib=history_mib,
        prefix_state_mib=prefix_state_mib,
        modes=parse_modes(mode or ()),
        watch_seconds=None if no_watch else WATCH_SECONDS,
        drain_seconds=drain_seconds,
        keep_share=keep_share,
    )
    try:
        server = Sidecar(config)
        # What is there now stays. Each time that the garbage collector goes through it frames wait for a tenth of a
        # second, and a reload makes it do so.
        gc.collect()
        gc.freeze()
        asyncio.run(_serve(server))
    except PolicyError as error:
        print_problems(error.problems, "; nothing was started")
        raise typer.Exit(2) from error


def _server_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    if cert is not None and key is not None:
        return ServerTls(cert, key, client_ca)
    given = {"--tls-cert": cert, "--tls-key": key, "--tls-client-ca": client_ca}
    for option, path in given.items():
        if path is not None:
            raise FeaturewatchError(
                f"{option} {path}",
                "TLS needs a certificate and its key",
                "give both --tls-cert and --tls-key, or leave all TLS options out",
            )
    return None


async def _serve(server: Sidecar) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop() -> None:
        stopping.set()
        # A second signal ends the process at once.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.start()
    reloading: set[asyncio.Task[object]] = set()

    def reload() -> None:
        task: asyncio.Task[object] = loop.create_task(server.rollout.reload(Cause("SIGHUP")))
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    console.print(_startup(server))
    await stopping.wait()
    console.print("Stopping: no new calls, open ones are drained.")
    await server.stop()


def _startup(server: Sidecar) -> Table:
    table = Table(
        box=None, show_header=False, pad_edge=False, title=f"Featurewatch sidecar {__version__}", title_justify="left"
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for target in server.listening:
        table.add_row("  listening", escape(str(target)))
    if server.metrics is not None:
        table.add_row("  metrics", escape(f"http://{server.metrics.target}/metrics"))
    for policy in server.book.policies:
        mode = name_of(Mode, int(server.modes.of(policy).mode))
        rules = ", ".join(rule.id for rule in policy.document.spec.rules)
        table.add_row("  policy", escape(f"{policy.name} revision {policy.revision}, mode {mode}, rules {rules}"))
    for name, sha256 in server.book.sae_hashes.items():
        table.add_row("  SAE", escape(f"{name} sha256:{sha256[:16]}…"))
    for delivery in server.deliveries:
        waiting = f" ({delivery.stats.pending} waiting)" if delivery.stats.pending else ""
        table.add_row("  alerts to", escape(f"{delivery.name}{waiting}"))
    if not server.deliveries:
        table.add_row("  alerts to", "gRPC watchers only")
    pool = server.history
    table.add_row("  histories", f"at most {pool.arena.nbytes >> 20} MiB of token ids and scores of live requests")
    kept = server.config.prefix_state_mib
    table.add_row("  prefixes", f"up to {kept} MiB of detector state" if kept else "no detector state is kept")
    table.add_row("  store", escape(f"{server.store.path} ({server.store.count()} flagged generations)"))
    return table
