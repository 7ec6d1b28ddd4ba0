"""One run at a time in an activation cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from monitor.errors import FeaturewatchError


@contextmanager
def cache_lock(folder: Path) -> Iterator[None]:
    """Holds the folder, which need not be there, by a file beside it; the end of the process lets it go, however it
    ends.

    Raises:
        FeaturewatchError: another run holds it, or it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder.with_name(f"{folder.name}.lock")).acquire(timeout=0)
    except Timeout as error:
        raise FeaturewatchError(
            f"activation cache {folder}",
            "another run of featurewatch is using it, and two would mix their rows",
            "wait for that run, or give this one another --cache folder",
        ) from error
    except OSError as error:
        raise FeaturewatchError(
            f"activation cache {folder} ({error.strerror or error})",
            "it must be in a folder that this user may write",
            "give another --cache folder",
        ) from error
    with held:
        yield
