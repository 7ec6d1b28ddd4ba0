"""`featurewatch policy diff`."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from monitor.cli.common import SIDECAR_HELP, TlsCa, TlsCert, TlsKey, client_tls, console, default_socket
from monitor.cli.printable import printable_line
from monitor.errors import FeaturewatchError

if TYPE_CHECKING:
    from monitor.policy import Policy
    from monitor.policy_diff import Change
    from monitor.rpc import Target

_LIVE = "live"
_SECONDS = 10.0
_SHOWN = 60
_STYLES = {"more": "yellow", "less": "cyan", "other": "magenta", "words": "dim"}
_WAYS = "more, less: can be judged, fire or be sent. other: neither is certain. words: for the reader."


def diff(  # noqa: PLR0917 - one parameter per command-line option
    old: Annotated[str, typer.Argument(metavar="OLD", help="Policy file, or live: what the sidecar has loaded.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The same.")],
    sidecar: Annotated[str | None, typer.Option(metavar="TARGET", help=SIDECAR_HELP, show_default=False)] = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare what two versions of a policy mean; order, layout and written-out defaults do not count.

    Exit code 0: they mean the same, whatever their words. 1: they differ. 2: a file has a problem.
    """
    from monitor.cli.policy.recorded import read_policy
    from monitor.policy_diff import Kind, diff_policies
    from monitor.rpc import Target

    if old == new == _LIVE:
        raise FeaturewatchError("live and live", "they are the same policy", "name a file")
    target = Target.parse(sidecar or default_socket())
    tls = (tls_ca, tls_cert, tls_key)
    if old == _LIVE:
        after = read_policy(Path(new))
        before = _live(after.name, target, tls)
    else:
        before = read_policy(Path(old))
        after = _live(before.name, target, tls) if new == _LIVE else read_policy(Path(new))
    changes = diff_policies(before, after)
    if json:
        typer.echo(json_text.dumps(_summary(before, after, changes), indent=2))
    else:
        _show(before, after, changes)
    if any(change.kind is not Kind.WORDS for change in changes):
        raise typer.Exit(1)


def _live(name: str, target: Target, tls: tuple[Path | None, Path | None, Path | None]) -> Policy:
    """The policy of this name as the sidecar has loaded it."""
    import grpc

    from monitor.policy import parse_policy
    from monitor.rpc import call_error, open_channel
    from monitor.v1.policies_pb2 import GetPolicyRequest
    from monitor.v1.policies_pb2_grpc import PolicyServiceStub

    with open_channel(target, client_tls(target, *tls)) as channel:
        try:
            answer = PolicyServiceStub(channel).GetPolicy(GetPolicyRequest(name=name), timeout=_SECONDS)
        except grpc.RpcError as error:
            raise call_error(error, target) from error
    return parse_policy(answer.source, f"live {answer.status.file}")


def _show(before: Policy, after: Policy, changes: list[Change]) -> None:
    for mark, policy in (("-", before), ("+", after)):
        name = f"{mark} {policy.name} revision {policy.revision}  {printable_line(policy.file)}"
        console.print(Text(name, style="bold"), soft_wrap=True, highlight=False)
    for change in changes:
        line = Text(f"  {change.kind.value:<6}", style=_STYLES[change.kind.value])
        line.append(f"{printable_line(change.path)}: {_value(change.old, change.new)}", style="not dim")
        line.append(f"  {printable_line(change.effect)}" if change.effect else "", style="dim")
        console.print(line, soft_wrap=True, highlight=False)
    console.print(Text(_WAYS if changes else "They mean the same.", style="dim"), soft_wrap=True, highlight=False)


def _value(old: object, new: object) -> str:
    if old in ("", None) and new in ("", None):
        return "added" if old is None else "removed"
    return f"{_shown(old)} → {_shown(new)}"


def _shown(value: object) -> str:
    if value is None:
        return "(not there)"
    text = printable_line(", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _summary(before: Policy, after: Policy, changes: list[Change]) -> dict[str, Any]:
    return {
        "old": {"policy": before.name, "revision": before.revision, "sha256": before.sha256, "file": before.file},
        "new": {"policy": after.name, "revision": after.revision, "sha256": after.sha256, "file": after.file},
        "same": all(change.kind.value == "words" for change in changes),
        "changes": [
            {
                "path": change.path,
                "old": list(change.old) if isinstance(change.old, tuple) else change.old,
                "new": list(change.new) if isinstance(change.new, tuple) else change.new,
                "kind": change.kind.value,
                "effect": change.effect,
            }
            for change in changes
        ],
    }
