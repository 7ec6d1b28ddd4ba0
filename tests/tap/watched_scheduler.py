"""vLLM's own scheduler with a gate in front of its prefix cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from support.lone_scheduler import BLOCK, RealScheduler

from monitor.rpc.prefix_chain import PrefixChain, prefix_root
from monitor.tap.scheduler.gate import PrefixGate
from monitor.tap.scheduler.side import wrap_lookups, wrap_schedule
from monitor.v1 import engine_pb2

ENGINE = engine_pb2.EngineInfo(model="m", dtype="float32", prefix_block_size=BLOCK)
PROMPT = list(range(3, 70))  # 67 tokens: 4 full blocks.
CACHED = 64


class Known(set[bytes]):
    """Prefixes that a sidecar knows."""

    active = True
    lost = False


class Watched(RealScheduler):
    """A scheduler with a gate in front of its cache."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.known = Known()
        self.gate = PrefixGate(self.known, ENGINE, BLOCK)
        self.labels = wrap_schedule(self.scheduler)
        self.lookups = wrap_lookups(self.scheduler, self.gate)

    def knows(self, prompt: list[int], salt: bytes = b"", adapter: str = "", keys: Any = ()) -> list[bytes]:
        """Hashes of a prompt's blocks, as the sidecar names them."""
        return PrefixChain(prefix_root(ENGINE, adapter, salt), BLOCK, keys).extend(np.array(prompt))


def wrapped_methods(engine: RealScheduler) -> list[str]:
    """Methods that an instance attribute hides."""
    return [
        name
        for holder in (engine.scheduler, engine.scheduler.kv_cache_manager)
        for name in vars(holder)
        if callable(getattr(type(holder), name, None))
    ]


def features(*places: tuple[int, str]) -> list[Any]:
    from vllm.multimodal.inputs import MultiModalFeatureSpec, MultiModalKwargsItem, PlaceholderRange

    return [
        MultiModalFeatureSpec(
            data=MultiModalKwargsItem.dummy(),
            modality="image",
            identifier=name,
            mm_position=PlaceholderRange(offset=offset, length=8),
        )
        for offset, name in places
    ]


class Seeing(Watched):
    """One that also serves images."""

    def __init__(self) -> None:
        from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

        super().__init__()
        self.scheduler.max_num_encoder_input_tokens = 100
        self.scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=100)
