"""Names of token prefixes: hashes chained block by block, the same in the engine's scheduler and in the sidecar.

As vLLM's prefix cache does it, a block's hash covers all blocks before it, so two sequences share a hash exactly when
they share every token up to there, the model, the adapter and the cache salt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.rpc.tensors import ints_to_bytes
from monitor.v1.engine_pb2 import EngineInfo

HASH_BYTES: Final = 16

ContentKeys = Sequence[tuple[int, bytes]]
"""(position, key) in ascending order: content that token ids do not tell, such as an image behind placeholders."""


def prefix_root(engine: EngineInfo, adapter: str = "", cache_salt_sha256: bytes = b"") -> bytes:
    """What the first block's hash is chained to."""
    parts = (
        engine.model,
        engine.revision,
        engine.dtype,
        engine.quantization,
        engine.kv_cache_dtype,
        str(engine.prefix_block_size),
        adapter,
        cache_salt_sha256.hex(),
    )
    return _digest(b"featurewatch prefix 1", *(part.encode() for part in parts))


class PrefixChain:
    """Hashes of one sequence's full blocks, extended as its tokens become known.

    The result does not depend on how the tokens are cut into calls.
    """

    __slots__ = ("_block_size", "_hash", "_keys", "_pending", "_position")

    def __init__(self, root: bytes, block_size: int, content_keys: ContentKeys = ()) -> None:
        if block_size < 1:
            raise ValueError(f"block size {block_size} is below 1")
        self._hash = root
        self._block_size = block_size
        self._keys = list(content_keys)
        self._pending = b""
        self._position = 0

    @property
    def position(self) -> int:
        """Tokens taken so far."""
        return self._position

    def extend(self, token_ids_n: npt.NDArray[np.integer]) -> list[bytes]:
        """Takes the next tokens; returns the hashes of the blocks that they complete, in order."""
        size = 4 * self._block_size
        data = self._pending + ints_to_bytes(np.asarray(token_ids_n))
        start = self._position - len(self._pending) // 4
        hashes = []
        for offset in range(0, len(data) - size + 1, size):
            end = start + (offset + size) // 4
            self._hash = _digest(self._hash, data[offset : offset + size], *self._keys_before(end))
            hashes.append(self._hash)
        self._position += len(token_ids_n)
        self._pending = data[len(data) - len(data) % size :]
        return hashes

    def _keys_before(self, end: int) -> list[bytes]:
        """Content that begins before `end` and was not hashed yet."""
        found = []
        while self._keys and self._keys[0][0] < end:
            position, key = self._keys.pop(0)
            found += [str(position).encode(), key]
        return found


def _digest(*parts: bytes) -> bytes:
    """Of the parts with their lengths, so that no two lists of parts look alike."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()[:HASH_BYTES]
