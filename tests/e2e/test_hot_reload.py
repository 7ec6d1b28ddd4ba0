"""Policies that change while the real vLLM answers: who runs keeps its revision, and no position is lost or doubled.

The rules of the test's policy fire at positions that are known beforehand: each asks that a condition, which always
holds, has held for so many judged tokens. A position that were lost, or judged twice, would shift all that come later.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pytest
from support.command import Command

from monitor.cli.demo.servers import Setting
from monitor.cli.demo.watch import SidecarView
from monitor.rpc import Target, open_channel
from monitor.sae import DenseProbe, HookPoint, save_dense_probe
from monitor.v1.alerts_pb2 import Mode
from monitor.v1.generations_pb2 import GenerationRecord, GetGenerationRequest
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.policies_pb2 import ListPolicyEventsRequest, PolicyEvent, PolicyStatus
from monitor.v1.policies_pb2_grpc import PolicyServiceStub

pytestmark = [pytest.mark.engine, pytest.mark.model]

NAME: Final = "hot"
WIDTH: Final = 576
#: Of the model, so that a stream lives until its client leaves.
CONTEXT: Final = 2048
PROMPT: Final = "Tell me about the lighthouse on the cliff, and who keeps its lamp alight in winter."
#: By revision: detectors with their hook point and by how much they are louder than the first of that hook point, and
#: after how many judged tokens each of the rules fires.
DETECTORS: Final = {1: {"a": (10, 1), "b": (10, 2)}, 2: {"c": (14, 1), "a": (10, 1), "d": (14, 3)}}
RULES: Final = {1: range(10, CONTEXT, 10), 2: range(15, CONTEXT, 15)}
Kind = PolicyEvent.Kind


def policy_text(revision: int) -> str:
    detectors = "".join(
        f"    - id: {name}\n"
        f"      source: {{denseProbe: {{file: weights/hot-{layer}-{times}.safetensors}}}}\n"
        "      aggregate: {kind: max, skip: []}\n"
        "      threshold: {fire: -1.0e+30}\n"
        for name, (layer, times) in DETECTORS[revision].items()
    )
    always = " and ".join(f"{name}.fire" for name in DETECTORS[revision])
    rules = "".join(
        f'    - {{id: HOT-{after}, when: "{always}", for: {after} tokens, severity: low}}\n'
        for after in RULES[revision]
    )
    return (
        f"apiVersion: monitor/v1\nkind: Policy\nmetadata: {{name: {NAME}, revision: {revision}}}\n"
        f"spec:\n  mode: alert\n  detectors:\n{detectors}  rules:\n{rules}"
    )


@dataclass
class Deployment:
    """The running engine and its sidecar, and the file of the policy that changes."""

    setting: Setting
    view: SidecarView
    service: PolicyServiceStub
    generations: GenerationServiceStub
    salts: Iterator[int]
    begun_unix_nanos: int

    @property
    def file(self) -> Path:
        return self.setting.policies / f"{NAME}.yaml"

    def put(self, text: str) -> None:
        """At once: a look in between would find half a file."""
        written = self.file.with_suffix(".tmp")
        written.write_text(text)
        written.replace(self.file)

    def events(self, kind: Kind.ValueType) -> list[PolicyEvent]:
        request = ListPolicyEventsRequest(policy=NAME, since_unix_nanos=self.begun_unix_nanos)
        return [event for event in self.service.ListPolicyEvents(request, timeout=30).events if event.kind == kind]

    def until_event(self, kind: Kind.ValueType) -> PolicyEvent:
        until(lambda: self.events(kind), f"a policy event of kind {kind}")
        return self.events(kind)[-1]

    def is_later(self, event: dict[str, Any]) -> bool:
        """Than the beginning of this test."""
        return int(event["time_unix_nanos"]) >= self.begun_unix_nanos

    def status(self) -> PolicyStatus:
        return next(one for one in self.view.policies().policies if one.name == NAME)

    def request(self, max_tokens: int, *, stream: bool) -> urllib.request.Request:
        """A prompt that shares its prefix with no other: all of it is computed."""
        body = {
            "model": self.setting.served_name,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_salt": f"hot-{next(self.salts)}",
            "stream": stream,
        }
        url = f"http://127.0.0.1:{self.setting.port}/v1/chat/completions"
        return urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def send(self, max_tokens: int = 20) -> str:
        """Sends a request, waits for the answer, and returns its id."""
        with urllib.request.urlopen(self.request(max_tokens, stream=False), timeout=180) as answer:
            id_: str = json.load(answer)["id"]
            return id_

    def answered(self) -> GenerationRecord:
        """The record of a request that is sent now and answered in full."""
        return self.ended(self.send())

    def ended(self, id_: str) -> GenerationRecord:
        summary = self.view.ended_generations([id_], 120)[id_]
        return self.view.generation(summary.generation_id, seconds=0)

    def live(self, id_: str) -> GenerationRecord:
        return self.generations.GetGeneration(GetGenerationRequest(id=id_), timeout=30).generation

    def until_judged_by(self, revision: int) -> GenerationRecord:
        """Sends requests until one begins with a revision: the tap then watches what it needs. Those before it are
        judged by the one before, and as wholly."""
        for _ in range(50):
            record = self.answered()
            if revision_of(record) == revision:
                return record
            if revision > 1:
                check_judged_by(record, revision - 1)
        raise AssertionError(f"no request was judged by revision {revision}")


class Stream:
    """A request that is answered token by token until the client leaves."""

    def __init__(self, deployment: Deployment) -> None:
        self._answer = urllib.request.urlopen(deployment.request(CONTEXT - 100, stream=True), timeout=180)
        # The first piece: the prompt has been computed.
        self.id: str = json.loads(self._answer.readline().removeprefix(b"data: "))["id"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()


class Traffic(threading.Thread):
    """Requests one after the other, whatever changes meanwhile; short ones, so that in most steps one begins."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(daemon=True)
        self.ids: list[str] = []
        self._deployment = deployment
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.is_set():
            self.ids.append(self._deployment.send(1))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def until(ready: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def revision_of(record: GenerationRecord) -> int:
    """Of the policy that judged it; 0 where none of this name did."""
    (revision,) = {int(one.revision) for one in record.provenance if (one.kind, one.name) == ("policy", NAME)} or {0}
    return revision


def scores(record: GenerationRecord, detector: str) -> npt.NDArray[np.float64]:
    """Of each position that the engine computed."""
    column = list(record.score_columns).index(f"{NAME}/{detector}")
    return np.array([token.token_scores[column] for token in record.tokens if token.observed])


def check_judged_by(record: GenerationRecord, revision: int) -> None:
    """All of it, each position once, and by nothing else."""
    assert revision_of(record) == revision
    coverage = record.summary.coverage
    assert (coverage.observed, coverage.restored, coverage.dropped, coverage.unseen) == (coverage.positions, 0, 0, 0)
    assert not record.gaps
    assert not record.notes
    mine = [alert for alert in record.alerts if alert.policy == NAME]
    assert {alert.policy_revision for alert in mine} == {revision}
    expected = [(f"HOT-{after}", after - 1) for after in RULES[revision] if after <= coverage.positions]
    assert [(alert.rule, alert.position) for alert in mine] == expected
    columns = [name.partition("/")[2] for name in record.score_columns if name.startswith(f"{NAME}/")]
    assert set(columns) == set(DETECTORS[revision])
    first = {layer: name for name, (layer, times) in DETECTORS[revision].items() if times == 1}
    for name, (layer, times) in DETECTORS[revision].items():
        found, alone = scores(record, name), scores(record, first[layer])
        assert len(found) == coverage.positions
        # A column of another direction would be no multiple; NaN is no multiple either.
        np.testing.assert_allclose(found, times * alone, rtol=1e-3, atol=1e-3 * float(np.abs(found).max()))


def modes(record: GenerationRecord) -> list[Mode.ValueType]:
    """Of its alerts, in order, each change once."""
    found = [alert.mode for alert in record.alerts if alert.policy == NAME]
    return [mode for at, mode in enumerate(found) if at == 0 or found[at - 1] != mode]


@pytest.fixture
def changing(deployment: Setting) -> Iterator[Deployment]:
    rng = np.random.default_rng(5)
    for layer in (10, 14):
        weight_d = rng.standard_normal(WIDTH).astype(np.float32)
        for times in (1, 2, 3):
            probe = DenseProbe(HookPoint(layer), times * weight_d, bias=0.25 * times)
            save_dense_probe(probe, deployment.policies / "weights" / f"hot-{layer}-{times}.safetensors")
    target = Target.parse(deployment.target)
    with SidecarView(deployment.target, lambda _: None) as view, open_channel(target) as channel:
        stubs = PolicyServiceStub(channel), GenerationServiceStub(channel)
        changing = Deployment(deployment, view, *stubs, salts=count(), begun_unix_nanos=time.time_ns())
        yield changing
        # Other tests find the policies as they were.
        changing.file.unlink(missing_ok=True)
        changing.until_event(Kind.KIND_REMOVED)


def test_a_reload_under_live_requests_loses_no_position_and_each_keeps_its_revision(
    changing: Deployment, featurewatch: Command
) -> None:
    sidecar = ("--sidecar", changing.setting.target)
    before = changing.view.policies()
    changing.put(policy_text(1))
    assert changing.until_event(Kind.KIND_ADDED).actor == "file watch"
    by_first = changing.until_judged_by(1)
    check_judged_by(by_first, 1)
    with Traffic(changing) as traffic, Stream(changing) as one, Stream(changing) as other:
        changing.put(policy_text(2).replace("mode: alert", "mode: alarm"))
        code, _, told = featurewatch("policy", "reload", "--reason", "revision 2", *sidecar)
        assert (code, "spec.mode" in told, "all policies stay as they were" in told) == (2, True, True)
        assert "spec.mode" in changing.until_event(Kind.KIND_REFUSED).detail
        assert changing.status().revision == 1
        check_judged_by(changing.answered(), 1)

        changing.put(policy_text(2))
        changed = changing.until_event(Kind.KIND_CHANGED)
        status = changing.status()
        assert status.revision == 2
        assert status.requests_on_older >= 2
        assert changing.view.policies().plan_version > before.plan_version
        by_second = changing.until_judged_by(2)
        check_judged_by(by_second, 2)
        with Stream(changing) as late:
            ids = [one.id, other.id, late.id]
            until(lambda: all(fired_since(changing, id_, changed.time_unix_nanos) for id_ in ids), "alerts")
            code, shown, _ = featurewatch("policy", "mode", NAME, "shadow", "--reason", "drill", *sidecar)
            assert (code, "shadow" in shown) == (0, True)
            until(lambda: all(Mode.MODE_SHADOW in modes(changing.live(id_)) for id_ in ids), "shadow alerts")
    for id_, revision in zip(ids, (1, 1, 2), strict=True):
        record = changing.ended(id_)
        check_judged_by(record, revision)
        assert modes(record) == [Mode.MODE_ALERT, Mode.MODE_SHADOW], "at once, and for good"
    between = [changing.ended(id_) for id_ in traffic.ids]
    revisions = [revision_of(record) for record in between]
    assert revisions == sorted(revisions)
    assert set(revisions) == {1, 2}
    for record, revision in zip(between, revisions, strict=True):
        check_judged_by(record, revision)
    # The same prompt: what both revisions read is the same, wherever its column lies.
    prompt = by_first.summary.prompt_tokens
    np.testing.assert_allclose(scores(by_first, "a")[:prompt], scores(by_second, "a")[:prompt], rtol=1e-2, atol=0.05)

    told = featurewatch("policy", "history", NAME, "--json", *sidecar)[1]
    history = [event for event in map(json.loads, told.splitlines()) if changing.is_later(event)]
    assert told_by(history) == [
        ("KIND_ADDED", 0, 1),
        ("KIND_REFUSED", 0, 0),
        ("KIND_CHANGED", 1, 2),
        ("KIND_MODE_SET", 2, 2),
    ]
    assert (history[-1]["reason"], history[-1]["new_mode"]) == ("drill", "MODE_SHADOW")
    (tap,), (tap_before,) = changing.view.policies().taps, before.taps
    assert (tap.errors, tap.dropped_rows) == (tap_before.errors, tap_before.dropped_rows)


def fired_since(deployment: Deployment, id_: str, unix_nanos: int) -> bool:
    return any(alert.time_unix_nanos > unix_nanos for alert in deployment.live(id_).alerts if alert.policy == NAME)


def told_by(history: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Kind, old and new revision; what was refused is told by the file's watcher and by the call, in either order."""
    found = [(one["kind"], one.get("old_revision", 0), one.get("new_revision", 0)) for one in history]
    return [one for at, one in enumerate(found) if at == 0 or found[at - 1] != one]
