"""A whole evaluation: one pass for the figures on rows, then the splices, then the probes."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, JumpRelu
from training.evaluation.command import command_line
from training.evaluation.config import EvalConfig
from training.evaluation.decoder import decoder_figures
from training.evaluation.labelled import probe_all, read_labelled
from training.evaluation.measure import Measurement
from training.evaluation.next_token import Splice
from training.evaluation.reconstruction import norm_bands, reconstruction_of
from training.evaluation.report import EvalReport, Probing, SaeReport
from training.evaluation.row_pass import RowPass, measure_pass, require_width
from training.evaluation.splice import measure_splice
from training.evaluation.subject import Subject, require_comparable
from training.evaluation.text import harvest_config, outlier_rule, read_sequences
from training.harvest.cache import ActivationCache
from training.harvest.loading import load_tokenizer
from training.harvest.model_config import ModelConfig
from training.harvest.residuals import ResidualModel
from training.harvest.tokens import TokenSequence
from training.harvest.wanted import data_sha256
from training.identity import model_sha256, tokenizer_sha256

_LIBRARIES = ("featurewatch", "numpy", "scipy", "scikit-learn", "torch", "transformers")


def evaluate(
    config: EvalConfig,
    subjects: Sequence[Subject],
    model_as_typed: str = "",
    options: Sequence[tuple[str, str]] = (),
) -> EvalReport:
    """Measures all SAEs; what can be refused is refused before the model runs.

    Args:
        config: with the model's folder or id.
        subjects: SAEs of one model.
        model_as_typed: for the command that repeats the evaluation.
        options: flags and values with which the SAEs were read, for the same command.

    Raises:
        FeaturewatchError: bad text or labels, an SAE of another width or model, a hook point that the model lacks.
    """
    require_comparable(list(subjects))
    dictionaries = {subject.name: subject.dictionary for subject in subjects}
    points = sorted({dictionary.hook_point for dictionary in dictionaries.values()})
    shape = ModelConfig.read(config.model)
    shape.require_hook_points(points)
    shape.require_context(config.context)
    for dictionary in dictionaries.values():
        if dictionary.hook_point.site != "attn_z":
            dictionary.require_width(shape.width, config.model)
    tokenizer = load_tokenizer(config.model)
    made_from = {"model": model_sha256(config.model), "tokenizer or chat template": tokenizer_sha256(tokenizer)}
    if not config.other_model:
        _require_model(subjects, made_from["model"], config.model)
    labelled = [read_labelled(path, tokenizer, config) for path in config.probes]
    sequences = read_sequences(config, tokenizer, made_from)
    network = ResidualModel(config.model, points, config.dtype)
    for dictionary in dictionaries.values():
        require_width(dictionary, network)
    factor = None if config.cache else config.outlier_factor
    rows = measure_pass(network, dictionaries, sequences, config.batch_tokens, factor)
    probings = probe_all(network, dictionaries, labelled, config)
    del network
    splices = _splices(config, shape, dictionaries, rows)
    data = _data(config)
    return EvalReport(
        model=model_as_typed or config.model,
        model_sha256=made_from["model"],
        data=data,
        outlier_rule=outlier_rule(config),
        median_norms={str(point): median for point, median in rows.medians.items()},
        settings=_settings(config),
        versions={"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
        command=command_line(model_as_typed or config.model, list(dictionaries), config, options),
        saes=[
            _sae_report(
                subject,
                rows.measurements[subject.name],
                splices.get(subject.name),
                probings[subject.name],
                [*_notes(subject, data), *_splice_notes(config, shape)],
            )
            for subject in subjects
        ],
    )


def _splices(
    config: EvalConfig, shape: ModelConfig, dictionaries: dict[str, Dictionary], rows: RowPass[str]
) -> dict[str, Splice]:
    if not config.loss_tokens or not shape.predicts_tokens:
        return {}
    means: dict[HookPoint, npt.NDArray[np.float32]] = {
        measurement.dictionary.hook_point: measurement.rows.mean_d() for measurement in rows.measurements.values()
    }
    chosen = _some(rows.sequences, config.loss_tokens, config.seed)
    return measure_splice(config.model, dictionaries, means, chosen, config.batch_tokens)


def _some(sequences: Sequence[TokenSequence], tokens: int, seed: int) -> list[TokenSequence]:
    """Whole sequences of at least `tokens` positions (or all there are), drawn by the seed."""
    chosen: list[TokenSequence] = []
    total = 0
    for index in np.random.default_rng(seed).permutation(len(sequences)):
        if total >= tokens:
            break
        chosen.append(sequences[index])
        total += len(sequences[index].token_ids_n)
    return chosen


def _require_model(subjects: Sequence[Subject], digest: str, model: str) -> None:
    for subject in subjects:
        if (subject.made_from or {}).get("model", digest) != digest:
            raise FeaturewatchError(
                f"SAE {subject.name}",
                f"its card says that it was trained on a model of other content than {model}, whatever the names",
                "give that model with --model, or --other-model to measure it here all the same",
            )


def _sae_report(
    subject: Subject,
    measurement: Measurement,
    splice: Splice | None,
    probings: list[Probing],
    notes: list[str],
) -> SaeReport:
    dictionary = subject.dictionary
    return SaeReport(
        name=subject.name,
        model=dictionary.model,
        hook_point=str(dictionary.hook_point),
        activation=activation_text(dictionary),
        latents=dictionary.num_latents,
        width=dictionary.width,
        sha256=dictionary.sha256,
        l0_training=subject.l0_training,
        reconstruction=reconstruction_of(measurement.rows),
        reconstruction_with_outliers=reconstruction_of(measurement.rows, ("kept", "outlier")),
        reconstruction_everywhere=reconstruction_of(measurement.rows, ("kept", "outlier", "excluded")),
        norm_bands=norm_bands(measurement.rows),
        firing=measurement.latents.firing(),
        decoder=decoder_figures(dictionary),
        splice=splice,
        probings=probings,
        notes=notes,
    )


def activation_text(dictionary: Dictionary) -> str:
    """The rule from pre-activation to latent, for people."""
    rule = dictionary.activation
    if isinstance(rule, JumpRelu):
        low, high = float(rule.threshold_m.min()), float(rule.threshold_m.max())
        text = f"JumpReLU, threshold {low:.4g}" + (f" to {high:.4g}" if high > low else "")
    else:
        text = f"{type(rule).__name__}" + "".join(f", {name} = {value}" for name, value in vars(rule).items())
    return text if dictionary.input_norm == "none" else f"{text}, input {dictionary.input_norm}"


def _notes(subject: Subject, data: dict[str, str]) -> list[str]:
    trained_on = (subject.made_from or {}).get("data file")
    if trained_on and trained_on in data.values():
        return ["The text comes from the files that this SAE was trained on."]
    return []


def _splice_notes(config: EvalConfig, shape: ModelConfig) -> list[str]:
    if config.loss_tokens and not shape.predicts_tokens:
        return ["The model has no language-model head: cross-entropy and KL divergence were left out."]
    return []


def _data(config: EvalConfig) -> dict[str, str]:
    if config.cache is not None:
        return {
            f"cache, made from {what}": digest
            for what, digest in ActivationCache(config.cache).manifest.identity.items()
        }
    return {"files": ", ".join(path.name for path in config.data), "sha256": data_sha256(harvest_config(config))}


def _settings(config: EvalConfig) -> dict[str, object]:
    """Without names of places: those are in the command, as they were typed."""
    settings = asdict(config)
    for name in ("out", "replace", "cache", "model"):
        del settings[name]
    for name in ("data", "probes"):
        settings[name] = [Path(path).name for path in settings[name]]
    return settings
