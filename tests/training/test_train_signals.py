"""A real SIGTERM to `featurewatch train`, and several SAEs from a stream."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tensorboardX.proto.event_pb2 import Event
from typer.testing import CliRunner

from monitor.cli.main import app
from monitor.sae import TopK, load_saelens
from training.card.card import Card
from training.logs.log import Log, open_logs

_DEADLINE = 120.0


def _arguments(model: Path, corpus: Path, folder: Path, *more: str) -> list[str]:
    sizes = "--tokens 6000 --context 96 --batch-tokens 768 --heldout-share 0.4 --heldout-tokens 20000 --dtype float32"
    training = "--latents 96 --batch-rows 64 --card-tokens 20000 --loss-tokens 400 --threshold-tolerance 0.5"
    places = ["--data", str(corpus), "--out", str(folder / "zoo"), "--cache", str(folder / "cache")]
    return ["train", str(model), *places, *sizes.split(), *training.split(), *more]


def _events(folder: Path) -> dict[int, dict[str, float]]:
    """Scalars of all event files by step; a later file replaces what older ones hold from its first step on."""
    found: dict[int, dict[str, float]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):  # by name, as TensorBoard reads them
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            if event.session_log.status == 1:  # START: what is purged
                found = {step: values for step, values in found.items() if step < event.step}
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(event.step, {})[value.tag] = value.simple_value
    return found


def test_a_signal_saves_and_the_same_command_goes_on(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    more = ["--hook-point", "resid_post.1", "-k", "6", "--epochs", "5", "--checkpoint-steps", "10"]
    whole = CliRunner().invoke(app, _arguments(tiny_model, corpus, tmp_path / "whole", *more), catch_exceptions=False)
    assert whole.exit_code == 0
    words = _arguments(tiny_model, corpus, tmp_path / "parts", *more)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "monitor.cli.main", *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    ends = time.monotonic() + _DEADLINE
    while not list((tmp_path / "parts").glob("cache/training/*/checkpoint.safetensors")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < ends
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=_DEADLINE)
    assert process.returncode == 128 + signal.SIGTERM, said
    stopped = re.search(r"stopped after step ([\d,]+) of ([\d,]+); everything is saved", said)
    assert stopped, said
    step, steps = (int(number.replace(",", "")) for number in stopped.groups())
    assert 10 <= step < steps
    assert f"featurewatch {' '.join(words)}" in said
    assert not (tmp_path / "parts" / "zoo").exists()

    resumed = CliRunner().invoke(app, words, catch_exceptions=False)
    assert resumed.exit_code == 0
    one, other = (tmp_path / name / "zoo" / "resid_post.1" for name in ("whole", "parts"))
    assert load_saelens(one).sha256 == load_saelens(other).sha256
    first, second = Card.load(one), Card.load(other)
    assert (first.l0_inference, first.fvu_training, first.losses) == (
        second.l0_inference,
        second.fvu_training,
        second.losses,
    )
    events = _events(other / "logs")
    assert sorted(events)[-1] == steps
    assert {step: values["fvu"] for step, values in events.items()} == {
        step: values["fvu"] for step, values in _events(one / "logs").items()
    }


def test_a_log_that_goes_on_keeps_the_step_of_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same second too, by which event files are named."""
    monkeypatch.setattr(time, "time", lambda: 1.7e9)

    def logs(position: list[object] | None, step: int) -> list[Log]:
        return open_logs(
            tmp_path, name="sae", position=position, step=step, tensorboard=True, wandb_project="", settings={}
        )

    position: list[object] = []
    for log in logs(None, 0):
        for step in (1, 2, 3):
            log.write(step, {"fvu": 1 / step})
        position.append(log.position())
        log.write(4, {"fvu": 9.0})  # behind the checkpoint
        log.close()
    for log in logs(position, 3):
        for step in (4, 5):
            log.write(step, {"fvu": 1 / step})
        log.close()
    expected = {step: {"fvu": pytest.approx(1 / step)} for step in range(1, 6)}
    assert _events(tmp_path / "logs") == expected
    lines = [json.loads(line) for line in (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: {"fvu": line["fvu"]} for line in lines} == expected


def test_several_saes_from_one_stream(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    """No rows on the disk, one pass of the model for all; every folder says what it is and repeats the run."""
    points = ["--hook-point", "resid_post.1", "--hook-point", "mlp_out.2"]
    kinds = ["--architecture", "topk", "--architecture", "jumprelu", "-k", "4", "--target-l0", "5"]
    more = [*points, *kinds, "--stream", "--buffer-rows", "1024", "--epochs", "2"]
    words = _arguments(tiny_model, corpus, tmp_path, *more)
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    folders = sorted(path.parent for path in (tmp_path / "zoo").glob("*/*/cfg.json"))
    assert [folder.relative_to(tmp_path / "zoo").as_posix() for folder in folders] == [
        "mlp_out.2/jumprelu-m96-target-l05-s0",
        "mlp_out.2/topk-m96-k4-s0",
        "resid_post.1/jumprelu-m96-target-l05-s0",
        "resid_post.1/topk-m96-k4-s0",
    ]
    assert not list((tmp_path / "cache").glob("*/shard-*"))
    for folder in folders:
        card, dictionary = Card.load(folder), load_saelens(folder)
        assert card.architecture in folder.name
        assert isinstance(dictionary.activation, TopK) == (card.architecture == "topk")
        assert card.excluded["template"] > 0
        assert 1000 < card.tokens_unique <= card.tokens_seen
        assert card.peak_memory_mib > 0
        assert set(card.losses) >= {"loss", "fvu"}
        assert card.target == (4 if card.architecture == "topk" else 5)
        again = yaml.safe_load((folder / "run.yaml").read_text())
        assert (again["stream"], again["architecture"], again["k"]) == (True, ["topk", "jumprelu"], 4)
        assert (folder / "logs" / "metrics.jsonl").is_file()
        assert "--stream" in card.command


def test_a_topk_sae_may_get_a_threshold(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    more = ["--hook-point", "resid_post.1", "--architecture", "topk", "-k", "5", "--inference", "threshold"]
    result = CliRunner().invoke(app, _arguments(tiny_model, corpus, tmp_path, *more), catch_exceptions=False)
    assert result.exit_code == 0
    card = Card.load(tmp_path / "zoo" / "resid_post.1")
    assert card.activation == "JumpReLU"
    assert card.l0_inference == pytest.approx(5, rel=0.5)
    assert card.threshold > 0
