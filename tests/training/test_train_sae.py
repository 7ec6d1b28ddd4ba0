"""Training on a world of known directions, the export, and the threshold at inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, JumpRelu, load_saelens, save_saelens
from training.architectures.architecture import Shape, StepContext
from training.architectures.batch_top_k import BatchTopK, BatchTopKSettings
from training.harvest.cache import ActivationCache
from training.harvest.cache_writer import CacheWriter
from training.harvest.manifest import Manifest
from training.trainer import export
from training.trainer.config import TrainConfig
from training.trainer.export import at_inference, require_l0, rounded, to_dictionary, with_threshold
from training.trainer.rows import CacheRows
from training.trainer.sae_config import SaeConfig, SaeOptions
from training.trainer.sae_training import TrainedSae
from training.trainer.schedule import learning_rate_at
from training.trainer.train import train_saes_on

POINT = HookPoint(3)
WIDTH, DIRECTIONS, ACTIVE = 32, 64, 3


class World:
    """Rows are sums of a few of `DIRECTIONS` unit vectors (more than dimensions), an offset and a little noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        directions = rng.standard_normal((DIRECTIONS, WIDTH))
        self.directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        self.offset = rng.standard_normal(WIDTH)

    def rows(self, count: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        active = rng.random((count, DIRECTIONS)).argsort(1)[:, :ACTIVE]
        strength = np.zeros((count, DIRECTIONS))
        np.put_along_axis(strength, active, rng.uniform(3, 6, (count, ACTIVE)), 1)
        rows = strength @ self.directions + self.offset + 0.02 * rng.standard_normal((count, WIDTH))
        return rows.astype(np.float32)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def cache(world: World, tmp_path_factory: pytest.TempPathFactory) -> ActivationCache:
    folder = tmp_path_factory.mktemp("cache")
    writer = CacheWriter(folder, Manifest(WIDTH, [str(POINT)], "float32", [0, 0, 0], settings={}))
    writer.append({POINT: world.rows(60_000, seed=1)}, np.random.default_rng(0))
    writer.flush()
    return ActivationCache(folder)


@pytest.fixture(scope="module")
def trained(cache: ActivationCache) -> TrainedSae:
    torch.manual_seed(0)
    return _train(cache)


def _train(cache: ActivationCache, *, k: int = ACTIVE, epochs: float = 4, batch_rows: int = 256) -> TrainedSae:
    sae = SaeConfig.of(POINT, SaeOptions(expansion=4, learning_rate=3e-3), k=k)
    source = CacheRows(cache, [POINT], batch_rows, seed=0)
    return train_saes_on(source, {"sae": sae}, TrainConfig(epochs=epochs))["sae"]


def _mean_l0(dictionary: Dictionary, rows_nd: np.ndarray) -> float:
    return np.count_nonzero(dictionary.encode(rows_nd)) / len(rows_nd)


def test_known_directions_are_recovered(trained: TrainedSae, world: World) -> None:
    learned = trained.weights.parameters()["w_dec"].numpy()
    closest = (world.directions @ learned.T).max(1)
    assert closest.mean() > 0.95
    assert trained.figures.fvu < 0.08
    assert trained.figures.l0 == pytest.approx(ACTIVE, rel=0.01)


def test_l0_at_inference_is_the_target(trained: TrainedSae, world: World) -> None:
    dictionary = to_dictionary(trained, "toy")
    dictionary = with_threshold(dictionary, world.rows(8000, seed=2), ACTIVE)
    assert _mean_l0(dictionary, world.rows(8000, seed=2)) == pytest.approx(ACTIVE, rel=1e-3)
    fresh = _mean_l0(dictionary, world.rows(8000, seed=3))
    assert fresh == pytest.approx(ACTIVE, rel=0.05)
    require_l0(fresh, ACTIVE, 0.05, POINT)


def test_the_running_threshold_is_unbiased(cache: ActivationCache, world: World) -> None:
    """Without held-out rows the export fires as often as it did in training, also after a few steps only."""
    trained = _train(cache, epochs=1)
    dictionary = at_inference(to_dictionary(trained, "toy"), trained.config, None)
    assert _mean_l0(dictionary, world.rows(8000, seed=2)) == pytest.approx(ACTIVE, rel=0.3)


def test_an_l0_off_the_target_is_refused() -> None:
    with pytest.raises(FeaturewatchError, match=r"L0 184.00 at inference: it must lie within 5% of k = 32"):
        require_l0(184.0, 32, 0.05, POINT)


def test_export_equals_the_trained_weights(trained: TrainedSae, world: World) -> None:
    """Folding scale and bias changes nothing: the same latents, up to the scale, and the same reconstruction."""
    rows = world.rows(500, seed=4)
    dictionary = to_dictionary(trained, "toy")
    sae = trained.weights
    scaled = torch.from_numpy(rows) * trained.scale
    pre = (scaled - sae.b_dec_d) @ sae.w_enc_md.T + sae.b_enc_m
    assert isinstance(dictionary.activation, JumpRelu)
    pre *= pre > float(dictionary.activation.threshold_m[0]) * trained.scale
    expected = (pre @ sae.w_dec_md + sae.b_dec_d) / trained.scale
    latents = dictionary.encode(rows)
    np.testing.assert_allclose(latents, pre.numpy() / trained.scale, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(dictionary.decode(latents), expected.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(dictionary.w_dec_md, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 5e-3)])
def test_stored_and_read_back(trained: TrainedSae, world: World, tmp_path: Path, dtype: str, tolerance: float) -> None:
    dictionary = with_threshold(to_dictionary(trained, "toy"), world.rows(4000, seed=2), ACTIVE)
    stored = rounded(dictionary, dtype)
    again = load_saelens(save_saelens(stored, tmp_path / "sae", dtype=dtype))
    np.testing.assert_array_equal(again.w_enc_md, stored.w_enc_md)
    np.testing.assert_array_equal(again.b_enc_m, stored.b_enc_m)
    assert isinstance(again.activation, JumpRelu)
    assert isinstance(dictionary.activation, JumpRelu)
    np.testing.assert_array_equal(again.activation.threshold_m, dictionary.activation.threshold_m)
    rows = world.rows(500, seed=5)
    ours, theirs = dictionary.decode(dictionary.encode(rows)), again.decode(again.encode(rows))
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(ours) <= tolerance


@pytest.mark.parametrize(("aux_weight", "revived"), [(0.0, False), (1 / 32, True)])
def test_dead_latents_are_revived_by_the_auxiliary_loss(world: World, aux_weight: float, revived: bool) -> None:
    """Half of the latents start with a bias at which they never fire; only the auxiliary loss gives them a gradient."""
    generator = torch.Generator().manual_seed(0)
    offset_d = torch.from_numpy(world.offset.astype(np.float32))
    sae = BatchTopK(BatchTopKSettings(ACTIVE, aux_weight), Shape(WIDTH, 64), offset_d[None], generator)
    dead_j = torch.arange(32)
    sae.b_enc_m[dead_j] = -4.0
    adam = torch.optim.Adam(sae.parameters().values(), lr=3e-3)
    fired = set()
    for step in range(400):
        x_nd = torch.from_numpy(world.rows(256, seed=100 + step))
        loss = sae.step(x_nd, StepContext(step, 1, dead_j if aux_weight else None))
        sae.before_update()
        adam.step()
        sae.after_update()
        fired |= set(loss.fired_m[:32].nonzero().flatten().tolist())
    # A few wake up by themselves when the decoder bias moves.
    assert (len(fired) > 16) == revived


def test_a_threshold_far_below_that_of_the_first_rows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in the order of their texts: the first ones are no sample of all."""
    eye = np.eye(8, dtype=np.float32)
    dictionary = Dictionary(eye, np.zeros(8, np.float32), eye, np.zeros(8, np.float32), JumpRelu(eye[0]), POINT, "toy")
    rows_nd = np.random.default_rng(0).random((400, 8)).astype(np.float32)
    rows_nd[:100] += 100.0
    monkeypatch.setattr(export, "_CHUNK_ROWS", 100)
    found = with_threshold(dictionary, rows_nd, 4)
    assert float((found.encode(rows_nd) > 0).sum()) == 4 * len(rows_nd)


def test_threshold_needs_enough_positive_latents() -> None:
    rng = np.random.default_rng(0)
    silent = Dictionary(
        w_enc_md=rng.standard_normal((16, 8)).astype(np.float32),
        b_enc_m=np.full(16, -100, np.float32),
        w_dec_md=np.eye(16, 8, dtype=np.float32),
        b_dec_d=np.zeros(8, np.float32),
        activation=JumpRelu(np.zeros(16, np.float32)),
        hook_point=POINT,
        model="toy",
    )
    with pytest.raises(FeaturewatchError, match=r"0.0 positive latents per row"):
        with_threshold(silent, rng.standard_normal((100, 8)).astype(np.float32), 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 128}, "k 128: the SAE has 128 latents"),
        ({"epochs": 1e-4}, "less than one batch"),
        ({"epochs": 2, "batch_rows": 100_000}, "less than one batch of 100,000 rows, however many epochs"),
    ],
)
def test_settings_that_do_not_fit_the_cache(cache: ActivationCache, changes: dict[str, object], message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        _train(cache, **changes)  # type: ignore[arg-type]


def test_an_unharvested_hook_point_is_told(cache: ActivationCache) -> None:
    with pytest.raises(FeaturewatchError, match=r"hook point 'resid_post.9': the cache .* holds resid_post.3"):
        CacheRows(cache, [HookPoint(9)], 256, seed=0)


def test_settings_out_of_range_are_told() -> None:
    with pytest.raises(FeaturewatchError, match="expansion 0"):
        SaeOptions(expansion=0)
    with pytest.raises(FeaturewatchError, match=r"warm-up 0\.7 and decay 0\.5"):
        SaeOptions(warm_up=0.7, decay=0.5)


@pytest.mark.parametrize("epochs", [0.0, float("inf"), float("nan")])
def test_epochs_without_an_end_are_refused(epochs: float) -> None:
    with pytest.raises(FeaturewatchError, match=rf"epochs {epochs}: it must be above 0 and finite"):
        TrainConfig(epochs=epochs)


def test_learning_rate_rises_holds_and_falls() -> None:
    options = SaeOptions(learning_rate=1.0, warm_up=0.1, decay=0.2)
    rates = [learning_rate_at(options, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[50] == rates[80] == 1.0
    assert rates[90] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.1
