"""What can be known to fail is told before the model runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig
from typer.testing import CliRunner

from monitor.cli.main import app
from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, JumpRelu, save_saelens
from training.discovery import capture
from training.harvest import model_config, open_model


class Untouched:
    """In the place of the model: nothing of it may be loaded."""

    def __init__(self, *_: object) -> None:
        raise AssertionError("the model was loaded")


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_model, "ResidualModel", Untouched)
    monkeypatch.setattr(capture, "ResidualModel", Untouched)


def _train(model: Path, corpus: Path, folder: Path, *more: str) -> None:
    places = ["--data", str(corpus), "--out", str(folder / "zoo"), "--cache", str(folder / "cache")]
    sizes = ["--tokens", "8000", "--context", "96", "--heldout-share", "0.4", "--hook-point", "resid_post.1"]
    CliRunner().invoke(app, ["train", str(model), *places, *sizes, *more], catch_exceptions=False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--expansion 2 -k 64", r"k 64: the SAE has 64 latents"),
        ("--expansion 0", r"expansion 0: it must be at least 1"),
        ("--tokens 0", r"tokens 0: it must be above 0"),
        ("--tokens -5", r"tokens -5"),
        ("--tokens 100", r"training on 100 rows: 1 epochs of them are less than one batch of 2,048 rows"),
        ("--windows-per-document -1", r"windows-per-document -1"),
        ("--prompt-tokens -1", r"prompt-tokens -1"),
        ("--shard-rows 0", r"shard-rows 0"),
        ("--context 1024 --heldout-tokens 9000", r"context 1024: model .* takes at most 512 positions"),
        ("--heldout-tokens 100", r"heldout-tokens 100: at least two sequences of up to 96 tokens"),
        ("--heldout-share 1e-9", r"holds out 0 of them with 0 usable sequences"),
        ("--card-tokens 100", r"card-tokens 100: two held-out sequences of up to 96 tokens"),
        ("--loss-tokens 0", r"loss-tokens 0"),
        ("--threshold-tolerance 0", r"threshold-tolerance 0.0: it is a share of k"),
        ("--hook-point resid_post.4", r"hook point 'resid_post.4': model .* has layers 0 to 3"),
        ("--hook-point mlp.1", r"hook point 'mlp.1'"),
        ("--dtype float64", r"dtype 'float64'"),
        ("--weights-dtype int8", r"weights-dtype 'int8'"),
        ("--data no-such-file.jsonl", r"data file no-such-file.jsonl: there is no such file"),
        ("--seed -1", r"seed -1"),
    ],
)
def test_training_settings(tiny_model: Path, corpus: Path, tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message) as told:
        _train(tiny_model, corpus, tmp_path, *more.split())
    assert told.value.remedy
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the files hold no text"),
        ([{"text": " "}], "the files hold no text"),
        ([{"text": text} for text in ("ab", "cd", "ef")], "none that is trained on has text of 4 tokens or more"),
        ([{"text": "half of a pair \ud800 here"}], r"a.jsonl:1: the text holds half of a surrogate pair"),
        ([{"text": None}], r"a.jsonl:1 with fields text: each row needs a text in field 'text'"),
    ],
)
def test_data_without_usable_documents(
    tiny_model: Path, tmp_path: Path, rows: list[dict[str, object]], message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if message.startswith("none"):
        # Two bytes are two tokens, and a chat turn of them would be long enough with its template.
        template = tiny_model / "chat_template.jinja"
        model = tmp_path / "plain"
        model.mkdir()
        for file in tiny_model.iterdir():
            if file != template:
                (model / file.name).write_bytes(file.read_bytes())
        tiny_model = model
    with pytest.raises(FeaturewatchError, match=message):
        _train(tiny_model, path, tmp_path)


def test_a_model_without_a_language_model_head(
    tiny_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A multimodal model that transformers knows, but not as one that predicts tokens."""
    text = AutoConfig.from_pretrained(tiny_model).to_dict()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": text}))
    assert model_config.ModelConfig.read(str(tmp_path / "model")).width == 32
    with pytest.raises(FeaturewatchError, match="without a language-model head"):
        _train(tmp_path / "model", corpus, tmp_path)


def _save_sae(folder: Path, point: HookPoint) -> Path:
    eye = np.eye(8, 32, dtype=np.float32)
    rule = JumpRelu(np.ones(8, np.float32))
    zeros = np.zeros(32, np.float32)
    save_saelens(Dictionary(eye, zeros[:8], eye, zeros, activation=rule, hook_point=point, model="toy"), folder / "toy")
    return folder


SOURCES = [
    {"text": f"{split} {label} {n}", "label": label, "split": split, "source": f"set{label}", "category": f"c{n % 2}"}
    for split in ("train", "val")
    for label in (0, 1)
    for n in range(6)
]


def _discover(model: Path, folder: Path, point: HookPoint, *more: str) -> None:
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SOURCES))
    places = ["--data", str(folder / "prompts.jsonl"), "--policy-out", str(folder / "toy.yaml")]
    sae = ["--sae", "toy", "--zoo", str(_save_sae(folder / "zoo", point))]
    sizes = ["--probe-latents", "4", "--single-latents", "2"]
    CliRunner().invoke(app, ["discover", str(model), *sae, *places, *sizes, *more], catch_exceptions=False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--keep sett0=c1", r"--keep sett0=c1: 'sett0' is no source in the data \(known: set0, set1\)\. Did you mean"),
        ("--keep set0=c7", r"--keep set0=c7: 'c7' is no category of set0 in the data \(known: c0, c1\)"),
        ("--cap other=5", r"--cap other=5: 'other' is no source"),
        ("--cap set0=0", r"--cap set0=0: it is written source=number, above 0"),
        ("--cap set0", r"--cap set0: it is written source=value"),
        ("--hard unheard-of", r"--hard unheard-of: 'unheard-of' is no source"),
        ("--hard set1", r"--hard set1: hard sources are of negatives, and it has none"),
        ("--min-tokens 0", r"min-tokens 0"),
        ("--window 0", r"window 0"),
        ("--confidence 1", r"confidence 1.0: it is a share"),
        ("--probe-latents 0", r"probe-latents 0"),
        ("--probe-latents 999", r"probe-latents 999: SAE toy has 8 latents"),
        ("--single-latents 9", r"single-latents 9: SAE toy has 8 latents"),
        ("--data no-such-file.jsonl", r"data file no-such-file.jsonl: there is no such file"),
    ],
)
def test_discovery_settings(tiny_model: Path, tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message) as told:
        _discover(tiny_model, tmp_path, HookPoint(1), *more.split())
    assert told.value.remedy
    assert not (tmp_path / "toy.yaml").exists()


def test_an_sae_at_a_layer_that_the_model_lacks(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match="has layers 0 to 3"):
        _discover(tiny_model, tmp_path, HookPoint(4))
