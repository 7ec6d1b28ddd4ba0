"""Token scores by vLLM with the tap and a sidecar of its own: the very parts that run in production."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from monitor.cli.calibration.computed import Computed
from monitor.cli.calibration.prompt_tokens import Tokens, render
from monitor.cli.calibration.records import WholeRecord, generation_of, read_records, serving_of
from monitor.cli.calibration.subject import Subject, require_match
from monitor.cli.calibration.texts import Sample, batches
from monitor.cli.demo.processes import Child, running
from monitor.cli.demo.servers import sidecar_ready
from monitor.errors import FeaturewatchError
from monitor.policy import Policy

_SIDECAR_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 20.0
# The sidecar's writer holds 1,024 records that wait for the disk.
_BATCH: Final = 256


def run_vllm(
    subject: Subject,
    samples: Sequence[Sample],
    model: str,
    *,
    dtype: str,
    context: int,
    max_tokens: int,
    engine_args: Mapping[str, Any],
    zoo: Sequence[Path],
) -> Computed:
    """Serves every prompt and has the sidecar record all of them, in shadow mode and into a store of its own.

    Raises:
        FeaturewatchError: vLLM is not installed or does not start; the policy does not fit the model; a sample comes
            with a response; not every generation was recorded.
    """
    from training.harvest.engine_start import start_tapped
    from training.harvest.loading import load_tokenizer
    from training.harvest.model_config import ModelConfig

    if importlib.util.find_spec("vllm") is None:
        raise FeaturewatchError(
            "--engine vllm",
            "vLLM is not installed in this Python environment",
            "install featurewatch with its extra 'cuda' or, on a CPU, as `make` does; or take --engine hf",
        )
    require_match(subject.policy, model)
    _require_every_request(subject.policy)
    if given := sum(sample.response is not None for sample in samples):
        raise FeaturewatchError(
            f"{given:,} texts with a response and --engine vllm",
            "a served model writes its own answers",
            "give prompts and --max-tokens, or take --engine hf for responses that are given",
        )
    positions = ModelConfig.read(model).positions
    longest = min(context, (positions or context + max_tokens) - max_tokens)
    rendered = render(load_tokenizer(model), samples, longest)
    with tempfile.TemporaryDirectory(prefix="featurewatch-calibrate-") as name:
        folder = Path(name)
        store = folder / "audit.sqlite"
        with running(_start_sidecar(subject, folder, store, zoo, model)) as sidecar:
            target = _target(folder)
            sidecar.wait_until(lambda: sidecar_ready(target), _SIDECAR_SECONDS, lambda _: None)
            tap = {"sidecar": target, "hook_points": subject.hook_points}
            length = longest + max_tokens
            llm = start_tapped(model, tap, dtype=dtype, max_model_len=length, engine_args=engine_args, alone=False)
            try:
                served = _serve(llm, rendered.tokens, max_tokens)
            finally:
                llm.llm_engine.engine_core.shutdown(timeout=_CLOSE_SECONDS)
        found = read_records(subject, store)
    by_name = {served[external]: record for record in found.whole if (external := _served_id(record, served))}
    missing = [tokens.sample for tokens in rendered.tokens if tokens.sample.name not in by_name]
    if missing:
        raise FeaturewatchError(
            f"{len(missing):,} of {len(rendered.tokens):,} texts, e.g. {missing[0].name}",
            f"the sidecar recorded no whole generation of them ({dict(found.left_out) or 'nothing was left out'})",
            "see the engine's own lines above; a report of this is welcome",
        )
    notes = [] if rendered.chat else ["The model has no chat template: texts were taken as they are."]
    return Computed(
        [
            generation_of(by_name[one.sample.name], one.sample.is_harmful, one.sample.source, one.sample.category)
            for one in rendered.tokens
        ],
        f"vLLM {found.engine.version} with the tap, {found.engine.dtype}, {found.engine.device}",
        serving_of(found.engine),
        tuple(notes),
        rendered.left_out,
    )


def _require_every_request(policy: Policy) -> None:
    """Raises FeaturewatchError for a policy that leaves some samples out: they would count as not flagged."""
    match = policy.document.spec.match
    if "*" not in match.tenants or match.sample < 1:
        raise FeaturewatchError(
            f"policy {policy.name} with match.tenants {', '.join(match.tenants)}, match.sample {match.sample:g} and "
            "--engine vllm",
            "the sidecar beside it judges as in production, where requests that name no tenant, or that match.sample "
            "leaves out, are none of this policy's",
            "take --engine hf, or calibrate a copy without the two and take over its thresholds",
        )


def _start_sidecar(subject: Subject, folder: Path, store: Path, zoo: Sequence[Path], model: str) -> Child:
    command = [sys.executable, "-m", "monitor.cli.main", "sidecar", "--listen", _target(folder)]
    command += ["--policies", subject.policy.file, "--mode", f"{subject.policy.name}=shadow"]
    for root in zoo:
        command += ["--zoo", str(root)]
    # The engine is started without a tokenizer, and without one no token of the chat template would be skipped.
    command += ["--tokenizer", model]
    command += ["--store", str(store), "--no-alerts-jsonl", "--keep-share", "1", "--no-watch"]
    return Child("the sidecar", command, folder / "sidecar.log")


def _target(folder: Path) -> str:
    return f"unix:{folder / 'sidecar.sock'}"


def _serve(llm: Any, tokens: Sequence[Tokens], max_tokens: int) -> dict[str, str]:
    """Names of the samples by the ids that the engine gave their requests."""
    from vllm import SamplingParams, TokensPrompt

    from training.progress import ProgressLine

    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, detokenize=False)
    served: dict[str, str] = {}
    with ProgressLine("texts", len(tokens), "texts") as progress:
        for part in batches(tokens, _BATCH):
            prompts = [TokensPrompt(prompt_token_ids=one.ids_n.tolist()) for one in part]
            answers = llm.generate(prompts, sampling, use_tqdm=False)
            served |= {answer.request_id: one.sample.name for answer, one in zip(answers, part, strict=True)}
            progress.update(len(served))
    return served


def _served_id(record: WholeRecord, served: Mapping[str, str]) -> str:
    """The client's id of a record's request, empty when it is none of ours."""
    external = record.summary.external_id
    return next((one for one in (external, external.rpartition("-")[0]) if one in served), "")
