"""An SAE folder appears whole, and what it replaces is there until then."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, JumpRelu, load_saelens
from training.card.card import Card
from training.output_folder import require_free, write_sae

CARD = Card.load(Path(__file__).parents[2] / "zoo" / "smollm2-135m-instruct" / "resid_post.14")


def _dictionary(seed: int) -> Dictionary:
    w_md = np.random.default_rng(seed).standard_normal((8, 4)).astype(np.float32)
    zeros, rule = np.zeros(8, np.float32), JumpRelu(np.ones(8, np.float32))
    return Dictionary(w_md, zeros, w_md, zeros[:4], activation=rule, hook_point=HookPoint(1), model="toy")


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_new_files_take_the_place_of_old_ones(tmp_path: Path) -> None:
    folder = tmp_path / "zoo" / "resid_post.1"
    for seed in (0, 1):
        write_sae(_dictionary(seed), CARD, folder, "float32")
        np.testing.assert_array_equal(load_saelens(folder).w_enc_md, _dictionary(seed).w_enc_md)
        assert Card.load(folder) == dataclasses.replace(CARD, sha256=load_saelens(folder).sha256)
    assert [path.name for path in (tmp_path / "zoo").iterdir()] == ["resid_post.1"]
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o644"}


@pytest.mark.parametrize("failing_name", ["card.json", "new"])
def test_a_failure_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_name: str) -> None:
    """The disk is full while the files are written, or the last move fails."""
    folder = tmp_path / "zoo" / "resid_post.1"
    write_sae(_dictionary(0), CARD, folder, "float32")
    before = _content(tmp_path)
    write_text, rename = Path.write_text, Path.rename

    def full(self: Path, *more: object) -> object:
        if self.name == failing_name:
            raise OSError(28, "No space left on device")
        return (rename if isinstance(more[0], Path) else write_text)(self, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        write_sae(_dictionary(1), CARD, folder, "float32")
    assert _content(tmp_path) == before


def test_a_place_that_is_taken_or_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    require_free([tmp_path / "new" / "folder"], replace=False)
    require_free([tmp_path / "taken"], replace=True)
    with pytest.raises(FeaturewatchError, match=r"taken: it exists already\. Give another --out or --replace"):
        require_free([tmp_path / "new", tmp_path / "taken"], replace=False)
    with pytest.raises(FeaturewatchError, match=r"file must be a folder that can be written to"):
        require_free([tmp_path / "file" / "folder"], replace=False)
    assert not (tmp_path / "new").exists()
