"""Opens the books of a request that a tap announces."""

from __future__ import annotations

from typing import Final

from monitor.policy import PolicyEngine
from monitor.rpc import ints_from_bytes
from monitor.sidecar.alerting import stable_id
from monitor.sidecar.coverage import CoverageBook
from monitor.sidecar.history import HistoryView
from monitor.sidecar.judging import JudgingTable
from monitor.sidecar.metrics.totals import Totals
from monitor.sidecar.phases import PhaseBook
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.book import PrefixBook
from monitor.sidecar.request import LiveRequest, RequestIdentity
from monitor.sidecar.token_log import TokenLog
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.tap_pb2 import RequestBegin

# The store keeps times as signed integers.
LATEST_NANOS: Final = (1 << 63) - 1


class RequestOpener:
    """Makes the live requests of one tap."""

    def __init__(
        self,
        *,
        tap_id: str,
        session_id: str,
        model: str,
        plan: TapPlan,
        judging: JudgingTable,
        engine: PolicyEngine,
        reader: TokenReader,
        prefixes: PrefixBook,
        totals: Totals,
        history: HistoryView,
    ) -> None:
        self._tap_id = tap_id
        self._session_id = session_id
        self._model = model
        self._plan = plan
        self._judging = judging
        self._history = history
        self._engine = engine
        self._reader = reader
        self._prefixes = prefixes
        self._totals = totals

    def open(self, begin: RequestBegin) -> LiveRequest:
        """A request that nothing is known of but its prompt; raises WireFormatError when that cannot be read."""
        prompt_ids = ints_from_bytes(begin.prompt_token_ids, "prompt_token_ids")
        _, state = self._reader.classes.classify(prompt_ids, 0)
        identity = RequestIdentity(
            generation_id=stable_id("generation", self._session_id, self._tap_id, begin.handle, begin.request_id),
            handle=begin.handle,
            request_id=begin.request_id,
            external_id=begin.external_id,
            model=self._model,
            adapter=begin.adapter,
            start_unix_nanos=min(begin.start_unix_nanos, LATEST_NANOS),
            prompt_tokens=len(prompt_ids),
            tenant=begin.tenant,
        )
        judging, prefix = self._judging.of(begin), self._prefixes.open(begin)
        # The state of a prefix must serve every later request that has it: there all policies judge, and what the
        # request did not ask for is shown to no one.
        judged_by = judging.policies if prefix is None else None
        return LiveRequest(
            identity=identity,
            plan=self._plan,
            engine=self._engine,
            slot=self._engine.open(judged_by),
            log=TokenLog(self._history, prompt_ids),
            judging=judging,
            phases=PhaseBook(len(prompt_ids), self._reader.phases.after_prompt(prompt_ids)),
            class_state=state,
            coverage=CoverageBook(totals=self._totals),
            notes=["it began before this sidecar process"] if begin.resumed else [],
            prefix=prefix,
        )
