"""Engine set-ups in which observed rows would be wrong, or not attributable, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from monitor.errors import FeaturewatchError

_Refusal = tuple[bool, str, str, str]


def refuse_unsupported(vllm_config: Any) -> None:
    """Raises FeaturewatchError with value, rule and remedy."""
    _raise_first((*_of_parallelism(vllm_config), *_of_drafts(vllm_config), *_rest(vllm_config)))


def refuse_holes(vllm_config: Any) -> None:
    """Raises FeaturewatchError where rows recorded into a folder would have holes, or more than one writer."""
    _raise_first(_of_recording(vllm_config))


def _raise_first(refusals: Iterable[_Refusal]) -> None:
    for refused, subject, rule, remedy in refusals:
        if refused:
            raise FeaturewatchError(subject, rule, remedy)


def _of_recording(vllm_config: Any) -> Iterator[_Refusal]:
    parallel = vllm_config.parallel_config
    yield (
        bool(vllm_config.cache_config.enable_prefix_caching),
        "record_to with prefix caching",
        "positions that come out of the cache are not computed and have no rows",
        "start the engine with --no-enable-prefix-caching (enable_prefix_caching=False)",
    )
    yield (
        getattr(vllm_config, "kv_transfer_config", None) is not None,
        "record_to with a KV connector",
        "positions that it brings are not computed and have no rows",
        "start the engine without --kv-transfer-config",
    )
    for name in ("pipeline_parallel_size", "data_parallel_size"):
        size = int(getattr(parallel, name, 1))
        yield (
            size > 1,
            f"record_to with {name} {size}",
            "several workers would write into one folder",
            "use tensor parallelism (only its first rank writes), or one engine",
        )


def _of_parallelism(vllm_config: Any) -> Iterator[_Refusal]:
    parallel = vllm_config.parallel_config
    passes = getattr(vllm_config.compilation_config, "pass_config", None)
    yield (
        bool(getattr(passes, "enable_sp", False)) or bool(getattr(parallel, "use_sequence_parallel_moe", False)),
        "sequence parallelism",
        "it spreads the rows of the residual stream over workers",
        "switch it off (pass_config.enable_sp, or expert parallelism together with tensor parallelism)",
    )
    yield (
        bool(getattr(parallel, "use_ubatching", False)),
        "dual batch overlap (microbatches)",
        "two microbatches would overwrite one buffer",
        "start the engine without --enable-dbo and --ubatch-size",
    )
    prefill_parallel = getattr(parallel, "prefill_context_parallel_size", 1)
    yield (
        prefill_parallel > 1,
        f"prefill_context_parallel_size {prefill_parallel}",
        "it spreads the rows of the residual stream over workers",
        "start the engine without prefill context parallelism",
    )


def _of_drafts(vllm_config: Any) -> Iterator[_Refusal]:
    speculative = vllm_config.speculative_config
    if speculative is None:
        return
    drafting = f"speculative decoding ({speculative.method})"
    v2 = bool(vllm_config.use_v2_model_runner)
    yield (
        vllm_config.parallel_config.pipeline_parallel_size > 1,
        f"{drafting} with pipeline parallelism",
        "a rank that does not sample learns too late which drafts were accepted",
        "start the engine without --speculative-config or with tensor parallelism",
    )
    yield (
        not v2 and bool(vllm_config.scheduler_config.async_scheduling),
        f"{drafting} with asynchronous scheduling on the V1 model runner",
        "the number of accepted drafts then stays on the device",
        "start the engine with --no-async-scheduling",
    )
    yield (
        not v2 and speculative.method == "ngram_gpu",
        f"{drafting} on the V1 model runner",
        "it leaves out drafts after the scheduler has counted them, so their rows cannot be told",
        "use the method ngram",
    )
    yield (
        bool(getattr(speculative, "enable_adaptive_verification", False)),
        f"{drafting} with adaptive verification",
        "how many rows each request has is then only known on the device",
        "start the engine without enable_adaptive_verification",
    )
    yield (
        speculative.method in ("extract_hidden_states", "custom_class"),
        drafting,
        "its drafts do not follow the rule that accepted ones come first",
        "use another method",
    )


def _rest(vllm_config: Any) -> Iterator[_Refusal]:
    model = vllm_config.model_config
    yield (
        bool(getattr(vllm_config.cache_config, "kv_sharing_fast_prefill", False)),
        "kv_sharing_fast_prefill",
        "it leaves most rows of a prompt out of the upper layers",
        "start the engine without --kv-sharing-fast-prefill",
    )
    transfer = getattr(vllm_config, "kv_transfer_config", None)
    yield (
        getattr(transfer, "kv_load_failure_policy", "fail") == "recompute",
        "a KV connector with kv_load_failure_policy recompute",
        "rows that were computed over blocks which failed to load would count as observed",
        "use the policy fail",
    )
    yield (
        bool(getattr(model, "is_encoder_decoder", False)),
        f"the encoder-decoder model {model.model}",
        "rows of an encoder are no positions of the generated sequence",
        "serve a decoder-only model or remove the featurewatch configuration",
    )
    yield (
        bool(getattr(model, "is_diffusion", False)),
        f"the diffusion model {model.model}",
        "it computes each position many times with other tokens",
        "serve an autoregressive model or remove the featurewatch configuration",
    )
    yield (
        bool(model.enable_prompt_embeds),
        "enable_prompt_embeds",
        "rows without token ids cannot be attributed to tokens",
        "start the engine without --enable-prompt-embeds",
    )
