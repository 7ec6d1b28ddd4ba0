"""Rows of Hugging Face data sets, by name or from a folder, streamed."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.errors import FeaturewatchError

_PREFIX = "hf:"


@dataclass(frozen=True)
class HubData:
    """A data set written ``hf:NAME``, ``hf:NAME:SPLIT`` or ``hf:NAME:CONFIG:SPLIT``.

    Attributes:
        name: on the Hub, or a folder with data files.
        config: of a data set that has several; empty for its default.
        split: for example train.
    """

    name: str
    config: str
    split: str

    @classmethod
    def parse(cls, text: str) -> HubData:
        """Raises FeaturewatchError for another form."""
        name, *rest = text.removeprefix(_PREFIX).split(":")
        if not name or len(rest) > 2 or (rest and not rest[-1]):
            raise FeaturewatchError(
                f"data {text!r}",
                "a Hugging Face data set is written hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT",
                "write for example hf:allenai/c4:en:train",
            )
        return cls(name, rest[0] if len(rest) == 2 else "", rest[-1] if rest else "train")

    def __str__(self) -> str:
        return f"{_PREFIX}{self.name}:{self.config}:{self.split}" if self.config else f"hf:{self.name}:{self.split}"

    @property
    def folder(self) -> Path | None:
        """The folder that it names, if it is one."""
        folder = Path(self.name).expanduser()
        return folder if folder.is_dir() else None

    def revision(self) -> str:
        """The commit of a data set on the Hub; raises FeaturewatchError when it cannot be asked."""
        return _revision(self.name)


def is_hub(path: Path) -> bool:
    """Whether an entry of ``--data`` is a data set and no file."""
    return str(path).startswith(_PREFIX)


def read_hub(data: HubData) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and values of each row; raises FeaturewatchError when it cannot be reached, loaded or read."""
    import datasets

    revision = None if data.folder else data.revision()
    try:
        rows = datasets.load_dataset(
            str(data.folder or data.name), data.config or None, split=data.split, revision=revision, streaming=True
        )
        yield from zip(itertools.count(1), rows)
    except FeaturewatchError:
        raise
    except Exception as error:  # the library lets through what its readers, fsspec and the HTTP client raise
        raise _told(data, error, "check name, configuration and split: hf:NAME:CONFIG:SPLIT") from error


@functools.cache
def _revision(name: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if name.startswith((".", "/", "~")):
        raise FeaturewatchError(f"data hf:{name}", "there is no such folder", "check the path")
    try:
        return str(HfApi().dataset_info(name).sha)
    except (HfHubHTTPError, HFValidationError) as error:
        raise _told(name, error, "check the name; log in with `hf auth login` for one that is private") from error
    except OfflineModeIsEnabled as error:
        raise _told(name, error, "unset HF_HUB_OFFLINE, or give a folder or files that are here") from error
    except Exception as error:  # the HTTP client's own errors are no part of the Hub's interface
        raise _told(
            name, error, "it needs the Hub: check the network, or give a folder (hf:FOLDER) or files that are here"
        ) from error


def _told(data: HubData | str, error: Exception, remedy: str) -> FeaturewatchError:
    line = next((text.strip() for text in str(error).splitlines() if text.strip()), type(error).__name__)
    return FeaturewatchError(
        f"data set {data} ({line})", "it must be a Hugging Face data set that can be read from here", remedy
    )
