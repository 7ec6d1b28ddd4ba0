"""`featurewatch policy status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from monitor.cli.common import TlsCa, TlsCert, TlsKey, console
from monitor.cli.policy.remote import SECONDS, SidecarOption, policy_service
from monitor.cli.printable import printable_line
from monitor.cli.problems import print_problems, told_problems
from monitor.rpc import ClientTls, name_of

if TYPE_CHECKING:
    from monitor.v1.policies_pb2 import PolicyStatus

#: Columns of a terminal from which on nothing is shortened.
_WIDE = 100
_SOURCES = {"file": "file", "load": "--mode", "runtime": "set", "stale": "stale"}


def status(  # noqa: PLR0917 - one parameter per command-line option
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only this policy.", show_default="all policies")
    ] = None,
    sidecar: SidecarOption = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with everything that the sidecar says.")] = False,
) -> None:
    """Show which policies are in force, in which mode and because of whom, and what their rules did. Where the policy
    files, as they were read last, are refused, it says why.

    Counted since the sidecar started: rows that a policy judged; of each rule alerts that were sent, that would have
    been sent in mode alert, that an exception held back (exc.), and rows that were judged after its deadline (late).

    Exit code 0: shown. 2: the sidecar has no such policy, or does not answer.
    """
    from google.protobuf.json_format import MessageToJson

    from monitor.v1.policies_pb2 import GetPolicyRequest, ListPoliciesRequest, ListPoliciesResponse

    with policy_service(sidecar, ClientTls(tls_ca, tls_cert, tls_key)) as service:
        if name is None:
            response = service.ListPolicies(ListPoliciesRequest(), timeout=SECONDS)
        else:
            found = service.GetPolicy(GetPolicyRequest(name=name), timeout=SECONDS)
            response = ListPoliciesResponse(policies=[found.status], refused=found.refused)
    if json:
        typer.echo(MessageToJson(response, preserving_proto_field_name=True, ensure_ascii=True))
        return
    console.print(status_table(response.policies, console.width))
    for line in status_remarks(response.policies):
        console.print(line)
    if response.refused:
        print_problems(
            told_problems(response.refused), "; the policy files are refused, the policies above stay in force"
        )


def status_table(policies: Sequence[PolicyStatus], width: int) -> Table:
    """A line for each policy, then one for each of its rules, in a terminal of so many columns."""
    narrow = width < _WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0))
    table.add_column("policy / rule", overflow="fold")
    table.add_column("rev", justify="right", no_wrap=True)
    table.add_column("mode", no_wrap=True)
    for column in ("rows", "sent", "would", "exc.", "late"):
        table.add_column(column, justify="right", no_wrap=True)
    for policy in policies:
        name = Text(printable_line(policy.name), "bold")
        rows = _count(policy.rows_judged, narrow)
        table.add_row(name, str(policy.revision), _mode(policy, "\n" if narrow else " "), rows)
        for rule in policy.rule_status:
            counts = (rule.alerts, rule.would_alert, rule.excepted, rule.late)
            styles = zip(counts, ("red", "yellow", "", "red"), strict=True)
            cells = [Text(_count(count, narrow), style if count else "dim") for count, style in styles]
            table.add_row(Text(f"  {printable_line(rule.rule)}"), "", "", "", *cells)
        table.add_section()
    return table


def status_remarks(policies: Sequence[PolicyStatus]) -> list[Text]:
    """What a person must know beyond the numbers."""
    from monitor.v1.alerts_pb2 import Mode

    remarks = []
    for policy in policies:
        found = [policy.reason] if policy.reason else []
        if policy.effective_mode != policy.mode:
            found.append(f"its file says {name_of(Mode, policy.mode)}")
        if policy.stale and "fitted on" not in policy.reason:
            found.append("its thresholds were fitted on another configuration than the one that is served")
        if policy.requests_on_older:
            many = policy.requests_on_older > 1
            found.append(
                f"{policy.requests_on_older} request{'s finish' if many else ' finishes'} on an earlier revision"
            )
        remarks += [Text.assemble((printable_line(policy.name), "bold"), f": {printable_line(one)}") for one in found]
    return remarks


def _count(count: int, narrow: bool) -> str:
    """In full, or in a narrow terminal above 99,999 in thousands and millions."""
    if not narrow or count < 100_000:
        return f"{count:,}"
    return f"{count // 1000:,}k" if count < 10_000_000 else f"{count // 1_000_000:,}M"


def _mode(policy: PolicyStatus, between: str) -> Text:
    from monitor.v1.alerts_pb2 import Mode, ModeSource

    mode, source = name_of(Mode, policy.effective_mode), name_of(ModeSource, policy.mode_source)
    style = "bold" if policy.effective_mode >= Mode.MODE_ALERT else ""
    told = f"{between}({_SOURCES.get(source, source)})"
    return Text.assemble((mode, style), (told, "red" if policy.stale else "dim"))
