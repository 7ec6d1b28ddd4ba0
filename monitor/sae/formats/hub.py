"""SAEs on the Hugging Face Hub: ``hf:owner/repository/path`` with an optional ``@revision``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from monitor.errors import FeaturewatchError
from monitor.sae.formats.stored import CONFIG_FILES, SUFFIXES, WEIGHT_FILES

PREFIX: Final = "hf:"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,=+-]*")
_BESIDE: Final = (*CONFIG_FILES, "activation_scaler.json")


@dataclass(frozen=True)
class HubId:
    """A folder or file of a repository; `path` is empty for its root."""

    repository: str
    path: str
    revision: str

    @classmethod
    def parse(cls, text: str) -> HubId:
        """Reads ``hf:owner/repository/path@revision``; raises FeaturewatchError for anything else."""
        name, _, revision = text.removeprefix(PREFIX).partition("@")
        parts = name.strip("/").split("/")
        if len(parts) < 2 or not all(map(_PART.fullmatch, [*parts, *(revision or "main").split("/")])):
            raise FeaturewatchError(
                f"Hub id {text!r}",
                "it is written hf:owner/repository/path, with @revision behind it if not main; no part begins "
                "with a dot",
                "write for example hf:google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
            )
        return cls("/".join(parts[:2]), "/".join(parts[2:]), revision or "main")

    def __str__(self) -> str:
        return f"{self.repository}/{self.path}".rstrip("/")


def fetch(hub_id: HubId, cache: Path | None = None, endpoint: str | None = None) -> Path:
    """Downloads one SAE, its configuration and that of its run, and returns its local folder or file.

    Args:
        cache: Hugging Face's cache folder; None for the user's.
        endpoint: the Hub's address; None for the user's.

    Raises:
        FeaturewatchError: huggingface_hub is missing, the Hub cannot be reached and the SAE is not in the cache, or
            there is nothing of that name.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise FeaturewatchError(
            f"Hub id {hub_id}", "SAEs are downloaded with huggingface_hub", "pip install huggingface_hub"
        ) from error
    try:
        files = HfApi(endpoint=endpoint).list_repo_files(hub_id.repository, revision=hub_id.revision)
        for name in wanted_files(hub_id, files):
            hf_hub_download(hub_id.repository, name, revision=hub_id.revision, cache_dir=cache, endpoint=endpoint)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FeaturewatchError(
            f"Hub id {hub_id} at {hub_id.revision}",
            "there is no such repository or revision, or it is private or gated",
            "check the id; for a gated one accept its terms and run `hf auth login`",
        ) from error
    except FeaturewatchError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        try:
            root = snapshot_download(
                hub_id.repository, revision=hub_id.revision, cache_dir=cache, local_files_only=True
            )
        except LocalEntryNotFoundError:
            raise _unreachable(hub_id, reason) from error
        if not (Path(root) / hub_id.path).exists():
            raise _unreachable(hub_id, reason) from error
        return Path(root) / hub_id.path
    root = snapshot_download(hub_id.repository, revision=hub_id.revision, cache_dir=cache, local_files_only=True)
    return Path(root) / hub_id.path


def wanted_files(hub_id: HubId, files: list[str]) -> list[str]:
    """Of a repository's files those of one SAE; raises FeaturewatchError when there is none or more than one."""
    at = PurePosixPath(hub_id.path)
    if hub_id.path in files:
        weights, folder = [hub_id.path], at.parent
    else:
        folder = at
        known = [str(folder / name) for name in WEIGHT_FILES if str(folder / name) in files]
        here = [name for name in files if PurePosixPath(name).parent == folder and name.endswith(SUFFIXES)]
        weights = known[:1] or here
    if len(weights) != 1:
        below = [name for name in files if name.endswith(SUFFIXES) and (not hub_id.path or name.startswith(f"{at}/"))]
        listing = weights or below or [name for name in files if name.endswith(SUFFIXES)]
        raise FeaturewatchError(
            f"Hub id {hub_id} with {len(weights) or 'no'} files of weights",
            f"it must name the folder or file of one SAE; there are for example {', '.join(listing[:5]) or 'none'}",
            "give the whole path",
        )
    # sparsify names the model in its run's configuration, one or two folders above.
    folders = dict.fromkeys([folder, PurePosixPath(weights[0]).parent, *folder.parents[:2]])
    beside = [str(place / name) for place in folders for name in _BESIDE]
    return [*weights, *(name for name in beside if name in files)]


def _unreachable(hub_id: HubId, reason: str) -> FeaturewatchError:
    return FeaturewatchError(
        f"Hub id {hub_id} ({reason})",
        "the Hub cannot be reached, and the SAE is not in the local cache",
        f"connect once, or copy the cache of a machine that has it (hf download {hub_id.repository}) and set HF_HOME",
    )
