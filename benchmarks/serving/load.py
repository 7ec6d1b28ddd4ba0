"""Bursts of streaming chat requests, timed by the client."""

from __future__ import annotations

import concurrent.futures
import random
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SERVED = "bench"
WORDS = ["river", "stone", "garden", "winter", "engine", "paper", "silver", "bridge", "market", "letter", "forest"]
WORDS += ["signal", "candle", "harbour", "window", "thunder", "copper", "basket", "morning", "violin", "ladder"]


@dataclass(frozen=True)
class Round:
    """One burst of requests.

    Attributes:
        tokens: output tokens of all streams.
        positions: that the engine had to process: prompt tokens and output tokens, without the last of each stream.
        seconds: wall time.
        gaps_s: seconds between neighbouring tokens of a stream.
    """

    tokens: int
    positions: int
    seconds: float
    gaps_s: list[float]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def gap(self, share: float) -> float:
        return float(np.quantile(self.gaps_s, share))


def burst(port: int, *, streams: int, tokens: int, seed: str) -> Round:
    """Sends `streams` requests at once; each streams exactly `tokens` tokens. The same seed gives the same prompts."""
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)
    chance = random.Random(seed)
    prompts = [" ".join(chance.choices(WORDS, k=chance.randint(20, 60))) for _ in range(streams)]

    def stream(prompt: str) -> tuple[list[float], int]:
        times, positions = [], 0
        answer = client.chat.completions.create(
            model=SERVED,
            messages=[{"role": "user", "content": f"Write a long story with these words: {prompt}"}],
            max_tokens=tokens,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        for chunk in answer:
            if chunk.choices and chunk.choices[0].delta.content is not None:
                times.append(time.perf_counter())
            if chunk.usage is not None:
                positions = chunk.usage.total_tokens - 1
        return times, positions

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        answers = list(pool.map(stream, prompts))
    seconds = time.perf_counter() - start
    gaps = [later - earlier for times, _ in answers for earlier, later in pairwise(times)]
    return Round(streams * tokens, sum(positions for _, positions in answers), seconds, gaps)
