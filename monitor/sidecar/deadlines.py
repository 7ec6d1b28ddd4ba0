"""Rules whose verdicts come after their `deadlineMs`: counted, and told where `onTimeout` asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monitor.policy import TIMEOUT_RULE, Judgement
from monitor.policy.deadlines import Deadline, deadlines_of, judged_rows, overdue
from monitor.sidecar.alert_maker import AlertMaker
from monitor.sidecar.frame_runs import Runs
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.request import LiveRequest
from monitor.v1.alerts_pb2 import Alert


class Deadlines:
    """The deadlines of one tap's rules."""

    def __init__(self, plan: TapPlan, alerts: AlertMaker, ledger: PolicyLedger) -> None:
        self._rules = plan.policies.rules
        self._alerts = alerts
        self._ledger = ledger
        self._all = deadlines_of(plan.policies)

    def passed(self, forward_end_unix_nanos: int) -> tuple[Deadline, ...]:
        """Those that are over now for tokens of a forward pass that ended then; none where that is not known (0)."""
        if not self._all or not forward_end_unix_nanos:
            return ()
        return overdue(self._all, self._alerts.now() - forward_end_unix_nanos)

    def tell(
        self, passed: Sequence[Deadline], runs: Runs, shown: Judgement, forward_end_unix_nanos: int
    ) -> list[tuple[LiveRequest, Alert]]:
        """Counts the rows on which a rule was judged too late; returns the alerts about it, one a request and policy.

        Args:
            passed: deadlines that were over when the rows were judged.
            runs: the rows.
            shown: their judgement, NaN where a request's detector is not asked.
            forward_end_unix_nanos: of the forward pass.
        """
        told = []
        for deadline in passed:
            rule = self._rules[deadline.rule]
            if self._alerts.is_off(rule.policy):
                continue
            judged_n = judged_rows(rule, shown)
            self._ledger.late(rule.policy, rule.id, int(judged_n.sum()))
            for run in runs.runs if deadline.alerts else ():
                judged = np.flatnonzero(judged_n[run.start : run.start + run.count])
                if judged.size and rule.policy not in run.request.told_late:
                    run.request.told_late |= {rule.policy}
                    position = run.first + int(judged[0])
                    try:
                        alert = self._alerts.late(run.request, position, rule.policy, forward_end_unix_nanos)
                    except Exception:  # noqa: BLE001
                        # The other alerts of the frame must go out whatever is wrong with this one.
                        self._alerts.failed(run.request, position, rule.policy, TIMEOUT_RULE)
                    else:
                        told.append((run.request, alert))
        return told
