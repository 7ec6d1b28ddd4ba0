"""Requests for which the same holds share what holds; exceptions end with their day."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
from prefix_kit import plan_of
from prefix_scenarios import ACME_POLICY

from monitor.sidecar.judging import JudgingTable, utc_day
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import RequestBegin


def nanos(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 10**9


def table(now: list[int]) -> JudgingTable:
    exception = {"name": "x", "match": {"adapters": ["*"]}, "reason": "r", "owner": "o", "expires": "2027-01-31"}
    excepting = json.loads(json.dumps(ACME_POLICY))
    excepting["spec"]["rules"][0]["exceptions"] = [exception]
    everyone = json.loads(json.dumps(ACME_POLICY))
    everyone["metadata"]["name"] = "q"
    del everyone["spec"]["match"]
    plan = plan_of([json.dumps(excepting), json.dumps(everyone)])
    return JudgingTable(plan, EngineInfo(model="/models/tiny", served_model="t"), lambda: now[0])


def test_requests_for_which_the_same_holds_share_it() -> None:
    judging = table([nanos(2026, 11, 21)])
    first = judging.of(RequestBegin(request_id="1", tenant="acme"))
    assert judging.of(RequestBegin(request_id="2", tenant="acme")) is first
    assert (first.policies, first.hidden_d) == ({"p", "q"}, None)
    other = judging.of(RequestBegin(request_id="3", tenant="zoo"))
    assert other.policies == {"q"}
    np.testing.assert_array_equal(other.hidden_d, [True, False])


def test_an_exception_holds_for_requests_that_begin_before_its_day() -> None:
    now = [nanos(2027, 1, 30, 23, 59, 59) + 999_999_999]
    judging = table(now)
    begin = RequestBegin(request_id="1", tenant="acme")
    assert dict(judging.of(begin).exceptions) == {("p", "R"): "x"}
    now[0] += 1
    assert utc_day(now[0]) == "2027-01-31"
    assert dict(judging.of(begin).exceptions) == {}
