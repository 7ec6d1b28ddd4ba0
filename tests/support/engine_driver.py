"""Runs a vLLM engine for a test: reads one JSON command a line, answers with one JSON line. Started as a subprocess.

First line: `{"args": {... AsyncEngineArgs ...}}`. Then `{"requests": [{"id", "prompt", "max_tokens", "n", "abort_after",
"temperature"}]}` runs them all at once; answers `{"outputs": {id: [[token ids], ...]}, "preemptions": number}`.
`{"stop": true}` shuts the engine down and answers with the seconds it took. Everything else goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any


async def _one(engine: Any, request: dict[str, Any]) -> list[list[int]]:
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        n=request.get("n", 1),
        temperature=request.get("temperature", 0.0),
        seed=7,
        max_tokens=request["max_tokens"],
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.CUMULATIVE,
    )
    outputs: list[list[int]] = [[] for _ in range(request.get("n", 1))]
    async for result in engine.generate(TokensPrompt(prompt_token_ids=request["prompt"]), params, request["id"]):
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
        requests = command["requests"]
        results = await asyncio.gather(*(_one(engine, request) for request in requests))
        outputs = {request["id"]: result for request, result in zip(requests, results, strict=True)}
        answer({"outputs": outputs, "preemptions": _preemptions()})
    start = time.monotonic()
    engine.shutdown()
    answer({"stopped_seconds": time.monotonic() - start})


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
