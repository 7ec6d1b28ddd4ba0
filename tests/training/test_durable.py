"""What is brought to the disk, and in which order: content before name, name before anything that counts on it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_saes import random_sae

from monitor.sae import HookPoint
from training import durable
from training.card.card import Card
from training.harvest.cache_writer import CacheWriter
from training.harvest.manifest import Manifest
from training.output_folder import write_sae
from training.trainer.checkpoint import save_state

POINT = HookPoint(1)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Below the test's folder: what was brought to the disk, and the new names of renamed files."""
    done: list[str] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def name(path: str | Path) -> str:
        return os.path.relpath(path, tmp_path)

    def synced(descriptor: int) -> None:
        done.append(name(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        done.append(f"-> {name(target)}")
        return rename(path, target)

    def replaced(path: Path, target: Path) -> Path:
        done.append(f"-> {name(target)}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", replaced)
    return done


def test_a_checkpoint(tmp_path: Path, done: list[str]) -> None:
    save_state(tmp_path / "a" / "b" / "state", {"x": torch.ones(3)}, {})
    assert done == ["a", ".", "a/b/.state.part", "-> a/b/state", "a/b"]
    done.clear()
    save_state(tmp_path / "a" / "b" / "state", {"x": torch.zeros(3)}, {})
    assert done == ["a/b/.state.part", "-> a/b/state", "a/b"]


def test_the_rows_of_a_cache_are_there_before_its_manifest_counts_them(tmp_path: Path, done: list[str]) -> None:
    writer = CacheWriter(tmp_path / "cache", Manifest(3, [str(POINT)], "float32", [0], {}))
    assert {"cache/resid_post.1", "cache/heldout", "cache"} <= set(done)
    done.clear()
    writer.append({POINT: np.ones((4, 3), np.float32)}, np.random.default_rng(0))
    writer.flush()
    manifest = ["cache/manifest.json.part", "-> cache/manifest.json", "cache"]
    assert done == ["cache/resid_post.1/shard-0000.bin", *manifest]


def test_an_sae_is_whole_before_it_has_its_name(tmp_path: Path, done: list[str]) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "metrics.jsonl").write_text("{}\n")

    card = Card.load(Path(__file__).parents[2] / "zoo" / "smollm2-135m-instruct" / "resid_post.14")
    write_sae(random_sae(), card, tmp_path / "out", "float32", run_text="a: 1\n", logs=logs)
    at = done.index("-> out")
    synced = {Path(place).name for place in done[:at]}
    assert {"new", "logs", "metrics.jsonl", "run.yaml", "card.json", "cfg.json", "sae_weights.safetensors"} <= synced
    assert done[at + 1 :] == ["."]


def test_a_file_system_that_cannot_sync_folders_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int) -> None:
        def fsync(_descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    fails(errno.EINVAL)
    durable.sync_folder(tmp_path)
    fails(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        durable.sync_folder(tmp_path)
