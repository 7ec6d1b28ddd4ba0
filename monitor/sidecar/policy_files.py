"""Reads policy files; shared by the sidecar and `featurewatch policy check`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.policy import Policy, PolicyError, Problem, parse_policy, same_names
from monitor.policy.yaml_fields import MAX_CHARACTERS

_SUFFIXES = (".yaml", ".yml")
# More than `text_of` takes in, whatever the characters: a file that is longer is refused, and what follows is nothing.
_MOST_BYTES = 4 * (MAX_CHARACTERS + 1)


def policy_files(paths: Sequence[Path]) -> list[Path]:
    """Files as given; of folders their policy files, sorted by name, without `*_test.yaml`. Each once.

    Raises:
        FeaturewatchError: a folder holds no policy file or cannot be listed; a file's name is no text.
    """
    files: list[Path] = []
    for path in paths:
        files += _policies_in(path) if _is_folder(path) else [path]
    for file in files:
        _require_text_name(file)
    return list(dict.fromkeys(files))


def _require_text_name(file: Path) -> None:
    """Names go into messages to clients and into the store, which take UTF-8 only."""
    try:
        str(file).encode()
    except UnicodeEncodeError as error:
        raise FeaturewatchError(
            f"policy file {str(file)!r}", "its name and its folder's must be text in UTF-8", "rename it"
        ) from error


def read_policies(files: Sequence[Path]) -> tuple[list[Policy], list[Problem]]:
    """The policies that are well formed, and what is wrong with texts and names; sources are not looked at."""
    policies: list[Policy] = []
    problems: list[Problem] = []
    for file in files:
        try:
            policies.append(read_policy(file, "give a policy file, or a folder of them"))
        except PolicyError as error:
            problems += error.problems
    return policies, [*problems, *same_names(policies)]


def read_policy(file: Path, remedy: str = "give a policy file") -> Policy:
    """One file, its sources aside. Raises PolicyError; the remedy is for a file that cannot be read."""
    return parse_policy(text_of(file, remedy), str(file))


def text_of(file: Path, remedy: str) -> str:
    """The text of a policy or test file; of one that is too long only so much that this shows.

    Raises:
        PolicyError: it cannot be read, or is no text; the remedy is the caller's.
    """
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(MAX_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        rule = "it must be a readable text file in UTF-8"
        raise PolicyError([Problem(str(file), 1, "", str(reason), rule, remedy)]) from error


def fingerprint(paths: Sequence[Path]) -> str:
    """Changes when a policy file comes, goes or has other content, or can be read no longer. Never raises for that."""
    digest = hashlib.sha256()
    try:
        files = policy_files(paths)
    except FeaturewatchError as error:
        return hashlib.sha256(str(error).encode()).hexdigest()
    for file in files:
        try:
            with file.open("rb") as opened:
                content = hashlib.sha256(opened.read(_MOST_BYTES)).hexdigest()
        except OSError as error:
            content = str(error.strerror)
        digest.update(f"{file}\0{content}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # Reading it as a file tells what is wrong.
        return False


def _policies_in(folder: Path) -> list[Path]:
    try:
        found = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    except OSError as error:
        raise FeaturewatchError(
            f"policies {str(folder)!r} ({error.strerror})", "it must be a folder that can be listed", "check its owner"
        ) from error
    files = [file for file in found if not file.stem.endswith("_test")]
    if not files:
        raise FeaturewatchError(
            f"policies {str(folder)!r}", "it holds no policy file (*.yaml)", "give a policy file, or a folder of them"
        )
    return files
