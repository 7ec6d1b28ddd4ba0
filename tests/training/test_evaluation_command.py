"""`featurewatch sae eval` from folders and text to JSON, page and table; bad input is refused before the model runs."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import Command
from toy_saes import random_sae

from monitor.sae import Dictionary, HookPoint, TopK, load_saelens, save_saelens
from training.evaluation.page.markup import text

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m[red]&\"'"


def _stored(folder: Path, seed: int, **changes: Any) -> Dictionary:
    sae = dataclasses.replace(random_sae(32, 64, seed, HookPoint(1)), model=HOSTILE, **changes)
    save_saelens(sae, folder)
    return load_saelens(folder)


@pytest.fixture(scope="module")
def saes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two SAEs of one hook point; the first has a card, and a name that is no friend of pages."""
    root = tmp_path_factory.mktemp("saes")
    first, second = root / "<b>one", root / "two"
    sha256 = _stored(first, 0).sha256
    (first / "card.json").write_text(json.dumps({"sha256": sha256, "l0_training": 12.5, "settings": {}}))
    _stored(second, 1)
    return first, second


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            "text": f"{'storm and fire' if label else 'calm and bread'} number {number} </script><img src=x>",
            "label": label,
            "split": "val" if number % 3 == 0 else "train",
            "source": f"{'bad' if label else 'good'} {number % 4}",
        }
        for number in range(30)
        for label in (0, 1)
    ]
    path = tmp_path_factory.mktemp("labelled") / "<i>words.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SMALL = shlex.split("--tokens 1500 --loss-tokens 300 --context 64 --batch-tokens 512 --probe-k 1 --probe-k 4")


class Page(html.parser.HTMLParser):
    """Tags, whether they are closed in order, attributes and text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_json_page_and_table(  # noqa: PLR0917
    featurewatch: Command, saes: tuple[Path, Path], tiny_model: Path, corpus: Path, labelled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [*map(str, saes), "--model", str(tiny_model), "--data", str(corpus), "--probe", str(labelled)]
    code, shown, _ = featurewatch("sae", "eval", *arguments, *SMALL, "--out", str(out))
    assert code == 0
    assert "explained variance" in shown
    assert "\x1b" not in shown
    found = json.loads((out / "eval.json").read_text())
    assert found["schema"] == 1
    assert [sae["name"] for sae in found["saes"]] == [str(path) for path in saes]
    first, second = found["saes"]
    assert first["l0_training"] == 12.5
    assert second["l0_training"] is None
    assert first["reconstruction"]["rows"] == second["reconstruction"]["rows"] > 500
    assert first["reconstruction_everywhere"]["rows"] > first["reconstruction"]["rows"]
    assert first["splice"]["tokens"] > 100
    assert first["splice"]["clean"] == second["splice"]["clean"]
    names = [(probe["name"], probe["k"]) for probe in first["probings"][0]["probes"]]
    assert names == [("latents", 1), ("latents", 4), ("residual", 0), ("words", 0), ("majority", 0)]
    assert first["probings"][0]["folds"] == 3
    words = next(probe for probe in first["probings"][0]["probes"] if probe["name"] == "words")
    assert words["unseen_sources"]["auroc"]["value"] == 1
    assert str(tmp_path) not in json.dumps(found["settings"])
    repeat = shlex.split(found["command"])
    assert repeat[:5] == ["featurewatch", "sae", "eval", *map(str, saes)]
    again = [word if word != str(out) else str(tmp_path / "again") for word in repeat[1:]]
    assert featurewatch(*again)[0] == 0
    repeated = json.loads((tmp_path / "again" / "eval.json").read_text())
    assert repeated["saes"] == found["saes"]
    _check_page((out / "eval.html").read_text(), found)
    code, _, error = featurewatch("sae", "eval", *arguments, *SMALL, "--out", str(out))
    assert (code, "it exists already" in error) == (2, True)


def _check_page(document: str, found: dict[str, Any]) -> None:
    page = Page(document.replace("<!doctype html>", ""))
    assert page.open == []
    assert page.seen.isdisjoint({"script", "img", "link", "iframe", "object", "b>one", "i"})
    assert not [value for name, value in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", document)
    assert "default-src 'none'" in document
    assert {"\u202e", "\x1b"}.isdisjoint(document)
    assert "<script>alert(1)</script>" in page.words
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert document.count("<svg") == len(labels) == 1 + 7 * len(found["saes"])
    assert all(len(label) > 20 for label in labels)
    assert f"{found['saes'][1]['reconstruction']['l0']['value']:.1f}" in page.words


def test_text_is_escaped_and_cannot_hide() -> None:
    shown = text(HOSTILE)
    assert shown == "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e\\u001b[31m[red]&amp;&quot;&#x27;"


def test_one_topk_sae_on_a_cache_without_losses_and_probes(
    featurewatch: Command, tiny_model: Path, corpus: Path, tmp_path: Path
) -> None:
    """The held-out text of a training, every other sequence of it."""
    from training.harvest.config import HarvestConfig
    from training.harvest.run import harvest

    config = HarvestConfig(
        model=str(tiny_model),
        data=(corpus,),
        hook_points=("resid_post.1",),
        cache=tmp_path / "cache",
        tokens=600,
        context=64,
        batch_tokens=512,
        heldout_share=0.3,
        dtype="float32",
    )
    harvest(config)
    save_saelens(dataclasses.replace(random_sae(32, 64), activation=TopK(4)), tmp_path / "sae")
    arguments = ["--model", str(tiny_model), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    code, shown, _ = featurewatch("sae", "eval", str(tmp_path / "sae"), *arguments, "--loss-tokens", "0")
    assert code == 0
    assert "TopK, k = 4" in shown
    assert "cross-entropy" not in shown
    (sae,) = json.loads((tmp_path / "out" / "eval.json").read_text())["saes"]
    assert 3.5 < sae["reconstruction"]["l0"]["value"] <= 4
    assert sae["splice"] is None


def _refused(featurewatch: Command, *arguments: str) -> str:
    code, _, error = featurewatch("sae", "eval", *arguments)
    assert code == 2
    return error


def test_bad_input_is_refused_with_a_remedy(  # noqa: PLR0917
    featurewatch: Command, saes: tuple[Path, Path], tiny_model: Path, corpus: Path, labelled: Path, tmp_path: Path
) -> None:
    sae, model, data = str(saes[1]), ["--model", str(tiny_model)], ["--data", str(corpus)]
    assert "neither of --data and --cache" in _refused(featurewatch, sae, *model)
    assert "it is given twice" in _refused(featurewatch, sae, sae, *model, *data)
    assert "ame the model's folder or Hugging Face id with --model" in _refused(featurewatch, sae, *data)
    save_saelens(dataclasses.replace(random_sae(32, 64), model="someone/weights"), tmp_path / "elsewhere")
    # The name of a file from anywhere starts no download; tests have no network, so asking would say otherwise.
    assert "starts no download" in _refused(featurewatch, str(tmp_path / "elsewhere"), *data)
    (tmp_path / "empty.jsonl").write_text("")
    assert "hold no text" in _refused(featurewatch, sae, *model, "--data", str(tmp_path / "empty.jsonl"))
    _stored(tmp_path / "narrow", 0)
    save_saelens(random_sae(16, 8), tmp_path / "narrow")
    assert "of width 16" in _refused(featurewatch, str(tmp_path / "narrow"), *model, *data)
    save_saelens(random_sae(32, 8, point=HookPoint(9)), tmp_path / "deep")
    assert "layers 0 to 3" in _refused(featurewatch, str(tmp_path / "deep"), *model, *data)
    (tmp_path / "plain.jsonl").write_text('{"text": "no label"}\n')
    assert "each row needs a text, a label" in _refused(
        featurewatch, sae, *model, *data, "--probe", str(tmp_path / "plain.jsonl")
    )
    one_sided = [line for line in labelled.read_text().splitlines() if '"label": 0' in line]
    (tmp_path / "one.jsonl").write_text("\n".join(one_sided))
    assert "needs 5 texts with label 1 and holds 0" in _refused(
        featurewatch, sae, *model, *data, "--probe", str(tmp_path / "one.jsonl")
    )
    assert "it is mean or max" in _refused(featurewatch, sae, *model, *data, "--pooling", "sum")
    other = tmp_path / "other"
    card = {"sha256": _stored(other, 3).sha256, "settings": {"made_from": {"model": "another"}}}
    (other / "card.json").write_text(json.dumps(card))
    assert "model of other content" in _refused(featurewatch, str(other), *model, *data)
    assert not (tmp_path / "eval").exists()


def test_outliers_are_told_apart_and_left_out_of_the_splice() -> None:
    from training.evaluation.row_pass import measure_pass
    from training.harvest.tokens import Reason, TokenSequence

    class Loud:
        """Rows are as long as their token's id."""

        hook_points = (HookPoint(1),)

        def width_of(self, _point: HookPoint) -> int:
            return 8

        def residuals(self, token_ids_bt: np.ndarray) -> dict[HookPoint, Any]:
            import torch

            rows_btd = torch.zeros(*token_ids_bt.shape, 8)
            rows_btd[..., 0] = torch.from_numpy(token_ids_bt.astype(np.float32))
            return {HookPoint(1): rows_btd}

    ids_n = np.array([1, 5, 5, 4, 60, 5, 6], np.int32)
    reasons_n = np.array([Reason.BOS] + [Reason.KEPT] * 6, np.uint8)
    sequences = [TokenSequence(ids_n[: 7 - short], reasons_n[: 7 - short], False) for short in (0, 3, 0)]
    found = measure_pass(Loud(), {"it": random_sae()}, sequences, 16, 6.0)  # type: ignore[arg-type]
    assert found.medians == {HookPoint(1): 5.0}
    marked = [sequence.token_ids_n[sequence.reasons_n == Reason.OUTLIER].tolist() for sequence in found.sequences]
    assert sorted(map(str, marked)) == ["[60]", "[60]", "[]"]
    assert found.measurements["it"].latents.rows == 13
    told = measure_pass(Loud(), {"it": random_sae()}, sequences, 16, None)  # type: ignore[arg-type]
    assert told.measurements["it"].latents.rows == 15
