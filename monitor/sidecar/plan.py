"""What one tap is to watch: the policies that fit it, their directions, and why others do not take part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from monitor.errors import FeaturewatchError
from monitor.policy import (
    Mode,
    Policy,
    PolicySet,
    Problem,
    Sources,
    check_policy,
    compile_policies,
    fit_mismatch,
    matches_model,
)
from monitor.sidecar.frame_rows import HookColumns
from monitor.sidecar.modes import Modes
from monitor.sidecar.policy_book import PolicyBook
from monitor.sidecar.provenance import provenance_of
from monitor.sidecar.weights import direction_row, hook_plan
from monitor.v1.alerts_pb2 import ModeSource
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import Provenance
from monitor.v1.tap_pb2 import WatchPlan


@dataclass(frozen=True)
class ServedPolicy:
    """A policy as it is in force on one tap.

    Attributes:
        mode: in force. Off only where it was switched off while requests ran; no alert is made of it then.
        reason: why `mode` is lower than `asked_mode`; empty when it is not.
        mode_source: who set `mode`.
        asked_mode: what file, start or a call say.
        mismatches: keys of `fittedOn` that differ from the serving configuration, a readable line each.
    """

    policy: Policy
    mode: Mode
    reason: str = ""
    mode_source: ModeSource.ValueType = ModeSource.MODE_SOURCE_FILE
    asked_mode: Mode = Mode.SHADOW
    mismatches: tuple[str, ...] = ()

    @classmethod
    def of(cls, policy: Policy, modes: Modes, mismatches: Sequence[str]) -> ServedPolicy:
        """Thresholds that were fitted on another configuration may be wrong: such a policy falls to shadow."""
        asked, source = modes.of(policy)
        if not mismatches or asked <= Mode.SHADOW:
            return cls(policy, asked, "", source, asked, tuple(mismatches))
        reason = f"thresholds were fitted on another configuration: {'; '.join(mismatches)}"
        return cls(policy, Mode.SHADOW, reason, ModeSource.MODE_SOURCE_STALE, asked, tuple(mismatches))

    @property
    def stale(self) -> bool:
        return bool(self.mismatches)


@dataclass(frozen=True)
class TapPlan:
    """The outcome of fitting the policies to one tap.

    Attributes:
        served: by policy name; those that were off when this was made are left out.
        unserved: policy name to a readable line why this tap cannot serve it.
        policies: what the engine judges.
        hooks: columns per hook point, in the order of `policies.directions`.
        watch_plan: the directions' weights, as sent to the tap.
        provenance: policies, SAEs and probes that take part, with hashes.
    """

    served: dict[str, ServedPolicy]
    unserved: Mapping[str, str]
    policies: PolicySet
    hooks: tuple[HookColumns, ...]
    watch_plan: WatchPlan
    provenance: tuple[Provenance, ...]

    @property
    def reread(self) -> bool:
        """Whether a policy wants cached prefixes computed again when their state is not known."""
        return any(served.policy.document.spec.on_unseen == "reread" for served in self.served.values())

    @cached_property
    def dictionaries(self) -> Mapping[str, tuple[str, ...]]:
        """Ids of the SAEs that served policies name, by hook point."""
        latents = [direction for direction in self.policies.directions if direction.kind == "latent"]
        hook_points = dict.fromkeys(direction.hook_point for direction in latents)
        return {
            hook_point: tuple(dict.fromkeys(d.source for d in latents if d.hook_point == hook_point))
            for hook_point in hook_points
        }

    @property
    def fallen(self) -> frozenset[str]:
        """Policies that are in shadow only because of what is served here."""
        return frozenset(
            name for name, served in self.served.items() if served.mode_source == ModeSource.MODE_SOURCE_STALE
        )

    def retune(self, modes: Modes, loaded: Collection[str]) -> None:
        """Other modes from now on, for requests that run, too. Between frames.

        A policy that is not `loaded` any more keeps its mode until its last request ends: what a call set for it has
        gone with it, and must not turn back into what its file said.
        """
        for name, served in self.served.items():
            if name in loaded:
                self.served[name] = ServedPolicy.of(served.policy, modes, served.mismatches)

    @property
    def capturing(self) -> frozenset[tuple[str, str]]:
        """Rules, by policy and id, that take rows out of the flight recorder when they fire; in shadow none does."""
        return frozenset(
            (rule.policy, rule.id)
            for rule in self.policies.rules
            if "capture" in rule.actions and self.served[rule.policy].mode >= Mode.ALERT
        )


def plan_for_tap(
    book: PolicyBook, engine: EngineInfo, hook_points: Sequence[str], version: int, modes: Modes | None = None
) -> TapPlan:
    """Fits the loaded policies to a tap. A policy that does not fit is left out with a reason, never in part; one that
    is off is left out too, and costs neither engine nor sidecar anything."""
    modes = modes or Modes()
    served: dict[str, ServedPolicy] = {}
    unserved: dict[str, str] = {}
    for policy in book.policies:
        mode, _ = modes.of(policy)
        if mode is Mode.OFF:
            continue
        fault = _fault(book, replace(policy, mode=mode), engine, hook_points)
        if fault:
            unserved[policy.name] = f"policy {policy.name}: {fault}"
            continue
        served[policy.name] = ServedPolicy.of(policy, modes, fit_mismatch(policy, serving_config(engine)))
    # Which rules there are must not depend on who set the mode.
    active = [replace(entry.policy, mode=entry.asked_mode) for entry in served.values()]
    policies = compile_policies(active, book.sources)
    hooks = [
        (hook_point, list(directions))
        for hook_point, directions in groupby(policies.directions, key=lambda direction: direction.hook_point)
    ]
    return TapPlan(
        served=served,
        unserved=unserved,
        policies=policies,
        hooks=tuple(HookColumns(hook_point, len(directions)) for hook_point, directions in hooks),
        watch_plan=WatchPlan(
            version=version,
            hooks=[
                hook_plan(hook_point, [direction_row(direction, book.sources) for direction in directions])
                for hook_point, directions in hooks
            ],
        ),
        provenance=provenance_of(policies, book.sources),
    )


def serving_config(engine: EngineInfo) -> dict[str, str]:
    """What `fittedOn` is compared with; its `sae` and `hook` were checked when the file was read."""
    return {
        "model": engine.model,
        "revision": engine.revision,
        "dtype": engine.dtype,
        "quantization": engine.quantization,
        "kvCacheDtype": engine.kv_cache_dtype,
        "vllm": engine.version,
    }


def model_name(engine: EngineInfo) -> str:
    """The name under which clients ask for the model, else its folder or id."""
    return engine.served_model or engine.model


def model_names(engine: EngineInfo) -> tuple[str, ...]:
    """What `match.models` and exceptions may call the model: as clients do, and its folder or id."""
    return tuple(name for name in (engine.served_model, engine.model) if name)


def check_for_engine(policy: Policy, sources: Sources, engine: EngineInfo) -> list[Problem]:
    """What is wrong with a policy on this engine, as far as the engine says what it is."""
    return check_policy(
        policy,
        sources,
        num_layers=engine.num_layers or None,
        width=engine.hidden_size or None,
        model=model_name(engine),
    )


def _fault(book: PolicyBook, policy: Policy, engine: EngineInfo, hook_points: Sequence[str]) -> str:
    names = model_names(engine)
    if not any(matches_model(policy, name) for name in names):
        patterns = ", ".join(policy.document.spec.match.models)
        return f"spec.match.models ({patterns}) does not match model {' or '.join(names)}"
    try:
        directions = compile_policies([policy], book.sources).directions
        problems = check_for_engine(policy, book.sources, engine)
    except FeaturewatchError as error:
        return str(error)
    if problems:
        return "; ".join(f"{problem.value}: {problem.rule} ({problem.remedy})" for problem in problems)
    missing = sorted({direction.hook_point for direction in directions} - set(hook_points))
    if missing:
        return (
            f"needs hook point {', '.join(missing)}, this tap has {', '.join(hook_points) or 'none'}; "
            "add it to the tap's hook_points and restart the engine"
        )
    return ""
