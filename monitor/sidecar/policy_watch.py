"""Notices that policy files have changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from monitor.sidecar.policy_files import fingerprint

_log = logging.getLogger(__name__)

WATCH_SECONDS: Final = 2.0
#: Content that was refused is tried again after so many looks: what it names, a probe or an SAE, may have come since.
RETRY_LOOKS: Final = 15
# Editors and deployments write in several steps: content counts once it has stayed the same for so long.
_SETTLE_SECONDS: Final = 0.2


async def watch_policies(
    paths: Sequence[Path],
    tried: Callable[[], str],
    refused: Callable[[], bool],
    reload: Callable[[bool], Awaitable[object]],
    failed: Callable[[], object],
    *,
    every_seconds: float,
) -> None:
    """Has policies reloaded when their files' content is another than what was tried last. Runs until cancelled.

    Content is compared, not times: what counts is what is read, on any file system.

    Args:
        tried: the fingerprint of the content that was read last, whether it was taken over or refused.
        refused: whether it was refused.
        reload: called on the event loop, with True where refused content is tried again; a refusal is its own business.
        failed: called when a look at the files, or `reload`, raises.
    """
    settle_seconds = min(_SETTLE_SECONDS, every_seconds)
    same = 0
    while True:
        await asyncio.sleep(every_seconds)
        try:
            found = await asyncio.to_thread(fingerprint, paths)
            same = same + 1 if found == tried() else 0
            if same and not (refused() and same % RETRY_LOOKS == 0):
                continue
            await asyncio.sleep(settle_seconds)
            if found == await asyncio.to_thread(fingerprint, paths):
                await reload(same > 0)
        except Exception:  # noqa: BLE001
            # Whatever fails, later changes must be noticed.
            _log.exception("looking at the policy files failed")
            failed()
