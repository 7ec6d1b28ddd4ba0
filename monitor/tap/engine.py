"""Which engines the tap works in, and what it tells the sidecar about the one it is in."""

from __future__ import annotations

from typing import Any

from monitor.errors import FeaturewatchError
from monitor.tap.config import TapConfig
from monitor.tap.proven import Cell, require_proven
from monitor.tap.refusals import refuse_holes, refuse_unsupported
from monitor.tap.row_log.config import RowLogConfig
from monitor.v1 import engine_pb2


def check_engine(vllm_config: Any, version: str, config: TapConfig | RowLogConfig) -> None:
    """Refuses the start where observed rows could be wrong. Raises FeaturewatchError with value, rule and remedy."""
    refuse_unsupported(vllm_config)
    if isinstance(config, RowLogConfig):
        refuse_holes(vllm_config)
    cell = Cell(
        version=version.partition("+")[0],
        runner=runner_name(vllm_config),
        device=str(vllm_config.device_config.device_type),
        drafting=drafting(vllm_config),
    )
    require_proven(cell, allow_unproven=config.allow_unproven_engine)


def runner_name(vllm_config: Any) -> str:
    return "v2" if vllm_config.use_v2_model_runner else "v1"


def drafting(vllm_config: Any) -> str:
    """Method of speculative decoding; empty without."""
    speculative = vllm_config.speculative_config
    return "" if speculative is None else str(speculative.method)


def salt_compile_cache(vllm_config: Any, config: TapConfig | RowLogConfig, op_revision: int) -> None:
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


def describe_engine(
    vllm_config: Any, version: str, device: str, tensor_parallel_rank: int, pipeline_parallel_rank: int = 0
) -> engine_pb2.EngineInfo:
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
        runner=runner_name(vllm_config),
        num_layers=num_layers(vllm_config),
        hidden_size=int(model.get_hidden_size()),
        max_model_len=int(model.max_model_len),
        tensor_parallel_rank=tensor_parallel_rank,
        pipeline_parallel_rank=pipeline_parallel_rank,
        pipeline_parallel_size=int(parallel.pipeline_parallel_size),
        # The rank is 0 in every replica of a dense model, whose engines run on their own; the index is not.
        data_parallel_rank=int(getattr(parallel, "data_parallel_index", parallel.data_parallel_rank)),
        device=device,
        async_scheduling=bool(vllm_config.scheduler_config.async_scheduling),
        speculative=drafting(vllm_config),
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
