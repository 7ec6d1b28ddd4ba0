"""Which engines the tap works in, and what it tells the sidecar about the one it is in."""

from __future__ import annotations

from typing import Any, Final

from monitor.errors import FeaturewatchError
from monitor.tap.config import TapConfig
from monitor.v1 import engine_pb2

PROVEN_VERSIONS: Final = ("0.32.0",)
"""vLLM versions on whose real engine the tests have run (CPU, V1 model runner)."""


def check_engine(vllm_config: Any, version: str, config: TapConfig) -> None:
    """Refuses the start where observed rows could be wrong. Raises FeaturewatchError with value, rule and remedy."""
    if version.partition("+")[0] not in PROVEN_VERSIONS and not config.allow_unproven_engine:
        raise FeaturewatchError(
            f"vLLM {version}",
            f"the tap was proven on {', '.join(PROVEN_VERSIONS)}",
            "use that version or set allow_unproven_engine to true in the featurewatch configuration",
        )
    parallel, speculative = vllm_config.parallel_config, vllm_config.speculative_config
    passes = getattr(vllm_config.compilation_config, "pass_config", None)
    refusals = [
        (
            bool(vllm_config.use_v2_model_runner),
            "vLLM's V2 model runner",
            "this version of the tap knows the V1 model runner",
            "set the environment variable VLLM_USE_V2_MODEL_RUNNER=0",
        ),
        (
            speculative is not None and bool(vllm_config.scheduler_config.async_scheduling),
            f"speculative decoding ({getattr(speculative, 'method', None)}) with asynchronous scheduling",
            "on the V1 model runner the number of accepted drafts then stays on the device",
            "start the engine with --no-async-scheduling",
        ),
        (
            parallel.pipeline_parallel_size > 1,
            f"pipeline_parallel_size {parallel.pipeline_parallel_size}",
            "this version of the tap needs all layers in one worker",
            "use tensor parallelism instead",
        ),
        (
            bool(getattr(passes, "enable_sp", False)) or bool(getattr(parallel, "use_sequence_parallel_moe", False)),
            "sequence parallelism",
            "it spreads the rows of the residual stream over workers",
            "switch it off (pass_config.enable_sp, or expert parallelism together with tensor parallelism)",
        ),
        (
            bool(getattr(parallel, "use_ubatching", False)),
            "dual batch overlap (microbatches)",
            "two microbatches would overwrite one buffer",
            "start the engine without --enable-dbo and --ubatch-size",
        ),
        (
            getattr(parallel, "prefill_context_parallel_size", 1) > 1,
            f"prefill_context_parallel_size {getattr(parallel, 'prefill_context_parallel_size', 1)}",
            "it spreads the rows of the residual stream over workers",
            "start the engine without prefill context parallelism",
        ),
        (
            bool(getattr(vllm_config.cache_config, "kv_sharing_fast_prefill", False)),
            "kv_sharing_fast_prefill",
            "it leaves most rows of a prompt out of the upper layers",
            "start the engine without --kv-sharing-fast-prefill",
        ),
        (
            bool(getattr(vllm_config.model_config, "is_encoder_decoder", False)),
            f"the encoder-decoder model {vllm_config.model_config.model}",
            "rows of an encoder are no positions of the generated sequence",
            "serve a decoder-only model or remove the featurewatch configuration",
        ),
        (
            bool(vllm_config.model_config.enable_prompt_embeds),
            "enable_prompt_embeds",
            "rows without token ids cannot be attributed to tokens",
            "start the engine without --enable-prompt-embeds",
        ),
    ]
    for refused, subject, rule, remedy in refusals:
        if refused:
            raise FeaturewatchError(subject, rule, remedy)


def salt_compile_cache(vllm_config: Any, config: TapConfig, op_revision: int) -> None:
    """Makes the tapped graph another one for vLLM's compile cache, which does not know plugins: `additional_config`
    is part of its key."""
    additional = vllm_config.additional_config
    if not isinstance(additional, dict):
        raise FeaturewatchError(
            f"additional_config of type {type(additional).__name__}",
            "the tap adds a key to it so that vLLM's compile cache knows the tapped graph",
            "give additional_config as a JSON object",
        )
    additional["featurewatch_graph"] = {"op": op_revision, "hook_points": [str(point) for point in config.hook_points]}


def describe_engine(vllm_config: Any, version: str, device: str, tensor_parallel_rank: int) -> engine_pb2.EngineInfo:
    """What thresholds depend on, for the sidecar."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    served = model.served_model_name
    return engine_pb2.EngineInfo(
        name="vllm",
        version=version,
        model=str(model.model),
        served_model=str(served[0] if isinstance(served, (list, tuple)) and served else served or model.model),
        revision=str(model.revision or ""),
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=str(model.quantization or "none"),
        kv_cache_dtype=_kv_cache_dtype(vllm_config.cache_config),
        tokenizer="" if model.skip_tokenizer_init else str(model.tokenizer or ""),
        execution="eager" if int(vllm_config.compilation_config.mode or 0) == 0 else "compiled",
        runner="v1",
        num_layers=num_layers(vllm_config),
        hidden_size=int(model.get_hidden_size()),
        max_model_len=int(model.max_model_len),
        tensor_parallel_rank=tensor_parallel_rank,
        pipeline_parallel_rank=0,
        # The rank is 0 in every replica of a dense model, whose engines run on their own; the index is not.
        data_parallel_rank=int(getattr(parallel, "data_parallel_index", parallel.data_parallel_rank)),
        device=device,
    )


def prefix_block_size(vllm_config: Any, kv_cache_config: Any) -> int:
    """Tokens to a multiple of which prefix-cache hits come; 0 when there are none.

    Args:
        kv_cache_config: what the engine core hands to the scheduler and to every worker. Only there it is final: cache
            groups of different block sizes, and platforms, decide after the weights are loaded.
    """
    if not vllm_config.cache_config.enable_prefix_caching:
        return 0
    return int(kv_cache_config.cache_hit_alignment_tokens or kv_cache_config.hash_block_size or 0)


def _kv_cache_dtype(cache_config: Any) -> str:
    """As it was when first asked. Layers of some models change it while they are made; the scheduler asks after that,
    the worker before, and both must name prefixes alike. In one process they share the object, in two each asks its own
    unchanged copy."""
    kept: str = vars(cache_config).setdefault("_featurewatch_kv_cache_dtype", str(cache_config.cache_dtype))
    return kept


def num_layers(vllm_config: Any) -> int:
    """Decoder layers of the language model."""
    return int(vllm_config.model_config.hf_text_config.num_hidden_layers)
