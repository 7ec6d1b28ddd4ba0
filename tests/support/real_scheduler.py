"""vLLM's own scheduler and KV cache manager, without an engine, over a KV cache of a few blocks."""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple
from unittest import mock

from support.glassllm import glassllm_folder

BLOCK, BUDGET, MAX_REQUESTS, MAX_LENGTH = 4, 16, 6, 96


class Mode(NamedTuple):
    """How the engine runs.

    Attributes:
        runner: "v1" or "v2".
        asynchronous: the next step is scheduled before the output of this one is known.
        drafts: tokens that are drafted per step; 0 without speculative decoding.
    """

    runner: str
    asynchronous: bool
    drafts: int


@functools.cache
def _config(drafts: int) -> Any:
    from vllm import EngineArgs

    args = EngineArgs(
        model=str(glassllm_folder()),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=MAX_LENGTH,
        max_num_batched_tokens=BUDGET,
        max_num_seqs=MAX_REQUESTS,
        speculative_config={"method": "ngram", "num_speculative_tokens": drafts, "prompt_lookup_max": 2}
        if drafts
        else None,
    )
    # The V2 runner wants Triton; the scheduler that serves it does not.
    with mock.patch.dict(os.environ, {"VLLM_USE_V2_MODEL_RUNNER": "0"}):
        return args.create_engine_config()


def make_scheduler(mode: Mode, *, blocks: int, prefix_caching: bool) -> Any:
    """A scheduler with an empty cache of `blocks` blocks of `BLOCK` tokens and a budget of `BUDGET` tokens a step."""
    import torch
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    config = _config(mode.drafts)
    config.cache_config.enable_prefix_caching = prefix_caching
    config.cache_config.num_gpu_blocks = blocks
    config.scheduler_config.async_scheduling = mode.asynchronous
    attention = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    with mock.patch.dict(os.environ, {"VLLM_USE_V2_MODEL_RUNNER": str(int(mode.runner == "v2"))}):
        return (AsyncScheduler if mode.asynchronous else Scheduler)(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], attention)]
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            hash_block_size=BLOCK,
        )


def make_request(name: str, prompt: list[int], max_tokens: int, extra_args: dict[str, Any] | None = None) -> Any:
    from vllm import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    _once(init_none_hash, sha256)
    return Request(
        request_id=name,
        prompt_token_ids=prompt,
        sampling_params=SamplingParams(max_tokens=max_tokens, ignore_eos=True, extra_args=extra_args),
        pooling_params=None,
        block_hasher=get_request_block_hasher(BLOCK, sha256),
    )


@functools.cache
def _once(work: Any, argument: Any) -> None:
    work(argument)
