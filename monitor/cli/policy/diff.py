"""`featurewatch policy diff`."""

from __future__ import annotations

import json as json_text
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from monitor.cli.common import TlsCa, TlsCert, TlsKey, console
from monitor.cli.policy.remote import SidecarOption, policy_service
from monitor.cli.printable import printable_line

if TYPE_CHECKING:
    from monitor.cli.policy.diff_sides import Pair
    from monitor.policy import Policy
    from monitor.policy_diff import Change

_SHOWN = 60
_STYLES = {"more": "yellow", "less": "cyan", "other": "magenta", "words": "dim"}
_WAYS = "more, less: can be judged, fire or be sent. other: neither is certain. words: for the reader."


def diff(  # noqa: PLR0917 - one parameter per command-line option
    old: Annotated[
        str, typer.Argument(metavar="OLD", help="Policy file, folder of them, or live: what the sidecar has loaded.")
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The same.")],
    sidecar: SidecarOption = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare what two versions of a policy mean; order, layout and written-out defaults do not count.

    Of folders, policies of the same name are compared.

    Exit code 0: they mean the same, whatever their words. 1: they differ, or only one side has a policy of a name. 2: a
    file has a problem, or the sidecar does not answer.
    """
    from monitor.cli.policy.diff_sides import pairs, read_sides
    from monitor.policy_diff import Kind, diff_policies
    from monitor.rpc import ClientTls

    sides = read_sides(old, new, lambda: policy_service(sidecar, ClientTls(tls_ca, tls_cert, tls_key)))
    found = [
        ((before, after), [] if before is None or after is None else diff_policies(before, after))
        for before, after in pairs(*sides)
    ]
    if json:
        summary = _summary(found) if any(side.whole for side in sides) else _pair_summary(*found[0])
        typer.echo(json_text.dumps(summary, indent=2))
    else:
        differ = any(None in pair or changes for pair, changes in found)
        for pair, changes in found:
            _show(pair, changes)
            if differ and not changes and None not in pair:
                _say(Text("  the same", style="dim"))
        if not differ or any(changes for _, changes in found):
            _say(Text(_WAYS if differ else "They mean the same.", style="dim"))
    if any(None in pair or any(change.kind is not Kind.WORDS for change in changes) for pair, changes in found):
        raise typer.Exit(1)


def _show(pair: Pair, changes: Sequence[Change]) -> None:
    for mark, policy, other in zip("-+", pair, reversed(pair), strict=True):
        if policy is not None:
            line = Text(f"{mark} {policy.name} revision {policy.revision}  {printable_line(policy.file)}", style="bold")
            line.append("  the other side has no policy of this name" if other is None else "", style="not bold yellow")
            _say(line)
    for change in changes:
        line = Text(f"  {change.kind.value:<6}", style=_STYLES[change.kind.value])
        line.append(f"{printable_line(change.path)}: {_value(change.old, change.new)}", style="not dim")
        line.append(f"  {printable_line(change.effect)}" if change.effect else "", style="dim")
        _say(line)


def _say(text: Text) -> None:
    console.print(text, soft_wrap=True, highlight=False)


def _value(old: object, new: object) -> str:
    if old in ("", None) and new in ("", None):
        return "added" if old is None else "removed"
    return f"{_shown(old)} → {_shown(new)}"


def _shown(value: object) -> str:
    if value is None:
        return "(not there)"
    text = printable_line(", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _summary(found: Sequence[tuple[Pair, Sequence[Change]]]) -> dict[str, Any]:
    """Of folders."""
    return {
        "policies": [_pair_summary(pair, changes) for pair, changes in found if None not in pair],
        "onlyOld": [_named(old) for (old, new), _ in found if new is None],
        "onlyNew": [_named(new) for (old, new), _ in found if old is None],
    }


def _pair_summary(pair: Pair, changes: Sequence[Change]) -> dict[str, Any]:
    return {
        "old": _named(pair[0]),
        "new": _named(pair[1]),
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


def _named(policy: Policy | None) -> dict[str, Any]:
    assert policy is not None
    return {"policy": policy.name, "revision": policy.revision, "sha256": policy.sha256, "file": policy.file}
