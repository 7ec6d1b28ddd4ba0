"""A policy and its probes come into their folder together, and are on the disk when it is said that they are there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from monitor.errors import FeaturewatchError
from training.discovery import publish as publishing
from training.discovery.publish import publish

FILES = ("weights/p.safetensors", "p.yaml")


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    for file in FILES:
        (tmp_path / "draft" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "draft" / file).write_text(f"new {file}")
    return tmp_path / "draft"


def write_old(folder: Path) -> None:
    """What is published before."""
    for file in FILES:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"old {file}")
        (folder / file).chmod(0o444)


@pytest.mark.parametrize("there", [True, False])
def test_what_is_published_is_on_the_disk(
    draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    folder, synced = tmp_path / "policies", list[tuple[Path, list[str]]]()
    if there:
        write_old(folder)

    def noted(name: str) -> None:
        sync = getattr(publishing, name)

        def note(place: Path) -> None:
            synced.append((place, sorted(str(file.relative_to(place)) for file in place.rglob("*") if file.is_file())))
            sync(place)

        monkeypatch.setattr(publishing, name, note)

    noted("sync_tree")
    noted("sync_folder")
    publish(draft, folder, FILES)
    assert [(folder / file).read_text() for file in FILES] == [f"new {file}" for file in FILES]
    # What the new files hold (old ones may be read-only), then each name once it is there, the policy's last.
    assert synced == [
        (draft, ["p.yaml", "weights/p.safetensors"]),
        (folder / "weights", ["p.safetensors"]),
        (folder, ["p.yaml", "weights/p.safetensors"]),
    ]


@pytest.mark.parametrize("there", [True, False])
def test_when_the_disk_refuses_the_last_of_them_all_are_as_they_were(
    draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    folder = tmp_path / "policies"
    if there:
        write_old(folder)
    sync, faults = publishing.sync_folder, [OSError(errno.EIO, "Input/output error")]

    def failing(place: Path) -> None:
        if place == folder and (folder / "p.yaml").exists() and (folder / "p.yaml").read_text().startswith("new"):
            raise faults.pop()
        sync(place)

    monkeypatch.setattr(publishing, "sync_folder", failing)
    with pytest.raises(FeaturewatchError, match=r"policies \(Input/output error\): the new policy could not be put"):
        publish(draft, folder, FILES)
    assert not faults
    found = {file: (folder / file).read_text() for file in FILES if (folder / file).exists()}
    assert found == ({file: f"old {file}" for file in FILES} if there else {})
