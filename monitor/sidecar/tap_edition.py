"""One edition of the policies on one tap: everything that judges the requests that began with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from monitor.policy import PolicyEngine
from monitor.sidecar.alert_maker import AlertMaker
from monitor.sidecar.gap_judge import GapJudge
from monitor.sidecar.history import HistoryPool, HistoryView
from monitor.sidecar.judging import JudgingTable
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.metrics.totals import Totals
from monitor.sidecar.opening import RequestOpener
from monitor.sidecar.plan import TapPlan, model_name
from monitor.sidecar.prefix.book import PrefixBook
from monitor.sidecar.prefix.namespace import prefix_namespace, tells_phases_apart
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.problem_log import ProblemLog
from monitor.sidecar.row_judge import RowJudge
from monitor.sidecar.tokenizer import TokenReader
from monitor.sidecar.watch import direction_keys
from monitor.v1.engine_pb2 import EngineInfo


@dataclass(frozen=True)
class TapKit:
    """What all editions on one tap share; `clock` gives the wall clock in nanoseconds since the Unix epoch."""

    tap_id: str
    session_id: str
    engine_info: EngineInfo
    reader: TokenReader
    ledger: PolicyLedger
    prefix_states: PrefixStates
    history: HistoryPool
    totals: Totals
    problems: ProblemLog
    clock: Callable[[], int]


class TapEdition:
    """Made in any thread, used between frames.

    Attributes:
        keys: the directions that it needs, in the order of its engine's columns.
        requests: that it judges and that have not ended.
    """

    def __init__(self, plan: TapPlan, kit: TapKit) -> None:
        self.plan = plan
        self.keys = direction_keys(plan)
        self.requests = 0
        self.engine = PolicyEngine(plan.policies)
        self.prefixes = PrefixBook(
            kit.prefix_states,
            kit.engine_info,
            prefix_namespace(plan.policies, plan.watch_plan, kit.reader.classes),
            tells_phases_apart=tells_phases_apart(plan.policies, kit.reader.phases),
        )
        alerts = AlertMaker(
            tap_id=kit.tap_id,
            plan=plan,
            reader=kit.reader,
            ledger=kit.ledger,
            problems=kit.problems,
            clock=kit.clock,
        )
        view = HistoryView(kit.history, len(plan.policies.detectors))
        self.opener = RequestOpener(
            tap_id=kit.tap_id,
            session_id=kit.session_id,
            model=model_name(kit.engine_info),
            plan=plan,
            engine=self.engine,
            judging=JudgingTable(plan, kit.engine_info, kit.clock),
            reader=kit.reader,
            prefixes=self.prefixes,
            totals=kit.totals,
            history=view,
        )
        self.gaps = GapJudge(plan, self.engine, kit.reader, self.prefixes, alerts)
        self.rows = RowJudge(
            tap_id=kit.tap_id,
            plan=plan,
            engine=self.engine,
            reader=kit.reader,
            prefixes=self.prefixes,
            alerts=alerts,
            ledger=kit.ledger,
            problems=kit.problems,
            history=view,
        )
