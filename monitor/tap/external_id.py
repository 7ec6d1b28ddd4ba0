"""The id that a client knows, from the engine's internal one."""

from __future__ import annotations

import re

# vLLM 0.32: `{external}-{8 hex digits}` (InputProcessor.assign_request_id); children of n > 1 are `{index}_{parent}`.
_SUFFIX = re.compile(r"-[0-9a-f]{8}\Z")
_CHILD = re.compile(r"\A[0-9]+_(?=.)")


def external_id(request_id: str, *, randomized: bool = True) -> str:
    """``external_id("1_chatcmpl-77-0a1b2c3d") == "chatcmpl-77"``.

    A client that itself names a request ``3_x`` is read as child 3 of ``x``: the two cannot be told apart in a worker.
    With ``randomized=False`` (`VLLM_DISABLE_REQUEST_ID_RANDOMIZATION`) there is no suffix to remove.
    """
    text = _SUFFIX.sub("", request_id) if randomized else request_id
    return _CHILD.sub("", text)
