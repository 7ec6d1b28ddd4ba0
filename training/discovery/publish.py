"""Puts a finished policy with its files in place: all of them or none."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from monitor.errors import FeaturewatchError
from monitor.policy import PolicyError, parse_policy
from monitor.policy.schema.fields import PolicyName
from training.durable import make_folder, sync_folder, sync_tree

_SUFFIXES = (".yaml", ".yml")


@contextlib.contextmanager
def draft_folder(policy_out: Path) -> Iterator[Path]:
    """A folder beside the policy file, on the same disk, that is gone after the block.

    Raises:
        FeaturewatchError: the policy's folder cannot be made or written.
    """
    try:
        policy_out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{policy_out.stem}-", dir=policy_out.parent)
    except OSError as error:
        raise FeaturewatchError(
            f"policy file {policy_out} ({error.strerror or error})",
            "its folder must be writable",
            "give another --policy-out",
        ) from error
    with scratch as folder:
        yield Path(folder)


def require_place(policy_out: Path, *, force: bool) -> None:
    """Raises FeaturewatchError when no policy can be written there, before hours are spent on it.

    With `force`, a policy that is there already may be replaced.
    """
    try:
        TypeAdapter(PolicyName).validate_python(policy_out.stem)
    except ValidationError as error:
        raise FeaturewatchError(
            f"policy file {policy_out}",
            "its name without .yaml becomes the policy's name: lower case letters, digits and hyphens, at most 63",
            "give for example --policy-out policies/harmful-intent.yaml",
        ) from error
    if policy_out.suffix not in _SUFFIXES:
        raise FeaturewatchError(
            f"policy file {policy_out}",
            f"in a folder of policies only files that end in {' or '.join(_SUFFIXES)} are read",
            f"give {policy_out.with_suffix('.yaml')}",
        )
    if policy_out.is_dir():
        raise FeaturewatchError(f"policy file {policy_out}", "it is a folder", "name a file in it")
    if policy_out.exists() and not force:
        raise FeaturewatchError(
            f"policy file {policy_out}",
            "there is a policy already",
            "give another --policy-out, or --force to replace it",
        )
    with draft_folder(policy_out):
        pass


def next_revision(policy_out: Path) -> int:
    """One more than that of the policy that is there; 1 if there is none, or none that can be read."""
    try:
        return parse_policy(policy_out.read_text(encoding="utf-8")).revision + 1
    except (OSError, UnicodeDecodeError, PolicyError):
        return 1


def publish(draft: Path, folder: Path, files: Sequence[str]) -> None:
    """Moves `files` (relative names, the policy last) from the draft to `folder`.

    Each move is atomic and on the disk when this returns. When one fails, the files that were moved before it get their
    old content back.

    Raises:
        FeaturewatchError: a file cannot be moved.
    """
    kept = draft / "before"
    moved: list[str] = []
    try:
        for file in files:
            # safetensors files are private by default; the sidecar may run as another user.
            (draft / file).chmod(0o644)
        sync_tree(draft)
        # Copies come after that: old files may be read-only, and need not be brought to the disk.
        for file in files:
            make_folder((folder / file).parent)
            if (folder / file).exists():
                (kept / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / file, kept / file)
        for file in files:
            (draft / file).replace(folder / file)
            moved.append(file)
            # Before the next one: a policy must not be there without its probes.
            sync_folder((folder / file).parent)
    except BaseException as error:
        for file in moved:
            if (kept / file).exists():
                (kept / file).replace(folder / file)
            else:
                (folder / file).unlink()
        if not isinstance(error, OSError):
            raise
        raise FeaturewatchError(
            f"policy folder {folder} ({error.strerror or error})",
            "the new policy could not be put in place; the old files are as they were",
            "make the folder writable and run the command again",
        ) from error
