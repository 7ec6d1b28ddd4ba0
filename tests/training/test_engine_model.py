"""Rows of an engine come back at their places, all of them, or not at all."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_engine import Change, FakeLLM, start_fake_engine

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.sae.row_log import HEADER, RowLogHeader, step_numbers, step_path
from monitor.tap.record import Segment, Step
from training.harvest import engine_model
from training.harvest.engine_model import EngineModel
from training.harvest.engine_start import engine_version, parse_engine_args
from training.harvest.residuals import ResidualModel
from training.harvest.row_log import RowLogReader

POINTS = (HookPoint(2, "resid_pre"), HookPoint(2))
LENGTHS_B = np.array([12, 3, 9, 1])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeLLM]:
    made: list[FakeLLM] = []
    monkeypatch.setattr(engine_model, "start_engine", start_fake_engine(made))
    return made


def _tokens() -> np.ndarray:
    # Token 0 is an ordinary one: padding is told by lengths alone.
    tokens_bt = np.random.default_rng(3).integers(0, 200, (4, 12))
    tokens_bt[2, 8] = 0
    tokens_bt[np.arange(12) >= LENGTHS_B[:, None]] = 0
    return tokens_bt


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_equal_hugging_faces_and_padding_never_reaches_the_engine(
    tiny_model: Path, made: list[FakeLLM], dtype: str
) -> None:
    tokens_bt = _tokens()
    with EngineModel(str(tiny_model), POINTS, dtype, context=12) as model:
        (engine,) = made
        rows = model.residuals(tokens_bt, LENGTHS_B)
        whole = model.residuals(tokens_bt[:2, :5])
    assert engine.prompts == [[12, 3, 9, 1], [5, 5]]
    assert engine.arguments["max_model_len"] == 13  # type: ignore[attr-defined]
    assert (model.hook_points, model.dtype, model.device.type) == (tuple(sorted(POINTS)), getattr(torch, dtype), "cpu")
    assert [model.width_of(point) for point in POINTS] == [32, 32]
    truth = ResidualModel(str(tiny_model), [HookPoint(1), HookPoint(2)], dtype)
    for index, length in enumerate(LENGTHS_B):
        alone = truth.residuals(tokens_bt[index : index + 1, :length])
        for point, found_btd in rows.items():
            expected_td = alone[HookPoint(1) if point.site == "resid_pre" else point][0]
            torch.testing.assert_close(found_btd[index, :length], expected_td, rtol=2e-2, atol=2e-2)
            if dtype == "float32":
                torch.testing.assert_close(found_btd[index, :length], expected_td, rtol=1e-5, atol=1e-5)
            assert not found_btd[index, length:].any()
    assert all(rows_btd.shape == (2, 5, 32) and rows_btd.dtype == torch.float32 for rows_btd in whole.values())


def test_a_batch_that_would_not_fit_goes_in_parts(
    tiny_model: Path, made: list[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    with EngineModel(str(tiny_model), POINTS, "float32", context=12) as model:
        whole = model.residuals(_tokens(), LENGTHS_B)
        monkeypatch.setattr(model, "_most_rows", 12)
        parts = model.residuals(_tokens(), LENGTHS_B)
    assert made[0].prompts[1:] == [[12], [3, 9], [1]]
    for point in POINTS:
        torch.testing.assert_close(parts[point], whole[point], rtol=1e-5, atol=1e-5)


def test_closing_ends_the_engine_and_removes_its_rows(tiny_model: Path, made: list[FakeLLM]) -> None:
    model = EngineModel(str(tiny_model), POINTS, "float32", context=12)
    folder = model._reader._folder.parent
    assert folder.is_dir()
    model.close()
    model.close()
    assert made[0].closed
    assert not folder.exists()
    with pytest.raises(FeaturewatchError, match="engine that was closed"):
        model.residuals(_tokens(), LENGTHS_B)


def test_an_engine_that_does_not_start_leaves_no_folder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise FeaturewatchError("vLLM", "it must start", "see its lines")

    monkeypatch.setattr(engine_model, "start_engine", refuse)
    monkeypatch.setattr(engine_model.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(FeaturewatchError, match="it must start"):
        EngineModel(str(tiny_model), POINTS, "float32", context=12)
    monkeypatch.setattr(engine_model, "start_engine", lambda *args, **kwargs: type("Untapped", (), {})())
    with pytest.raises(AttributeError):
        EngineModel(str(tiny_model), POINTS, "float32", context=12)
    assert list(tmp_path.iterdir()) == []


def _without(index: int) -> Change:
    return lambda steps: [step for at, step in enumerate(steps) if at != index]


def _doubled(steps: list[Step]) -> list[Step]:
    return [*steps[:2], *steps[1:]]


def _shifted(steps: list[Step]) -> list[Step]:
    """The second chunk of the first sequence says that it is the third."""
    segment = steps[2].segments[0]
    moved = replace(steps[2], segments=[Segment(segment.handle, segment.first + 1, segment.length)])
    return [*steps[:2], moved, *steps[3:]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without(2), r"no rows of sequences 0 \(5 of 12 positions, the first is 5\): .* 1 of 4 sequences lack some"),
        (lambda steps: steps[:1], r"sequences 0 \(12 of 12 .*\), 1 .*, 2 .*, 3 .* 4 of 4"),
        (_doubled, "sequence 0: two rows of position 0"),
        (_shifted, "sequence 0: positions 6 to 10 with other tokens than it has"),
    ],
)
def test_a_row_that_is_lost_doubled_or_anothers_is_an_error(
    tiny_model: Path, made: list[FakeLLM], change: Change, says: str
) -> None:
    with EngineModel(str(tiny_model), POINTS, "float32", context=12) as model:
        made[0].change = change
        with pytest.raises(FeaturewatchError, match=says):
            model.residuals(_tokens(), LENGTHS_B)


def test_a_recording_that_ended_and_an_engine_that_died_are_told(tiny_model: Path, made: list[FakeLLM]) -> None:
    with EngineModel(str(tiny_model), POINTS, "float32", context=12) as model:
        made[0].dies = True
        with pytest.raises(FeaturewatchError, match="it died amid a batch"):
            model.residuals(_tokens(), LENGTHS_B)
        made[0].writer.fail("OSError: [Errno 28] No space left on device")
        with pytest.raises(FeaturewatchError, match=r"No space left on device.*a harvest needs every row"):
            model.residuals(_tokens(), LENGTHS_B)
        made[0].dies = False
        with pytest.raises(FeaturewatchError, match="No space left on device"):
            model.residuals(_tokens(), LENGTHS_B)


def test_a_step_that_is_missing_or_damaged_is_told(tiny_model: Path, made: list[FakeLLM]) -> None:
    def spoil(model: EngineModel, number: int, data: bytes | None) -> None:
        model._llm.generate([{"prompt_token_ids": [1] * 12}], _OneToken(), use_tqdm=False)
        folder = model._reader._folder
        assert step_numbers(folder) == [0, 1, 2, 3]
        path = step_path(folder, number)
        path.unlink() if data is None else path.write_bytes(data)
        with pytest.raises(FeaturewatchError, match=f"recorded step .*{path.name}.*whole and once"):
            list(model._reader.read())

    for number, data in ((1, None), (0, b"not a step")):
        with EngineModel(str(tiny_model), POINTS, "float32", context=12) as model:
            spoil(model, number, data)


class _OneToken:
    max_tokens = 1


def test_a_folder_without_a_recording_names_the_cause(tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match=r"writes record\.json there"):
        RowLogReader(tmp_path)
    for text in ("{}", "[]", "no json"):
        (tmp_path / HEADER).write_text(text)
        with pytest.raises(FeaturewatchError, match="recorded rows in"):
            RowLogReader(tmp_path)
    entries = json.loads(RowLogHeader(("resid_post.1",), 4, "float32", {}).to_json())
    (tmp_path / HEADER).write_text(json.dumps(entries | {"version": 2}))
    with pytest.raises(FeaturewatchError, match="version 2, expected 1"):
        RowLogReader(tmp_path)


@pytest.mark.parametrize(
    ("point", "context", "says"),
    [
        (HookPoint(0, "resid_pre"), 12, r"'resid_pre\.0' with activations vllm.*huggingface"),
        (HookPoint(1, "mlp_out"), 12, "'mlp_out.1' with activations vllm"),
        (HookPoint(4), 12, "has layers 0 to 3"),
        (HookPoint(1), 512, "takes 512 positions, and vLLM needs one.*--context 511"),
    ],
)
def test_what_the_engine_cannot_give_is_refused_before_it_starts(
    tiny_model: Path, made: list[FakeLLM], point: HookPoint, context: int, says: str
) -> None:
    with pytest.raises(FeaturewatchError, match=says):
        EngineModel(str(tiny_model), [point], "float32", context=context)
    assert made == []


def test_sequences_longer_than_the_engine_takes_are_refused(tiny_model: Path, made: list[FakeLLM]) -> None:
    with (
        EngineModel(str(tiny_model), POINTS, "float32", context=11) as model,
        pytest.raises(FeaturewatchError, match="started for at most 11"),
    ):
        model.residuals(_tokens(), LENGTHS_B)
    assert made[0].prompts == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", r"engine-args '\{'"),
        ("[1]", "it is a JSON object"),
        (
            '{"dtype": "float16", "model": "x"}',
            "engine-args with dtype, model: model, dtype, .* are set by this command",
        ),
    ],
)
def test_bad_engine_arguments_are_named(text: str, says: str) -> None:
    assert parse_engine_args("") == {}
    assert parse_engine_args('{"tensor_parallel_size": 2}') == {"tensor_parallel_size": 2}
    with pytest.raises(FeaturewatchError, match=says):
        parse_engine_args(text)


def test_without_vllm_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    assert engine_version()
    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(FeaturewatchError, match=r"vLLM is not installed.*extra 'cuda'.*--activations huggingface"):
        engine_version()
