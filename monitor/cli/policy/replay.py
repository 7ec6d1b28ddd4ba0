"""`featurewatch policy replay`."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from monitor.cli.common import SIDECAR_HELP, TlsCa, TlsCert, TlsKey, console, default_zoo
from monitor.cli.printable import printable_line

if TYPE_CHECKING:
    from monitor.replay import ReplayReport, RuleOutcome

_SHOWN = 5
LIMITS = (
    "Only recorded generations can be replayed: those that a policy flagged, that someone captured and that the "
    "sidecar sampled. What a policy would newly flag among all others, and so its rate of false alarms, is not in this "
    "report: see featurewatch policy calibrate."
)
OF_CORRELATIONS = (
    "Correlations count what fires on the replayed generations, at the time of the recorded alert at that token, else "
    "at the beginning of the generation. What was not recorded, cannot be replayed or is older may complete more; that "
    "counting began anew whenever the sidecar did is not in the records."
)


def replay(  # noqa: PLR0917 - one parameter per command-line option
    paths: Annotated[
        list[Path], typer.Argument(metavar="POLICY...", help="Policy files, or folders of them.", show_default=False)
    ],
    since: Annotated[str, typer.Option(metavar="WHEN", help="Generations from then on: 7d, 12h, a date.")] = "7d",
    diff: Annotated[
        Literal["live"] | None,
        typer.Option(help="Also name generations that the recorded policy judged otherwise.", show_default=False),
    ] = None,
    sidecar: Annotated[str | None, typer.Option(metavar="TARGET", help=SIDECAR_HELP, show_default=False)] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read this file instead of a sidecar.", show_default=False)
    ] = None,
    zoo: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Folder with SAEs; may be repeated.", show_default=False)
    ] = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Report on which recorded generations policies would have fired, before they judge live requests.

    Exit code 0: done, whatever would have fired. 2: a file has a problem, or there is no such record.
    """
    from monitor.cli.audit_reader import open_reader
    from monitor.cli.policy.recorded import circumstances_of, made_of
    from monitor.cli.since import parse_since
    from monitor.policy import PolicyError
    from monitor.replay import Recorded, read_record
    from monitor.replay import replay as replay_policy
    from monitor.replay.shelf import Shelf
    from monitor.rpc import ClientTls
    from monitor.sae import Catalog
    from monitor.sidecar.policy_files import policy_files, read_policies

    policies, problems = read_policies(policy_files(paths))
    if problems:
        raise PolicyError(problems)
    catalog, shelf = Catalog(zoo or default_zoo()), Shelf({policy.sha256: policy for policy in policies})
    earliest = parse_since(since, datetime.now().astimezone())

    def records() -> Iterator[Recorded]:
        for record in reader.since(earliest):
            if record.tokens:
                yield read_record(record, circumstances_of(record), shelf)

    with open_reader(sidecar, store, ClientTls(tls_ca, tls_cert, tls_key)) as reader:
        reports = [replay_policy(policy, records(), made_of(policy, catalog)) for policy in policies]
    limits = f"{LIMITS} {OF_CORRELATIONS}" if any(report.correlations for report in reports) else LIMITS
    if json:
        summary = {"since": since, "limits": limits, "policies": [_summary(report) for report in reports]}
        typer.echo(json_text.dumps(summary, indent=2))
        return
    for report in reports:
        for line in (*_lines(report, since), *(_differences(report) if diff else ()), Text()):
            console.print(line, soft_wrap=True, highlight=False)
    console.print(Text(limits, style="dim"), soft_wrap=True, highlight=False)


def _lines(report: ReplayReport, since: str) -> Iterator[Text]:
    policy = report.policy
    yield Text(f"policy {policy.name} revision {policy.revision}  {printable_line(policy.file)}", style="bold")
    yield Text(f"  recorded generations since {since}: {report.generations}")
    yield Text(f"  replayed: {len(report.replayed)}{_share(len(report.replayed), report.generations)}")
    for reason, ids in report.not_for.items():
        yield Text(f"  not for them: {len(ids)}{_share(len(ids), report.generations)}: {printable_line(reason)}")
    for reason, ids in report.not_replayed.items():
        text = f"  not replayable: {len(ids)}{_share(len(ids), report.generations)}: {printable_line(reason)}"
        yield Text(text, style="yellow")
    if report.shadowed:
        yield Text(f"  in shadow, for they were not served as fittedOn says: {len(report.shadowed)}", style="yellow")
    yield Text(f"  would have fired on: {len(report.flagged)}", style="bold")
    for severity, ids in report.severities().items():
        yield Text(f"    {severity}: {len(ids)}")
    for rule, outcome in report.rules.items():
        if outcome.severity:
            excepted = f", {len(outcome.excepted)} more under an exception" if outcome.excepted else ""
            yield Text(f"    {rule}: {len(outcome.fired)}{excepted}")
    for correlation, outcome in report.correlations.items():
        if outcome.severity:
            yield Text(f"    {correlation}: {len(outcome.fired)}, correlation")
    for correlation, reason in report.unknown_correlations.items():
        yield Text(f"    {correlation}: not replayable: {reason}", style="yellow")


def _differences(report: ReplayReport) -> Iterator[Text]:
    count = len(report.was_flagged)
    yield Text(f"  what the recorded {report.policy.name} did: fired on {count} of the replayed", style="bold")
    if not report.newly_flagged and not report.no_longer_flagged:
        yield Text("    the same generations are flagged")
    for what, ids in (("newly flagged", report.newly_flagged), ("no longer flagged", report.no_longer_flagged)):
        if ids:
            yield Text(f"    {what}: {len(ids)}: {_shown(ids)}")
    for rule, outcome in (*report.rules.items(), *report.correlations.items()):
        for what, ids in (("fires anew on", outcome.newly), ("no longer fires on", outcome.no_longer)):
            if ids:
                yield Text(f"    {rule} {what} {len(ids)}: {_shown(ids)}")
    changed = [*report.newly_flagged, *report.no_longer_flagged]
    if changed:
        file = printable_line(report.policy.file)
        yield Text(f"    why: featurewatch policy explain {changed[0][:8]} --policy {file}", style="dim")


def _shown(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more (--json has all)" if len(ids) > _SHOWN else ""
    return ", ".join(printable_line(one[:8]) for one in ids[:_SHOWN]) + more


def _share(count: int, total: int) -> str:
    return f" ({100 * count / total:.0f} %)" if total else ""


def _summary(report: ReplayReport) -> dict[str, Any]:
    return {
        "policy": report.policy.name,
        "revision": report.policy.revision,
        "file": report.policy.file,
        "generations": report.generations,
        "replayed": len(report.replayed),
        "notFor": report.not_for,
        "notReplayed": report.not_replayed,
        "shadowed": report.shadowed,
        "flagged": report.flagged,
        "wasFlagged": report.was_flagged,
        "newlyFlagged": report.newly_flagged,
        "noLongerFlagged": report.no_longer_flagged,
        "severities": report.severities(),
        "rules": {rule: _outcome(outcome) for rule, outcome in report.rules.items()},
        "correlations": {one: _outcome(outcome) for one, outcome in report.correlations.items()},
        "notReplayedCorrelations": report.unknown_correlations,
    }


def _outcome(outcome: RuleOutcome) -> dict[str, Any]:
    return {
        "severity": outcome.severity,
        "fired": outcome.fired,
        "excepted": outcome.excepted,
        "recorded": outcome.recorded,
        "newly": outcome.newly,
        "noLonger": outcome.no_longer,
    }
