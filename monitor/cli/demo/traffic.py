"""Sends the prompts, all at once, as any client would: through the `openai` package."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from monitor.cli.demo.prompts import Prompt


@dataclass(frozen=True)
class Answer:
    """What came of one prompt: `external_id` and `text`, or `error`."""

    prompt: Prompt
    external_id: str = ""
    text: str = ""
    error: str = ""


def send_all(prompts: Sequence[Prompt], *, base_url: str, model: str, max_tokens: int) -> list[Answer]:
    """One answer per prompt, in their order."""
    return asyncio.run(_send_all(prompts, base_url, model, max_tokens))


async def _send_all(prompts: Sequence[Prompt], base_url: str, model: str, max_tokens: int) -> list[Answer]:
    # Part of the `demo` extra; the command line works without it.
    from openai import AsyncOpenAI, OpenAIError

    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=180) as client:

        async def send(prompt: Prompt) -> Answer:
            try:
                completion = await client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": prompt.text}],
                    max_tokens=max_tokens,
                    temperature=0.0,
                )
            except OpenAIError as error:
                return Answer(prompt, error=f"{type(error).__name__}: {error}")
            return Answer(prompt, completion.id, completion.choices[0].message.content or "")

        return await asyncio.gather(*(send(prompt) for prompt in prompts))
