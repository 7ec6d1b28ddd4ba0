"""Runs vLLM engines in this process, one after the other and step by step: reads one JSON command a line, answers with
one JSON line. Started as a subprocess, because vLLM's state is a process's.

`{"open": {... EngineArgs ...}, "environment": {...}}` makes an engine and answers `{"refused": null}`, or the text of
the error that refused it. `{"play": [events], "seed": n}` empties the prefix cache, then applies events in their order:
`{"add": {"id", "prompt", "max_tokens", "n", "temperature", "stop", "lora", "cache_salt"}}`, `{"abort": id}`,
`{"steps": n}`; it then steps until nothing is left and answers `{"outputs": {id: [[token ids], ...]}, "trace": {...},
"mixed_steps": n}`. `{"inspect": true}` answers with what was put on the runner, `{"close": true}` shuts the engine
down. Everything else goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import interpreted_triton
from support.engine_driver import changes_on_runner
from support.schedule_trace import ScheduleTrace


class SteppedEngine:
    """One in-process engine."""

    def __init__(self, args: dict[str, Any]) -> None:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_engine_args(EngineArgs(**args))
        self._core = self._engine.engine_core.engine_core
        self._trace = ScheduleTrace(self._core.scheduler)
        self._outputs: dict[str, list[list[int]]] = {}
        # By the client's id.
        self._internal_ids: dict[str, str] = {}

    def play(self, events: list[dict[str, Any]], seed: int) -> dict[str, Any]:
        import torch

        assert self._engine.reset_prefix_cache(), "the engine is not idle"
        torch.manual_seed(seed)
        self._trace.clear()
        self._outputs.clear()
        for event in events:
            if "add" in event:
                self._add(event["add"])
            elif "abort" in event:
                self._engine.abort_request([self._internal_ids[event["abort"]]], internal=True)
            for _ in range(event.get("steps", 0)):
                self._step()
        # Under asynchronous scheduling a pass may be under way for requests that have ended.
        while self._core.scheduler.has_requests() or self._core.batch_queue:
            self._step()
        return {
            "outputs": self._outputs,
            "trace": self._trace.requests,
            "mixed_steps": self._trace.mixed_steps,
        }

    def changes(self) -> list[str]:
        (changes,) = self._engine.collective_rpc(changes_on_runner)
        return changes

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def _add(self, request: dict[str, Any]) -> None:
        from vllm import SamplingParams, TokensPrompt
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            n=request.get("n", 1),
            temperature=request.get("temperature", 0.0),
            max_tokens=request["max_tokens"],
            ignore_eos=True,
            detokenize="stop" in request,
            stop=request.get("stop"),
            output_kind=RequestOutputKind.CUMULATIVE,
        )
        prompt = TokensPrompt(prompt_token_ids=request["prompt"])
        if "cache_salt" in request:
            prompt["cache_salt"] = request["cache_salt"]
        self._outputs[request["id"]] = [[] for _ in range(params.n)]
        self._internal_ids[request["id"]] = self._engine.add_request(
            request["id"],
            prompt,
            params,
            lora_request=LoRARequest("adapter", 1, request["lora"]) if "lora" in request else None,
        )

    def _step(self) -> None:
        for result in self._engine.step():
            for completion in result.outputs:
                self._outputs[result.request_id][completion.index] = list(completion.token_ids)


def _know_model(folder: Path) -> None:
    """Tells vLLM what its class for this model can do; it would start a process to find out."""
    from vllm import ModelRegistry

    for name in json.loads((folder / "config.json").read_text())["architectures"]:
        if name in ModelRegistry.models:
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())


def _keep_kernels() -> None:
    """vLLM's CPU engine puts kernels of its own in the place of Triton's when it starts. To find that place it looks at
    all modules, and falls over llvmlite's, which n-gram drafting loads; once done it is done for the whole process."""
    from vllm.platforms import current_platform

    type(current_platform).register_triton_kernel_overrides = classmethod(lambda cls: None)


def _open(command: dict[str, Any]) -> tuple[SteppedEngine | None, str | None]:
    from vllm.distributed import cleanup_dist_env_and_memory

    os.environ.update(command["environment"])
    _know_model(Path(command["open"]["model"]))
    try:
        engine = SteppedEngine(command["open"])
        _keep_kernels()
        return engine, None
    except Exception as error:  # noqa: BLE001 -- whatever refuses the start is the answer
        traceback.print_exc()
        refusal = f"{type(error).__name__}: {error}"
    finally:
        for name in command["environment"]:
            del os.environ[name]
    cleanup_dist_env_and_memory()
    return None, refusal


def _serve(commands: Any, answer: Callable[[dict[str, Any]], None]) -> None:
    engine: SteppedEngine | None = None
    for line in commands:
        command = json.loads(line)
        if "open" in command:
            engine, refusal = _open(command)
            answer({"refused": refusal})
            continue
        assert engine is not None, "no engine is open"
        if "play" in command:
            answer(engine.play(command["play"], command["seed"]))
        elif "inspect" in command:
            answer({"changes": engine.changes()})
        else:
            engine.close()
            engine = None
            gc.collect()
            answer({"closed": True})


def main() -> None:
    """Keeps the real stdout for answers; vLLM's own prints go to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Read when vLLM is imported.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if "TRITON_INTERPRET" in os.environ:
        interpreted_triton.install()

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    _serve(sys.stdin, answer)


if __name__ == "__main__":
    main()
