"""Token scores by Hugging Face and the production policy engine: quick on a CPU, but not the engine that serves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monitor.calibration.generation import Generation
from monitor.cli.calibration.computed import Computed
from monitor.cli.calibration.prompt_tokens import Tokens, render
from monitor.cli.calibration.subject import Subject, require_match
from monitor.cli.calibration.texts import Sample
from monitor.policy import (
    Phase,
    PolicyEngine,
    PolicyError,
    ResponsePhases,
    TokenClasses,
    check_policy,
)
from monitor.policy.fit import short_name
from monitor.policy.score_trace import ScoreTrace
from monitor.sae import HookPoint
from monitor.sidecar.weights import direction_row
from monitor.v1.tap_pb2 import DirectionRule

Floats = npt.NDArray[np.float32]


def run_huggingface(
    subject: Subject,
    samples: Sequence[Sample],
    model: str,
    *,
    dtype: str = "float32",
    context: int = 1024,
    batch_tokens: int = 4096,
) -> Computed:
    """Runs every sample through the model and judges it token by token.

    Raises:
        PolicyError: the policy does not fit the model.
        FeaturewatchError: no such model; no sample fits; see `render`.
    """
    from training.discovery.capture import tokenizer_json
    from training.harvest.loading import load_tokenizer
    from training.harvest.model_config import ModelConfig
    from training.harvest.residuals import ResidualModel
    from training.progress import ProgressLine

    config = ModelConfig.read(model)
    wrong = check_policy(
        subject.compiled.policies[0], subject.sources, num_layers=config.layers, width=config.width, model=model
    )
    if wrong:
        raise PolicyError(wrong)
    tokenizer = load_tokenizer(model)
    require_match(subject.policy, model)
    rendered = render(tokenizer, samples, min(context, config.positions or context))
    encoders = [_Encoder(subject, point) for point in subject.hook_points]
    network = ResidualModel(model, [HookPoint.parse(point) for point in subject.hook_points], dtype)
    classes = TokenClasses.from_tokenizer_json(tokenizer_json(tokenizer))
    judge = _Judge(subject, classes)
    found: dict[str, Generation] = {}
    total = sum(len(tokens.ids_n) for tokens in rendered.tokens)
    done = 0
    with ProgressLine("texts", total) as progress:
        for part in _by_length(rendered.tokens, batch_tokens):
            ids_bt = np.zeros((len(part), max(len(tokens.ids_n) for tokens in part)), np.int64)
            for row, tokens in enumerate(part):
                ids_bt[row, : len(tokens.ids_n)] = tokens.ids_n
            rows = {str(point): rows_btd.numpy() for point, rows_btd in network.residuals(ids_bt).items()}
            for row, tokens in enumerate(part):
                count = len(tokens.ids_n)
                acts_nk = np.empty((count, len(subject.compiled.directions)), np.float32)
                for encoder in encoders:
                    acts_nk[:, encoder.columns] = encoder.encode(rows[encoder.hook_point][row, :count])
                found[tokens.sample.name] = judge.generation(tokens, acts_nk)
                done += count
            progress.update(done)
    notes = [
        "Activations are Hugging Face's, not those of the engine that serves. They differ in the last digits, and by "
        "more with another dtype or quantisation there: calibrate with --engine vllm before you rely on a bound."
    ]
    if not rendered.chat:
        notes.append("The model has no chat template: texts were taken as they are.")
    return Computed(
        [found[sample.name] for sample in samples if sample.name in found],
        f"Hugging Face transformers, {str(network.dtype).removeprefix('torch.')}",
        {"model": short_name(model), "dtype": str(network.dtype).removeprefix("torch.")},
        tuple(notes),
        rendered.left_out,
    )


class _Encoder:
    """The directions of one hook point, with the tap's arithmetic."""

    def __init__(self, subject: Subject, hook_point: str) -> None:
        self.hook_point = hook_point
        chosen = [
            (column, direction)
            for column, direction in enumerate(subject.compiled.directions)
            if direction.hook_point == hook_point
        ]
        self.columns = [column for column, _ in chosen]
        rows = [direction_row(direction, subject.sources) for _, direction in chosen]
        self._w_dk = np.stack([row.weight_d for row in rows], axis=1)
        self._bias_k = np.array([row.bias for row in rows], np.float32)
        least = {DirectionRule.DIRECTION_RULE_IDENTITY: -np.inf, DirectionRule.DIRECTION_RULE_RELU: 0.0}
        self._least_k = np.array([least.get(row.rule, row.threshold) for row in rows], np.float32)

    def encode(self, rows_nd: Floats) -> Floats:
        """Activations float32 [n, k]."""
        acts_nk = rows_nd @ self._w_dk + self._bias_k
        return np.where(acts_nk <= self._least_k, np.float32(0), acts_nk)


class _Judge:
    """The production engine, one generation after the other."""

    def __init__(self, subject: Subject, classes: TokenClasses) -> None:
        self._engine = PolicyEngine(subject.compiled, capacity=1)
        self._names = [detector.name for detector in subject.compiled.detectors]
        self._classes = classes
        self._phases = ResponsePhases(classes.kinds)

    def generation(self, tokens: Tokens, acts_nk: Floats) -> Generation:
        sample, count = tokens.sample, len(tokens.ids_n)
        classes_n, _ = self._classes.classify(tokens.ids_n, 0)
        phases_n = np.full(count, Phase.PROMPT, np.uint8)
        state = self._phases.after_prompt(tokens.ids_n[: tokens.prompt])
        phases_n[tokens.prompt :], _ = self._phases.of_response(tokens.ids_n[tokens.prompt :], state)
        slot = self._engine.open()
        judgement = self._engine.advance(acts_nk, np.full(count, slot, np.int64), classes_n, phases_n)
        self._engine.close(slot)
        scores = {name: judgement.token_scores_nd[:, d].astype(np.float64) for d, name in enumerate(self._names)}
        trace = ScoreTrace(scores, phases_n, classes_n)
        return Generation(sample.name, trace, sample.is_harmful, sample.source, sample.category)


def _by_length(tokens: Sequence[Tokens], batch_tokens: int) -> list[list[Tokens]]:
    """Batches of at most so many positions, padding included; the longest first."""
    found: list[list[Tokens]] = []
    for one in sorted(tokens, key=lambda item: -len(item.ids_n)):
        if not found or (len(found[-1]) + 1) * len(found[-1][0].ids_n) > batch_tokens:
            found.append([])
        found[-1].append(one)
    return found
