"""`featurewatch verify`, step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import typer

from monitor.cli.common import (
    SIDECAR_HELP,
    TlsCa,
    TlsCert,
    TlsKey,
    client_tls,
    console,
    default_socket,
    err_console,
    resolve_model,
)
from monitor.cli.verify import canaries
from monitor.cli.verify.checks import (
    TOLERANCES,
    Check,
    check_coverage,
    check_differences,
    check_overhead,
    check_self_test,
    check_taps,
)
from monitor.cli.verify.report import as_json, table
from monitor.cli.verify.sidecar_side import Rows, SidecarSide
from monitor.cli.verify.truth import Truth
from monitor.errors import FeaturewatchError
from monitor.rpc import Target, open_channel
from monitor.v1.policies_pb2 import TapStatus


def verify(  # noqa: PLR0917 -- typer: one parameter an option
    server: Annotated[str, typer.Option(help="The model server.")] = "http://127.0.0.1:8000",
    sidecar: Annotated[str | None, typer.Option(help=SIDECAR_HELP)] = None,
    model: Annotated[
        str | None, typer.Option(help="Hugging Face folder or id of the reference. Default: what the engine loaded.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Answer tokens per canary.")] = 16,
    tolerance: Annotated[
        float | None, typer.Option(min=0.0, help="Largest relative error of a row. Default: by the engine's dtype.")
    ] = None,
    max_overhead: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of the engine's thread spent in the tap.")
    ] = 0.05,
    device: Annotated[str, typer.Option(help="Where the reference runs: cpu, cuda, ...")] = "cpu",
    api_key: Annotated[str, typer.Option(envvar="OPENAI_API_KEY", help="Of the model server.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One line of JSON instead of the table.")] = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
) -> None:
    """Check a running deployment: does the monitor see what the model computes, all of it, at what cost?

    Sends a few completions to the server, reads their residual rows back through the sidecar, compares them with
    Hugging Face, sends them again to meet the prefix cache, and looks at coverage, self-test and overhead. Exits with
    1 if anything is wrong.
    """
    target = Target.parse(sidecar or default_socket())
    with open_channel(target, client_tls(target, tls_ca, tls_cert, tls_key)) as channel:
        checks = _run(
            canaries.Server(server, api_key),
            SidecarSide(channel, target),
            model=model,
            max_tokens=max_tokens,
            tolerance=tolerance,
            max_overhead=max_overhead,
            device=device,
        )
    bad = [check for check in checks if not check.ok]
    if json:
        typer.echo(as_json(checks))
    else:
        console.print(table(checks))
        style, verdict = ("bold red", f"{len(bad)} of {len(checks)} checks failed") if bad else ("green", "all well")
        console.print(f"[{style}]{verdict}[/{style}]", highlight=False)
    if bad:
        raise typer.Exit(1)


def _run(
    server: canaries.Server,
    side: SidecarSide,
    *,
    model: str | None,
    max_tokens: int,
    tolerance: float | None,
    max_overhead: float,
    device: str,
) -> list[Check]:
    models = server.models()
    before = side.taps(models)
    if not before:
        raise FeaturewatchError(
            f"server {server.url} with model {', '.join(models) or 'none'}",
            "no tap of this model is connected to the sidecar",
            "start the server with the featurewatch configuration; its log says why a tap refused to start",
        )
    hook_points = sorted({name for tap in before for name in tap.hook_points})
    # Before the canaries: a missing package or model must not cost a request.
    truth = Truth(resolve_model(model or before[0].engine.model), hook_points, device)
    texts = canaries.prompts()
    begun = time.monotonic()
    sent = _send(server, before[0].model, texts, max_tokens)
    seconds = time.monotonic() - begun
    found = side.generations(sent)
    after = side.taps_after(models, time.time_ns())
    checks = [check_taps(before, after), *check_self_test(after), *check_coverage(sent, found, "canaries")]
    observed = []
    for canary in sent:
        rows: Rows = {}
        for summary in found[canary.request_id]:
            for hook_point, part in side.residuals(summary.generation_id).items():
                rows.setdefault(hook_point, {}).update(part)
        observed.append(rows)
    wanted = sum(canary.positions for canary in sent)
    limit = tolerance if tolerance is not None else _tolerance(before)
    checks += check_differences(truth.differences(sent, observed), wanted, limit)
    again = _send(server, before[0].model, texts, max_tokens)
    checks += check_coverage(again, side.generations(again), "repeated canaries")
    return checks + check_overhead(before, after, seconds, max_overhead)


def _send(server: canaries.Server, model: str, texts: Sequence[str], max_tokens: int) -> list[canaries.Canary]:
    err_console.print(f"[dim]{len(texts)} canaries to {server.url} ...[/dim]", highlight=False)
    return canaries.send(server, model, texts, max_tokens)


def _tolerance(taps: Sequence[TapStatus]) -> float:
    dtypes = {tap.engine.dtype for tap in taps}
    unknown = dtypes - TOLERANCES.keys()
    if unknown:
        raise FeaturewatchError(
            f"engine dtype {', '.join(sorted(unknown))}",
            f"tolerances are known for {', '.join(TOLERANCES)}",
            "give one with --tolerance",
        )
    return max(TOLERANCES[dtype] for dtype in dtypes)
