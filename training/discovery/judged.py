"""Judges prompts with the real policy engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monitor.policy import (
    DenseProbeInfo,
    DetectorState,
    DirectionRef,
    Phase,
    Policy,
    PolicyEngine,
    SaeInfo,
    SaeProbeInfo,
    TokenClass,
    compile_policies,
)
from monitor.sae import Dictionary, load_dense_probe, load_sae_probe
from training.discovery.fit import encode_some

Floats = npt.NDArray[np.float32]


class OneSae:
    """`monitor.policy.Sources` with a single SAE and the probe files below a folder."""

    def __init__(self, sae: str, dictionary: Dictionary, folder: Path) -> None:
        self._sae, self._dictionary, self._folder = sae, dictionary, folder

    def sae(self, sae_id: str) -> SaeInfo:
        if sae_id != self._sae:
            raise KeyError(f"this discovery uses {self._sae}, not {sae_id}")
        sae = self._dictionary
        return SaeInfo(str(sae.hook_point), sae.num_latents, sae.width, sae.sha256)

    def labelled_latent(self, sae_id: str, label: str) -> int:
        raise KeyError(f"discovery names latents of {sae_id} by index, not by label {label!r}")

    def dense_probe(self, file: str) -> DenseProbeInfo:
        probe = load_dense_probe(self._folder / file)
        return DenseProbeInfo(str(probe.hook_point), probe.weight_d.size, probe.sha256)

    def sae_probe(self, file: str) -> SaeProbeInfo:
        probe = load_sae_probe(self._folder / file)
        latents, weights = map(int, probe.latents_k), map(float, probe.weight_k)
        return SaeProbeInfo(probe.sae, tuple(latents), tuple(weights), probe.bias, probe.sha256)

    def activations(self, directions: tuple[DirectionRef, ...], rows_nd: Floats) -> Floats:
        """What the tap would send, [n, k]: latents, and dense probes with their bias."""
        acts_nk = np.empty((len(rows_nd), len(directions)), np.float32)
        latent = [column for column, direction in enumerate(directions) if direction.kind == "latent"]
        indices = np.array([directions[column].index for column in latent], np.int64)
        acts_nk[:, latent] = encode_some(self._dictionary, rows_nd, indices)
        for column, direction in enumerate(directions):
            if direction.kind == "dense":
                probe = load_dense_probe(self._folder / direction.source)
                acts_nk[:, column] = rows_nd @ probe.weight_d + probe.bias
        return acts_nk


@dataclass(frozen=True)
class Verdicts:
    """What the engine says about each prompt p after its last token.

    Attributes:
        scores: aggregated score per detector, [p].
        fired: detector is in state fire, [p].
        flagged_p: a rule fired.
    """

    scores: dict[str, npt.NDArray[np.float64]]
    fired: dict[str, npt.NDArray[np.bool_]]
    flagged_p: npt.NDArray[np.bool_]


def judge(policy: Policy, sources: OneSae, rows_nd: Floats, starts_p1: npt.NDArray[np.int64]) -> Verdicts:
    """Runs content rows of every prompt through a fresh slot of the engine."""
    policies = compile_policies([policy], sources)
    engine = PolicyEngine(policies)
    acts_nk = sources.activations(policies.directions, rows_nd)
    prompts, detectors = len(starts_p1) - 1, [detector.id for detector in policies.detectors]
    scores_pd = np.full((prompts, len(detectors)), np.nan)
    fired_pd = np.zeros((prompts, len(detectors)), bool)
    flagged_p = np.zeros(prompts, bool)
    for prompt in range(prompts):
        low, high = int(starts_p1[prompt]), int(starts_p1[prompt + 1])
        if low == high:
            continue
        slot, count = engine.open(), high - low
        judgement = engine.advance(
            acts_nk[low:high],
            np.full(count, slot, np.int64),
            np.full(count, int(TokenClass.CONTENT), np.uint8),
            np.full(count, int(Phase.PROMPT), np.uint8),
        )
        engine.close(slot)
        scores_pd[prompt] = judgement.scores_nd[-1]
        fired_pd[prompt] = judgement.states_nd[-1] == DetectorState.FIRE
        flagged_p[prompt] = bool(judgement.firings)
    return Verdicts(
        {name: scores_pd[:, column] for column, name in enumerate(detectors)},
        {name: fired_pd[:, column] for column, name in enumerate(detectors)},
        flagged_p,
    )
