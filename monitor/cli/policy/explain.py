"""`featurewatch policy explain`."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from monitor.cli.common import SIDECAR_HELP, TlsCa, TlsCert, TlsKey, console, default_zoo
from monitor.errors import FeaturewatchError
from monitor.policy.nearest import nearest
from monitor.policy.vocabulary import RESERVED_RULES

if TYPE_CHECKING:
    from monitor.policy import Policy
    from monitor.replay import Explanation, Recorded


def explain(  # noqa: PLR0917 - one parameter per command-line option
    id_: Annotated[
        str, typer.Argument(metavar="GENERATION", help="Generation, request or client id, or the beginning of one.")
    ],
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy", metavar="FILE", help="Explain what this policy would have done instead.", show_default=False
        ),
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            metavar="ID",
            help="Only this rule and its detectors, this correlation, or on-unseen, on-drop, on-timeout, on-stale.",
            show_default=False,
        ),
    ] = "",
    sidecar: Annotated[str | None, typer.Option(metavar="TARGET", help=SIDECAR_HELP, show_default=False)] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read this file instead of asking a sidecar.", show_default=False),
    ] = None,
    zoo: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="With --policy: folder with SAEs; may be repeated.", show_default=False),
    ] = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="Token by token, one JSON list.")] = False,
) -> None:
    """Say why each detector and rule stood as it did on a generation, token by token.

    Tokens over which no state and no condition changes are told together. Alerts of correlations, and of tokens that
    were not seen, were dropped or were judged too late, come first. Only recorded generations can be explained.

    Exit code 0: explained. 2: there is no such generation or rule, it is not recorded, or a file has a problem.
    """
    from monitor.cli.audit_reader import open_reader
    from monitor.cli.policy.explained import head_lines, span_lines
    from monitor.cli.policy.explained_json import as_json
    from monitor.cli.policy.recorded import circumstances_of, made_of
    from monitor.replay import explain as explain_policy
    from monitor.replay import read_record
    from monitor.replay.shelf import Shelf
    from monitor.rpc import ClientTls
    from monitor.sae import Catalog
    from monitor.sidecar.policy_files import read_policy

    other = None if policy is None else read_policy(policy)
    with open_reader(sidecar, store, ClientTls(tls_ca, tls_cert, tls_key)) as reader:
        record = reader.record(id_)
    if not record.tokens:
        raise FeaturewatchError(
            f"generation {record.summary.generation_id}",
            "nothing flagged it, so that only its summary is kept",
            "explain a recorded one: featurewatch audit list",
        )
    shelf = Shelf({} if other is None else {other.sha256: other})
    recorded = read_record(record, circumstances_of(record), shelf)
    explained: list[Explanation] = []
    if other is not None:
        explained = [explain_policy(recorded, other, made_of(other, Catalog(zoo or default_zoo())), rule)]
    else:
        having = [one for one in recorded.policies.values() if rule in ("", *RESERVED_RULES, *_rules(one))]
        explained = [explain_policy(recorded, one, {}, rule) for one in having]
    if not explained:
        raise _nothing(recorded, rule)
    if json:
        typer.echo(json_text.dumps([as_json(one, recorded) for one in explained], indent=2))
        return
    for one in explained:
        for line in (*head_lines(one, recorded), Text(), *span_lines(one, recorded), Text()):
            console.print(line, soft_wrap=True, highlight=False)
    for name, why in () if other is not None else recorded.without_text.items():
        console.print(Text(f"policy {name} also judged it, but {why}; give its file with --policy"), soft_wrap=True)


def _rules(policy: Policy) -> list[str]:
    """Ids of its rules and correlations."""
    spec = policy.document.spec
    return [*(one.id for one in spec.rules), *(one.id for one in spec.correlations)]


def _nothing(recorded: Recorded, rule: str) -> FeaturewatchError:
    subject = f"generation {recorded.id}"
    if rule and recorded.policies:
        known = [id_ for policy in recorded.policies.values() for id_ in _rules(policy)]
        near = nearest(rule, known)
        remedy = f"did you mean {near}" if near else "name one of them"
        return FeaturewatchError(f"rule {rule!r} on {subject}", f"it was judged by {', '.join(known)}", remedy)
    why = "; ".join(f"{name}: {reason}" for name, reason in recorded.without_text.items()) or "no policy judged it"
    return FeaturewatchError(subject, why, "give a policy's file with --policy")
