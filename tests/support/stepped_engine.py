"""Real vLLM engines in one child process, one after the other, driven step by step.

Importing vLLM takes as long as all else that a test of a tiny model does, so tests that need different engines share
the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from support.driver_process import DriverProcess
from support.engine import engine_args
from support.recording_sidecar import RecordingSidecar, identity_plan


class Pass(NamedTuple):
    """A request's share of one forward pass; its last rows may be drafts, and the last ones of these rejected."""

    first_position: int
    rows: int
    drafts: int
    rejected: int


@dataclass(frozen=True)
class Traced:
    """One request as vLLM's scheduler ran it.

    Attributes:
        sampled: all tokens that were sampled, also those that no client got.
        passes: in their order.
        resumed: how often it went on after a preemption.
    """

    prompt: list[int]
    sampled: list[int]
    passes: list[Pass]
    resumed: int

    @property
    def passed(self) -> list[bool]:
        """For each position, whether a forward pass went over it when the request came to it; else vLLM took it from
        its prefix cache. Rejected drafts are no positions. What is computed again later, as after a preemption,
        changes nothing: a detector has gone on by then."""
        passed: list[bool] = []
        for share in self.passes:
            passed += [False] * (share.first_position - len(passed))
            passed += [True] * (share.first_position + share.rows - share.rejected - len(passed))
        return passed

    @property
    def sequence(self) -> list[int]:
        """Prompt and all sampled tokens."""
        return self.prompt + self.sampled


@dataclass(frozen=True)
class Played:
    """What came of a schedule. `outputs` by the client's id and completion, `requests` by vLLM's id."""

    outputs: dict[str, list[list[int]]]
    requests: dict[str, Traced]
    mixed_steps: int

    def completions(self, name: str) -> dict[int, Traced]:
        """Those of the client's request that were ever scheduled, by their index."""
        found = {}
        for request_id, traced in self.requests.items():
            index, child, parent = request_id.rpartition("-")[0].rpartition("_")
            if parent == name:
                found[int(index) if child else 0] = traced
        return found


class SteppedEngine:
    """The engine that is open."""

    def __init__(self, process: DriverProcess) -> None:
        self._process = process

    def play(self, events: list[dict[str, Any]], seed: int = 0) -> Played:
        """Empties the prefix cache, applies `events` (see the driver) and steps until nothing is left."""
        self._process.say({"play": events, "seed": seed})
        answer = self._process.hear()
        return Played(
            outputs=answer["outputs"],
            requests={
                name: Traced(
                    prompt=traced["prompt"],
                    sampled=traced["sampled"],
                    passes=[Pass(*share) for share in traced["passes"]],
                    resumed=traced["resumed"],
                )
                for name, traced in answer["trace"].items()
            },
            mixed_steps=answer["mixed_steps"],
        )

    def changes_on_runner(self) -> list[str]:
        """Methods of the model runner that are wrapped, then modules of the model that are hooked."""
        self._process.say({"inspect": True})
        changes: list[str] = self._process.hear()["changes"]
        return changes


class SteppedEngines:
    """Opens engines. Use as a context manager. The process starts when it is needed, and again after a failure.

    Args:
        folder: for the logs of its processes.
        environment: more environment variables.
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self._folder, self._environment = folder, environment
        self._process: DriverProcess | None = None
        self._starts = 0

    def __enter__(self) -> SteppedEngines:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    @contextmanager
    def opened(self, args: dict[str, Any], environment: dict[str, str] | None = None) -> Iterator[SteppedEngine]:
        """An engine with these `EngineArgs`, until the block ends. `environment` holds for its start alone."""
        process, refused = self._open(args, environment)
        assert refused is None, refused
        try:
            yield SteppedEngine(process)
        except BaseException:
            # Who knows what it is in the middle of.
            self.__exit__()
            raise
        process.say({"close": True})
        assert process.hear() == {"closed": True}

    def refusal(self, args: dict[str, Any], environment: dict[str, str] | None = None) -> str:
        """The error with which an engine refuses to start."""
        _, refused = self._open(args, environment)
        assert refused is not None, "the engine started"
        return refused

    @contextmanager
    def tapped(
        self, folder: Path, hook_points: list[str], width: int, **args: Any
    ) -> Iterator[tuple[SteppedEngine, RecordingSidecar]]:
        """A tapped engine and its sidecar, whose plan (the residual rows themselves) is in force."""
        target = f"unix:{folder}/s.sock"
        recorder = RecordingSidecar(target, identity_plan(hook_points, width))
        try:
            config = {"sidecar": target, "hook_points": hook_points}
            with self.opened(engine_args(config, **args)) as engine:
                warm_up(engine, recorder)
                yield engine, recorder
        finally:
            recorder.stop()

    def _open(self, args: dict[str, Any], environment: dict[str, str] | None) -> tuple[DriverProcess, str | None]:
        process = self._process
        if process is None or not process.running:
            self._starts += 1
            process = DriverProcess("stepped_driver.py", self._folder / f"log{self._starts}", self._environment)
            self._process = process
        process.say({"open": args, "environment": environment or {}})
        return process, process.hear()["refused"]


def warm_up(engine: SteppedEngine, recorder: RecordingSidecar) -> None:
    """Returns once the watch plan is in force; the recorder then has forgotten what was asked until then."""
    for attempt in range(50):
        name = f"warm{attempt}"
        engine.play([{"add": {"id": name, "prompt": [5], "max_tokens": 1}}])
        recorder.wait_for(lambda seen, name=name: seen.ended([name]), name)
        if recorder.named(name)[0].observed:
            recorder.forget()
            return
    raise AssertionError(f"the watch plan never came into force: {recorder.summary()}")
