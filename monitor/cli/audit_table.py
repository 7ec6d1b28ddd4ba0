"""The table of `featurewatch audit list`: names of rules stay whole, in a narrow terminal other things give way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from monitor.cli.printable import printable_line
from monitor.cli.render import clock_time, coverage_cell
from monitor.v1.generations_pb2 import GenerationSummary

#: Columns of a terminal from which on nothing is shortened.
_WIDE: Final = 120
_PADDING: Final = 2
_CLOCK: Final = len("12-31 23:59")
#: Of the client's id: its beginning is enough to ask for it.
_SHORTEST: Final = len("generation")
#: Of coverage, which breaks between words.
_COVERAGE: Final = len("(29 dropped,")


def audit_table(summaries: Sequence[GenerationSummary], width: int) -> Table:
    """Of generations, in this order, for a terminal of so many columns. Clients choose ids and tenants: neither markup
    nor control characters of theirs reach the terminal."""
    return _narrow(summaries, width) if width < _WIDE else _wide(summaries, width)


def _wide(summaries: Sequence[GenerationSummary], width: int) -> Table:
    table = _table()
    with_tenants = any(summary.tenant for summary in summaries)
    for head in ("generation", "began", "client id", *(["tenant"] if with_tenants else [])):
        table.add_column(head, overflow="fold", no_wrap=head in ("generation", "began"))
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("fired", overflow="fold")
    table.add_column("coverage")
    for one in summaries:
        ids = [Text(one.generation_id[:8]), Text(clock_time(one.start_unix_nanos)), _client(one)]
        tenant = [Text(printable_line(one.tenant))] if with_tenants else []
        table.add_row(*ids, *tenant, _tokens(one), _fired(one, width), coverage_cell(one.coverage))
    return table


def _narrow(summaries: Sequence[GenerationSummary], width: int) -> Table:
    """The client's id stands below the generation's, and its tenant below the time."""
    most = int(0.4 * width)
    fired = [_fired(one, most) for one in summaries]
    tokens = max(len("tokens"), *(len(_tokens(one)) for one in summaries))
    rules = max(len("fired"), *(len(line) for cell in fired for line in cell.plain.splitlines()))
    left = width - 5 * _PADDING - tokens - min(rules, most) - _COVERAGE
    tenant = max(len(printable_line(one.tenant)) for one in summaries)
    began = max(_CLOCK, min(tenant, left // 2))
    client = max(len("generation"), *(_client(one).cell_len for one in summaries))
    table = _table()
    table.add_column("generation\nclient id", overflow="ellipsis", width=max(_SHORTEST, min(client, left - began)))
    table.add_column("began" + ("\ntenant" if tenant else ""), overflow="ellipsis", width=began)
    table.add_column("tokens", justify="right", width=tokens)
    table.add_column("fired", overflow="fold", width=min(rules, most))
    table.add_column("coverage")
    for one, cell in zip(summaries, fired, strict=True):
        ids = _below(Text(one.generation_id[:8]), _client(one))
        time = _below(Text(clock_time(one.start_unix_nanos, "%m-%d %H:%M")), Text(printable_line(one.tenant)))
        table.add_row(ids, time, _tokens(one), cell, coverage_cell(one.coverage))
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _client(summary: GenerationSummary) -> Text:
    return Text(printable_line(summary.external_id or summary.request_id))


def _tokens(summary: GenerationSummary) -> str:
    return f"{summary.prompt_tokens}+{summary.output_tokens}"


def _fired(summary: GenerationSummary, room: int) -> Text:
    """Rules, one a line; a name that needs more room than there is goes on below its policy."""
    names = [printable_line(rule) for rule in dict.fromkeys(summary.fired)]
    rules = [Text(name if len(name) <= room else name.replace("/", "/\n", 1), style="red") for name in names]
    running = [] if summary.end_unix_nanos else [Text("(running)", style="dim")]
    return Text("\n").join(rules + running) if rules or running else Text("-", style="dim")


def _below(first: Text, second: Text) -> Text:
    return Text("\n").join([first, second]) if second else first
