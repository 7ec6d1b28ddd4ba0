"""`policy calibrate` from texts: Hugging Face, the production engine, the policy file and the report's page."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WORDS
from support.command import Command
from transformers import AutoModelForCausalLM, AutoTokenizer

from monitor.policy import parse_policy
from monitor.sae import DenseProbe, HookPoint, save_dense_probe

POLICY = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: toy, revision: 3}
spec:
  match: {models: ["*"], phases: [PHASE]}
  detectors:
    - id: d
      source: {denseProbe: {file: weights/d.safetensors}}
      aggregate: {kind: rolling_mean, window: 4, then: max, minTokens: 2}
      threshold: {fire: 100, warn: 90}
  rules:
    - {id: R1, when: d.fire, severity: high}
"""


@pytest.fixture(scope="module")
def probe() -> DenseProbe:
    return DenseProbe(HookPoint(2), np.random.default_rng(0).normal(size=32).astype(np.float32), 0.25)


def write_policy(folder: Path, probe: DenseProbe, phase: str = "prompt") -> Path:
    save_dense_probe(probe, folder / "weights" / "d.safetensors")
    (folder / "toy.yaml").write_text(POLICY.replace("PHASE", phase))
    return folder / "toy.yaml"


def write_texts(folder: Path, *, response: bool = False) -> Path:
    """90 benign texts of two sources and 30 harmful ones, which say the same word again and again."""
    draw = random.Random(0)
    rows = []
    for number in range(120):
        harmful = number >= 90
        words = draw.choices(WORDS[:4] if harmful else WORDS, k=draw.randint(3, 9))
        row = {"text": f"{number} {' '.join(words)}", "label": int(harmful), "source": f"s{number % 2}"}
        rows.append(row | ({"response": " ".join(draw.choices(WORDS, k=5))} if response else {}))
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(policy: Path, model: Path, data: Path, *more: str) -> list[str]:
    given = ["--model", str(model), "--data", str(data), "--engine", "hf", "--target-fpr", "0.05"]
    return ["policy", "calibrate", str(policy), *given, *more]


def test_from_texts_to_a_written_policy_and_its_report(
    tiny_model: Path, tmp_path: Path, probe: DenseProbe, featurewatch: Command
) -> None:
    policy, data = write_policy(tmp_path, probe), write_texts(tmp_path)
    code, out, _ = featurewatch(*arguments(policy, tiny_model, data, "--write", "--report", str(tmp_path / "out")))
    assert code == 0
    assert "Activations are Hugging Face's, not those of the engine that serves" in out
    written = parse_policy(policy.read_text())
    (detector,) = written.document.spec.detectors
    assert written.revision == 4
    assert written.document.spec.fitted_on.model_dump(by_alias=True, exclude_none=True) == {
        "model": tiny_model.name,
        "dtype": "float32",
        "hook": "resid_post.2",
    }
    assert detector.calibration is not None
    assert (detector.calibration.n, detector.calibration.confidence) == (90, 0.95)
    report = json.loads((tmp_path / "out" / "calibration.json").read_text())
    area = report["sample"]["detectors"]["d"]["area"]
    assert 0 < area["low"] < area["value"] < area["high"] < 1
    page = (tmp_path / "out" / "calibration.html").read_text()
    assert page.count("<svg") == 2
    assert not re.search(r"<script|https?://|src=", page)
    assert "Calibration of toy" in page
    # The check of what has just been written, against the report of that run.
    baseline = ("--check", "--baseline", str(tmp_path / "out" / "calibration.json"))
    assert featurewatch(*arguments(policy, tiny_model, data, *baseline))[0] == 0


def test_scores_are_those_of_the_whole_model_and_the_policy(
    tiny_model: Path, tmp_path: Path, probe: DenseProbe, featurewatch: Command
) -> None:
    """Peaks computed by hand: the model's own hidden states, template tokens skipped, rolling mean from token 2 on."""
    policy, data = write_policy(tmp_path, probe), write_texts(tmp_path)
    code, out, _ = featurewatch(*arguments(policy, tiny_model, data, "--json", "--empirical"))
    assert code == 0
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    peaks = []
    for row in [json.loads(line) for line in data.read_text().splitlines()][:90]:
        turns = [{"role": "user", "content": row["text"]}]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            rows = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0].numpy()
        before = rendered.index(row["text"])
        content = range(
            before_tokens(tokenizer, rendered[:before]), before_tokens(tokenizer, rendered[:before]) + len(row["text"])
        )
        scores = (rows @ probe.weight_d + probe.bias)[[*_system(tokenizer, rendered), *content]]
        means = [scores[max(0, end - 4) : end].mean() for end in range(2, len(scores) + 1)]
        peaks.append(max(means))
    fire = json.loads(out)["fitted"]["d"]["fire"]
    # 5 % of 90 are 4: the fifth highest must stay below, and nothing lies between.
    assert sorted(peaks)[-5] < fire == pytest.approx(sorted(peaks)[-5], rel=2e-3)


def before_tokens(tokenizer: object, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[operator]


def _system(tokenizer: object, rendered: str) -> range:
    """The default system turn's text is judged too: the policy does not skip `system`."""
    start = rendered.index("You are")
    first = before_tokens(tokenizer, rendered[:start])
    return range(first, first + len("You are a test"))


def test_responses_are_judged_as_responses(
    tiny_model: Path, tmp_path: Path, probe: DenseProbe, featurewatch: Command
) -> None:
    policy = write_policy(tmp_path, probe, "response")
    prompts = write_texts(tmp_path)
    code, _, told = featurewatch(*arguments(policy, tiny_model, prompts))
    assert code == 2
    assert "detector d: it judged none of the 90 benign generations" in told
    pairs = write_texts(tmp_path, response=True)
    assert featurewatch(*arguments(policy, tiny_model, pairs))[0] == 0


def test_prompts_alone_are_no_sample_for_a_policy_that_judges_responses(
    tiny_model: Path, tmp_path: Path, probe: DenseProbe, featurewatch: Command
) -> None:
    """In production the tokens of responses count too: more generations reach the thresholds than prompts show."""
    policy, data = write_policy(tmp_path, probe, "prompt, response"), write_texts(tmp_path)
    code, out, _ = featurewatch(*arguments(policy, tiny_model, data))
    assert code == 0
    assert "Only prompts were computed, but the policy judges responses" in out
    before = policy.read_text()
    code, _, told = featurewatch(*arguments(policy, tiny_model, data, "--write"))
    assert code == 2
    assert "--write for policy toy, which judges responses, on prompts" in told
    assert policy.read_text() == before
    code, out, _ = featurewatch(*arguments(policy, tiny_model, write_texts(tmp_path, response=True), "--write"))
    assert code == 0
    assert "Only prompts were computed" not in out


def test_a_kept_back_source_is_reported(
    tiny_model: Path, tmp_path: Path, probe: DenseProbe, featurewatch: Command
) -> None:
    policy, data = write_policy(tmp_path, probe), write_texts(tmp_path)
    code, out, _ = featurewatch(*arguments(policy, tiny_model, data, "--holdout-source", "s1", "--target-fpr", "0.1"))
    assert code == 0
    assert "On what was kept back, sources s1:" in out
    assert "source s1" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--context", "8"), "120 texts: all are longer than 8 tokens"),
        (("--split", "val"), "none is left (120 not of split val)"),
        (("--holdout-source", "s7"), "--holdout-source s7: the data have s0, s1"),
        (("--dtype", "float64"), "float64"),
    ],
)
def test_bad_input_is_told(  # noqa: PLR0917
    tiny_model: Path, tmp_path: Path, probe: DenseProbe, featurewatch: Command, options: tuple[str, str], message: str
) -> None:
    policy, data = write_policy(tmp_path, probe), write_texts(tmp_path)
    code, _, told = featurewatch(*arguments(policy, tiny_model, data, *options))
    assert code == 2
    assert message in told


def test_a_policy_for_another_model_is_refused(
    tiny_model: Path, tmp_path: Path, probe: DenseProbe, featurewatch: Command
) -> None:
    policy, data = write_policy(tmp_path, probe), write_texts(tmp_path)
    policy.write_text(policy.read_text().replace('"*"', '"qwen3-*"'))
    code, _, told = featurewatch(*arguments(policy, tiny_model, data))
    assert code == 2
    assert "its match.models is qwen3-*" in told


def test_a_policy_that_changed_meanwhile_is_not_overwritten(tmp_path: Path, probe: DenseProbe) -> None:
    from monitor.cli.calibration.writing import write_policy as write
    from monitor.errors import FeaturewatchError

    file = write_policy(tmp_path, probe)
    read = parse_policy(file.read_text(), str(file))
    file.write_text(f"{read.source}# someone's edit\n")
    with pytest.raises(FeaturewatchError, match="it was changed while the calibration ran"):
        write(read, "new")
    assert file.read_text().endswith("# someone's edit\n")
    file.chmod(0o640)
    file.write_text(read.source)
    write(read, "new\n")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new\n", 0o640)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".yaml"] == ["weights"]
