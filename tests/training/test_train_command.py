"""`featurewatch train` and `featurewatch sae info` from text to a folder with a card, on the tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_saes import exact_sae
from typer.testing import CliRunner

from monitor.cli.main import app
from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint, JumpRelu, load_saelens
from training.card.card import Card
from training.card.heldout import heldout_rows, heldout_sequences, reporting_sequences
from training.evaluation.splice import measure_splice
from training.harvest.cache import ActivationCache
from training.harvest.tokens import Reason
from training.identity import model_sha256

POINTS = ("resid_post.1", "resid_post.2")
K = 6


def _arguments(model: Path, corpus: Path, folder: Path, *more: str) -> list[str]:
    points = [word for point in POINTS for word in ("--hook-point", point)]
    sizes = "--tokens 8000 --context 96 --batch-tokens 768 --heldout-share 0.4 --heldout-tokens 20000 --dtype float32"
    training = f"--expansion 4 -k {K} --epochs 12 --batch-rows 128 --card-tokens 20000 --loss-tokens 600"
    places = ["--data", str(corpus), "--out", str(folder / "zoo"), "--cache", str(folder / "cache")]
    return ["train", str(model), *places, *points, *sizes.split(), *training.split(), *more]


@pytest.fixture(scope="module")
def trained(tiny_model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    result = CliRunner().invoke(app, _arguments(tiny_model, corpus, folder), catch_exceptions=False)
    assert result.exit_code == 0
    return folder


def test_folder_per_hook_point_in_saelens_layout(trained: Path) -> None:
    names = {"cfg.json", "sae_weights.safetensors", "card.json", "card.md", "run.yaml", "logs"}
    for point in POINTS:
        folder = trained / "zoo" / point
        assert {path.name for path in folder.iterdir()} == names
        dictionary = load_saelens(folder)
        assert str(dictionary.hook_point) == point
        assert (dictionary.num_latents, dictionary.width) == (128, 32)
        assert json.loads((folder / "cfg.json").read_text())["dtype"] == "float16"
    assert sorted(path.name for path in (trained / "zoo").iterdir()) == sorted(POINTS)


def test_card_states_what_was_measured(trained: Path, tiny_model: Path) -> None:
    """Every figure of the card can be measured again on the stored SAE."""
    cache = ActivationCache(trained / "cache")
    points = [HookPoint.parse(point) for point in POINTS]
    rows = heldout_rows(str(tiny_model), points, heldout_sequences(cache, 20000), 768)
    for point in points:
        folder = trained / "zoo" / str(point)
        card, dictionary = Card.load(folder), load_saelens(folder)
        assert card.sha256 == dictionary.sha256
        assert card.tokens_unique == cache.manifest.rows >= 8000
        assert card.tokens_seen <= 12 * card.tokens_unique
        assert card.excluded["template"] > 0
        assert card.excluded["bos"] > 0
        assert "kept" not in card.excluded
        assert {category: entry["licences"].keys() for category, entry in card.sources.items()} == {
            "kind 0": {"CC0-1.0": 1}.keys(),
            "kind 1": {"CC0-1.0": 1}.keys(),
        }
        kept_nd = rows.report(point)
        latents_nm = dictionary.encode(kept_nd)
        assert card.heldout_rows == len(kept_nd)
        assert card.l0_inference == pytest.approx(np.count_nonzero(latents_nm) / len(kept_nd))
        assert card.l0_inference == pytest.approx(K, rel=0.05)
        error = np.square(dictionary.decode(latents_nm) - kept_nd).sum()
        variance = np.square(kept_nd - kept_nd.mean(0)).sum()
        assert card.explained_variance == pytest.approx(1 - error / variance, abs=1e-4)
        assert card.heldout_rows_with_outliers > card.heldout_rows
        assert isinstance(dictionary.activation, JumpRelu)
        assert card.threshold == pytest.approx(float(dictionary.activation.threshold_m[0]))
        assert card.harvest_dtype == "float32"
        assert card.settings["training"]["seed"] == 0
        assert card.settings["harvest"]["dtype"] == "float32"
        assert card.settings["made_from"]["model"] == model_sha256(str(tiny_model))
        assert f"--out {trained / 'zoo'}" in card.command
        assert card.command.startswith(f"featurewatch train {tiny_model} ")
        text = (folder / "card.md").read_text()
        assert "made up" not in text
        assert card.command in text


def test_sequences_calibrate_or_report(trained: Path, tiny_model: Path) -> None:
    """Every other sequence sets the threshold; no row is in both halves."""
    sequences = heldout_sequences(ActivationCache(trained / "cache"), 20000)
    rows = heldout_rows(str(tiny_model), [HookPoint(1)], sequences, 768)
    kept = [int((sequence.reasons_n == Reason.KEPT).sum()) for sequence in sequences]
    assert len(rows.calibration(HookPoint(1))) == sum(kept[::2]) > 0
    assert len(rows.report(HookPoint(1))) == sum(kept[1::2]) > 0


def test_cross_entropy_of_a_perfect_and_of_no_dictionary(trained: Path, tiny_model: Path) -> None:
    """Splicing in the residual itself recovers everything."""
    sequences = reporting_sequences(ActivationCache(trained / "cache"), 600)
    point = HookPoint(2)
    dictionary = load_saelens(trained / "zoo" / str(point))

    means = {point: np.zeros(32, np.float32)}
    both = {"exact": exact_sae(32, point), "stored": dictionary}
    found = measure_splice(str(tiny_model), both, means, sequences, 768)
    perfect, real = found["exact"], found["stored"]
    assert perfect.spliced.value == pytest.approx(perfect.clean.value, abs=1e-4)
    assert perfect.recovered.value == pytest.approx(1.0, abs=1e-3)
    assert perfect.zeroed.value != pytest.approx(perfect.clean.value, abs=1e-3)
    stored = Card.load(trained / "zoo" / str(point)).cross_entropy
    assert stored["spliced"] == pytest.approx(real.spliced.value, rel=1e-4)
    assert stored["kl_recovered"] == pytest.approx(real.kl_recovered.value, rel=1e-3)
    assert stored["tokens"] == real.tokens > 0


def test_repeating_uses_the_cache_and_gives_the_same_weights(trained: Path, tiny_model: Path, corpus: Path) -> None:
    before = {point: load_saelens(trained / "zoo" / point).sha256 for point in POINTS}
    arguments = _arguments(tiny_model, corpus, trained)
    with pytest.raises(FeaturewatchError, match=r"output folder .*resid_post.1: it exists already"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    result = CliRunner().invoke(app, [*arguments, "--replace"], catch_exceptions=False)
    assert result.exit_code == 0
    assert {point: load_saelens(trained / "zoo" / point).sha256 for point in POINTS} == before


def test_an_l0_beyond_the_stated_tolerance_writes_nothing(
    trained: Path, tiny_model: Path, corpus: Path, tmp_path: Path
) -> None:
    """The weights come from the cache; only the tolerance is another."""
    arguments = _arguments(tiny_model, corpus, trained)
    arguments[arguments.index("--out") + 1] = str(tmp_path / "zoo")
    strict = [*arguments, "--threshold-tolerance", "1e-6"]
    with pytest.raises(FeaturewatchError, match=r"it must lie within 0.0001% of k = 6 .*--threshold-tolerance"):
        CliRunner().invoke(app, strict, catch_exceptions=False)
    assert not (tmp_path / "zoo").exists()
    result = CliRunner().invoke(app, [*arguments, "--threshold-tolerance", "0.3"], catch_exceptions=False)
    assert result.exit_code == 0
    assert Card.load(tmp_path / "zoo" / POINTS[0]).settings["training"]["threshold_tolerance"] == 0.3


def test_sae_info_shows_the_card_and_checks_the_weights(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["sae", "info", str(trained / "zoo" / POINTS[0])])
    assert result.exit_code == 0
    assert "128 latents of width 32" in result.output
    assert "the card belongs to these weights" in result.output
    assert "failed" not in result.output


def test_sae_info_notices_a_card_of_other_weights(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, point in [("cfg.json", POINTS[0]), ("sae_weights.safetensors", POINTS[0]), ("card.json", POINTS[1])]:
        (folder / name).write_bytes((trained / "zoo" / point / name).read_bytes())
    result = CliRunner().invoke(app, ["sae", "info", str(folder)])
    assert result.exit_code == 1
    assert "failed" in result.output


@pytest.mark.parametrize("odd", [{"l0_training": None}, {"cross_entropy": {}}, {"settings": []}, {"k": "four"}])
def test_sae_info_of_a_card_with_odd_figures(trained: Path, tmp_path: Path, odd: dict[str, object]) -> None:
    shutil.copytree(trained / "zoo" / POINTS[0], tmp_path / "odd")
    card = json.loads((tmp_path / "odd" / "card.json").read_text())
    (tmp_path / "odd" / "card.json").write_text(json.dumps(card | odd))
    with pytest.raises(FeaturewatchError, match=r"card\.json .*its figures must be of the kind"):
        CliRunner().invoke(app, ["sae", "info", str(tmp_path / "odd")], catch_exceptions=False)


def test_sae_info_of_an_unknown_sae(tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match="no such SAE below"):
        CliRunner().invoke(app, ["sae", "info", "nothing", "--zoo", str(tmp_path)], catch_exceptions=False)


def test_a_wrong_hook_point_is_told_before_the_harvest(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match=r"hook point 'resid_post.40': model .* has layers 0 to 3"):
        CliRunner().invoke(
            app, [*_arguments(tiny_model, corpus, tmp_path), "--hook-point", "resid_post.40"], catch_exceptions=False
        )
    assert not (tmp_path / "cache").exists()
