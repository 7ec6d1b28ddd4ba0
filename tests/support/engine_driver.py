"""Runs a vLLM engine for a test: reads one JSON command a line, answers with one JSON line. Started as a subprocess.

First line: `{"args": {... AsyncEngineArgs ...}}`. Then
`{"requests": [{"id", "prompt", "max_tokens", "n", "temperature", "stop", "lora", "abort_after", "cache_salt"}]}` runs
them all at once and answers `{"outputs": {id: [[token ids], ...]}, "preemptions": number}`; `{"inspect": true}` answers
with what was put on the runner; `{"stop": true}` shuts the engine down. Everything else goes to stderr.

Requests have no seed of their own: vLLM 0.32's CPU runner dies of one under chunked prefill ("CPU Generator does not
use offset").
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any


async def _one(engine: Any, request: dict[str, Any]) -> list[list[int]]:
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
    outputs: list[list[int]] = [[] for _ in range(request.get("n", 1))]
    adapter = LoRARequest("adapter", 1, request["lora"]) if "lora" in request else None
    prompt = TokensPrompt(prompt_token_ids=request["prompt"])
    if "cache_salt" in request:
        prompt["cache_salt"] = request["cache_salt"]
    async for result in engine.generate(prompt, params, request["id"], lora_request=adapter):
        for completion in result.outputs:
            outputs[completion.index] = list(completion.token_ids)
        if request.get("abort_after") and len(outputs[0]) >= request["abort_after"]:
            await engine.abort(request["id"])
            break
    return outputs


async def _serve(commands: Any, answer: Any) -> None:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**json.loads(commands.readline())["args"]))
    answer({"ready": True})
    while line := await asyncio.to_thread(commands.readline):
        command = json.loads(line)
        if command.get("stop"):
            break
        if command.get("inspect"):
            (changes,) = await engine.collective_rpc(changes_on_runner)
            answer({"changes": changes})
            continue
        requests = command["requests"]
        results = await asyncio.gather(*(_one(engine, request) for request in requests))
        outputs = {request["id"]: result for request, result in zip(requests, results, strict=True)}
        answer({"outputs": outputs, "preemptions": _preemptions()})
    engine.shutdown()
    answer({"stopped": True})


def changes_on_runner(worker: Any) -> list[str]:
    """Methods that an instance attribute hides, and modules with forward hooks. Runs in the worker."""
    runner = worker.model_runner
    hidden = [name for name in vars(runner) if callable(getattr(type(runner), name, None))]
    hooked = [name for name, module in runner.model.named_modules() if module._forward_hooks]
    return sorted(hidden) + sorted(hooked)


def _preemptions() -> float:
    from prometheus_client import REGISTRY

    return sum(
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "vllm:num_preemptions_total"
    )


def main() -> None:
    """Keeps the real stdout for answers; vLLM's own prints go to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    asyncio.run(_serve(sys.stdin, answer))


if __name__ == "__main__":
    main()
