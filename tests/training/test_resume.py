"""Interrupted and resumed is uninterrupted, bit for bit."""

from __future__ import annotations

import json
import signal
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.architectures.registry import ARCHITECTURES
from training.trainer.config import TrainConfig
from training.trainer.rows import ArrayRows, Batch
from training.trainer.sae_config import SaeConfig, SaeOptions
from training.trainer.sae_training import TrainedSae
from training.trainer.stop import Interrupted
from training.trainer.train import CHECKPOINT, FINISHED, train_saes_on

POINTS = (HookPoint(1), HookPoint(2))
WIDTH, BATCH, STEPS = 16, 64, 40
CONFIG = TrainConfig(epochs=2, log_steps=3, tensorboard=False)


def _rows() -> dict[HookPoint, np.ndarray]:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((BATCH * STEPS // 2 + 5, 24)) ** 3 @ rng.standard_normal((24, WIDTH))
    return {POINTS[0]: mixed.astype(np.float32), POINTS[1]: (2 * mixed + 1).astype(np.float16)}


ROWS = _rows()


class Stopping(ArrayRows):
    """Sends SIGTERM to this process while it gives out one of its batches."""

    def __init__(self, at: int) -> None:
        super().__init__(ROWS, BATCH, seed=3)
        self._left = at

    def take(self) -> Batch:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGTERM)
        return super().take()


def _saes(architecture: str) -> dict[str, SaeConfig]:
    """Two in lockstep, at different hook points; latents die early, so that they are revived and resampled."""
    own = {"jumprelu": {"target_l0": 3.0}, "relu-resample": {"l1": 1000.0}}.get(architecture, {})
    if architecture in ("topk", "batchtopk", "matryoshka"):
        own = {"k": 3}
    rate = 0.1 if architecture == "relu-resample" else 5e-3
    options = SaeOptions(architecture=architecture, expansion=4, learning_rate=rate, dead_share=0.05)
    return {f"{point}/{architecture}": SaeConfig.of(point, options, **own) for point in POINTS}


def _train(architecture: str, folder: Path, stops: list[int]) -> dict[str, TrainedSae]:
    done = 0
    for stop in stops:
        with pytest.raises(Interrupted) as stopped:
            train_saes_on(Stopping(stop - done), _saes(architecture), CONFIG, folder=folder)
        assert (stopped.value.number, stopped.value.step, stopped.value.steps) == (signal.SIGTERM, stop, STEPS)
        assert (folder / CHECKPOINT).is_file()
        done = stop
    return train_saes_on(Stopping(0), _saes(architecture), CONFIG, folder=folder)


def _state(trained: dict[str, TrainedSae]) -> list[Any]:
    found: list[Any] = []
    for name, sae in trained.items():
        tensors: dict[str, Tensor] = {**sae.weights.parameters(), **sae.weights.buffers(), "density": sae.density_m}
        found.append((name, {key: sha256(tensor.numpy().tobytes()).hexdigest() for key, tensor in tensors.items()}))
        figures = {**vars(sae.figures)}
        del figures["seconds"]
        found.append((sae.scale, figures))
    return found


def _log(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / name / "logs" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "rows_per_second"} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Any], list[Any]]]:
    found = {}
    for architecture in ARCHITECTURES:
        folder = tmp_path_factory.mktemp(architecture)
        trained = _train(architecture, folder, [])
        found[architecture] = (_state(trained), [_log(folder, name) for name in trained])
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(stops=st.lists(st.integers(1, STEPS - 1), min_size=1, max_size=2, unique=True).map(sorted))
def test_interrupted_and_resumed_is_uninterrupted(
    uninterrupted: dict[str, tuple[list[Any], list[Any]]], architecture: str, stops: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = _train(architecture, folder, stops)
        state, logs = uninterrupted[architecture]
        assert _state(trained) == state
        assert [_log(folder, sae) for sae in trained] == logs
        assert not (folder / CHECKPOINT).exists()


def test_something_dies_is_revived_and_counted(uninterrupted: dict[str, tuple[list[Any], list[Any]]]) -> None:
    """What the comparison above is worth: dead latents, an auxiliary loss and resampling took part in it."""
    lines = [line for log in uninterrupted["topk"][1] for line in log if "aux" in line]
    assert any(line["dead_share"] > 0 and line["aux"] > 0 for line in lines)
    assert any(figures["resampled"] for _, figures in uninterrupted["relu-resample"][0][1::2])


def test_a_finished_training_is_read_back(tmp_path: Path) -> None:
    first = _train("batchtopk", tmp_path, [])

    class Untouched(ArrayRows):
        def peek(self, batches: int) -> Batch:
            raise AssertionError("rows were read")

        take = peek  # type: ignore[assignment]

    again = train_saes_on(Untouched(ROWS, BATCH, seed=3), _saes("batchtopk"), CONFIG, folder=tmp_path)
    assert _state(again) == _state(first)


def test_checkpoints_by_steps_survive_a_kill(tmp_path: Path) -> None:
    """An end without any notice: the run goes on from the last checkpoint, and the log is cut back to it."""

    class Killed(ArrayRows):
        def take(self) -> Batch:
            if self._taken == 13:
                raise MemoryError
            return super().take()

    config = TrainConfig(epochs=2, log_steps=3, tensorboard=False, checkpoint_steps=5)
    with pytest.raises(MemoryError):
        train_saes_on(Killed(ROWS, BATCH, seed=3), _saes("topk"), config, folder=tmp_path)
    (name, *_) = _saes("topk")
    assert _log(tmp_path, name)[-1]["step"] == 12
    resumed = train_saes_on(ArrayRows(ROWS, BATCH, seed=3), _saes("topk"), config, folder=tmp_path)
    whole = train_saes_on(ArrayRows(ROWS, BATCH, seed=3), _saes("topk"), config)
    assert _state(resumed) == _state(whole)
    assert [line["step"] for line in _log(tmp_path, name)] == [1, *range(3, 40, 3), 40, 40]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train_saes_on(Stopping(5), _saes("topk"), CONFIG, folder=tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FeaturewatchError, match=r"checkpoint\.safetensors .*it must be whole"):
        train_saes_on(Stopping(0), _saes("topk"), CONFIG, folder=tmp_path)
    assert not (tmp_path / FINISHED).exists()


def test_a_signal_in_the_last_step_is_no_lost_one(tmp_path: Path) -> None:
    """The training is saved as finished; what the caller would do next does not begin."""
    with pytest.raises(Interrupted) as stopped:
        train_saes_on(Stopping(STEPS), _saes("topk"), CONFIG, folder=tmp_path)
    assert (stopped.value.step, stopped.value.steps) == (STEPS, STEPS)
    assert (tmp_path / FINISHED).is_file()
    assert not (tmp_path / CHECKPOINT).exists()
    again = train_saes_on(Stopping(0), _saes("topk"), CONFIG, folder=tmp_path)
    assert all(trained.figures.rows == STEPS * BATCH for trained in again.values())


def test_signals_do_what_they_did_after_a_training(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    during = []

    class Noting(ArrayRows):
        def take(self) -> Batch:
            during.append(signal.getsignal(signal.SIGTERM))
            return super().take()

    one = {"one": SaeConfig.of(POINTS[0], SaeOptions(expansion=2), k=2)}
    train_saes_on(Noting(ROWS, BATCH), one, CONFIG, folder=tmp_path)
    assert before not in during
    assert signal.getsignal(signal.SIGTERM) is before
    during.clear()
    train_saes_on(Noting(ROWS, BATCH), one, CONFIG)  # nothing could be saved: no handlers
    assert set(during) == {before}


def test_what_the_rows_were_made_from_may_hold_tuples(tmp_path: Path) -> None:
    made_from = {"layers": (1, 2), "of": {3: ("a", None)}}
    with pytest.raises(Interrupted):
        train_saes_on(Stopping(5), _saes("topk"), CONFIG, folder=tmp_path, made_from=made_from)
    assert (tmp_path / CHECKPOINT).is_file()
    resumed = train_saes_on(Stopping(0), _saes("topk"), CONFIG, folder=tmp_path, made_from=made_from)
    assert _state(resumed) == _state(train_saes_on(Stopping(0), _saes("topk"), CONFIG))
    with pytest.raises(FeaturewatchError, match="on other rows"):
        train_saes_on(Stopping(0), _saes("topk"), CONFIG, folder=tmp_path, made_from={**made_from, "layers": (2, 1)})


@pytest.mark.parametrize("odd", [{1, 2}, Path("rows.npy"), float("nan")])
def test_what_is_no_json_is_told_before_the_training(tmp_path: Path, odd: object) -> None:
    with pytest.raises(FeaturewatchError, match=r"made_from \{'rows': .*holds it as JSON"):
        train_saes_on(Stopping(0), _saes("topk"), CONFIG, folder=tmp_path, made_from={"rows": odd})
