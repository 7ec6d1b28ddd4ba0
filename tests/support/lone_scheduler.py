"""vLLM's own scheduler without an engine: requests go in, and a stand-in for the model answers each step."""

from __future__ import annotations

from typing import Any

import torch

from support.glassllm import glassllm_folder

BLOCK = 16


class RealScheduler:
    """One scheduler over one group of full attention layers.

    Args:
        featurewatch: the tap's configuration, or None for none.
        blocks: of the KV cache.
        budget: tokens a step.
    """

    def __init__(
        self,
        featurewatch: dict[str, Any] | None = None,
        *,
        blocks: int = 100,
        prefix_caching: bool = True,
        budget: int = 512,
        sequences: int = 16,
    ) -> None:
        from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        model = ModelConfig(
            model=str(glassllm_folder()), skip_tokenizer_init=True, dtype="float32", max_model_len=512, seed=0
        )
        cache = CacheConfig(block_size=BLOCK, cache_dtype="auto", enable_prefix_caching=prefix_caching)
        cache.num_gpu_blocks = blocks
        self.config = VllmConfig(
            model_config=model,
            scheduler_config=SchedulerConfig(
                max_num_seqs=sequences,
                max_num_batched_tokens=budget,
                max_model_len=512,
                enable_chunked_prefill=True,
                is_encoder_decoder=False,
                async_scheduling=False,
            ),
            cache_config=cache,
            device_config=DeviceConfig("cpu"),
            additional_config={"featurewatch": featurewatch} if featurewatch else {},
        )
        cache.block_size = BLOCK
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        groups = [KVCacheGroupSpec(["layer"], spec)]
        layout = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=groups)
        layout.hash_block_size = layout.cache_hit_alignment_tokens = BLOCK
        # As vLLM's metrics show the prefix cache.
        self.lookups_counted = self.tokens_hit = 0
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(BLOCK, sha256)
        self.scheduler = Scheduler(
            vllm_config=self.config,
            kv_cache_config=layout,
            structured_output_manager=StructuredOutputManager(self.config),
            block_size=BLOCK,
            log_stats=True,
        )

    def add(self, name: str, prompt: list[int], *, max_tokens: int = 4, **fields: Any) -> Any:
        """A new request in the queue; `fields` are further arguments of vLLM's `Request`."""
        from vllm import SamplingParams
        from vllm.v1.request import Request

        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        request = Request(
            request_id=name,
            prompt_token_ids=prompt,
            sampling_params=params,
            pooling_params=None,
            block_hasher=self._hasher,
            **fields,
        )
        self.scheduler.add_request(request)
        return request

    def step(self) -> Any:
        """Schedules, and answers each request that is through its prompt with token 7; returns what was scheduled."""
        from vllm.v1.outputs import ModelRunnerOutput

        output = self.scheduler.schedule()
        names = list(output.num_scheduled_tokens)
        sampled = []
        for name in names:
            request = self.scheduler.requests[name]
            sampled.append([7] if request.num_computed_tokens >= request.num_tokens else [])
        answer = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
        )
        stats = next(iter(self.scheduler.update_from_output(output, answer).values())).scheduler_stats
        self.lookups_counted += stats.prefix_cache_stats.requests
        self.tokens_hit += stats.prefix_cache_stats.hits
        return output

    def run(self) -> dict[str, int]:
        """Steps until nothing is left; returns how many positions of each request were taken from the cache."""
        cached = {}
        while self.scheduler.has_requests():
            for new in self.step().scheduled_new_reqs:
                cached[new.req_id] = new.num_computed_tokens
        return cached
