"""Random policies, requests with shared prefixes, and schedules of their frames, each from a seed.

Drawn by `random` and not by hypothesis' own strategies: these favour small examples, in which hardly any prefix is hit.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from random import Random
from typing import Any

from prefix_kit import NUM_LATENTS, PREFIX, QUEUE_FULL, Piece, Request

_CONDITIONS = ("a.fire", "not a.fire", "a.warn and b.warn", "not (a.clear or b.fire)", "a.fire or b.warn")
_ALL_PHASES = ["prompt", "reasoning", "response"]
_PHASES = (
    *[_ALL_PHASES] * 4,
    *(["prompt"], ["response"], ["reasoning"], ["prompt", "response"], ["reasoning", "response"]),
)


#: It judges the requests of one tenant, and its rule fires on every token at once.
ACME_POLICY: dict[str, Any] = {
    "apiVersion": "monitor/v1",
    "kind": "Policy",
    "metadata": {"name": "p", "revision": 1},
    "spec": {
        "mode": "alert",
        "match": {"tenants": ["acme"]},
        "detectors": [
            {
                "id": "a",
                "source": {"saeLatents": {"sae": "tiny", "latents": [{"index": 1}]}},
                "aggregate": {"kind": "max", "skip": []},
                "threshold": {"fire": -100},
            }
        ],
        "rules": [{"id": "R", "when": "a.fire", "severity": "low"}],
        "onUnseen": "alert",
    },
}


def _detector(rng: Random, name: str) -> dict[str, Any]:
    kind = rng.choice(["ema", "rolling_mean", "max"])
    skip = rng.sample(["bos", "special", "template", "system"], rng.randint(0, 2))
    aggregate: dict[str, Any] = {"kind": kind, "minTokens": rng.randint(1, 4), "skip": skip}
    if kind == "ema":
        aggregate["halfLife"] = rng.choice([0.5, 2.0, 8.0])
    if kind == "rolling_mean":
        aggregate["window"] = rng.randint(1, 7)
    if kind != "max" and rng.random() < 0.4:
        aggregate["then"] = "max"
    latents = rng.sample(range(NUM_LATENTS), rng.randint(1, 3))
    fire = rng.choice([-0.5, 0.5, 1.5, 2.5])
    return {
        "id": name,
        "source": {
            "saeLatents": {
                "sae": "tiny",
                "latents": [{"index": index, "weight": rng.choice([1.0, -1.0, 0.3])} for index in latents],
                "combine": rng.choice(["weighted_sum", "max"]),
            }
        },
        "aggregate": aggregate,
        "threshold": {"fire": fire, "warn": fire - rng.choice([0.0, 0.5]), "clear": fire - rng.choice([0.0, 1.0])},
    }


def policy_texts(rng: Random) -> list[str]:
    """One or two policies, as JSON, which is YAML."""
    texts = []
    for number in range(rng.randint(1, 2)):
        rules = [
            {
                "id": f"R{index}",
                "when": rng.choice(_CONDITIONS),
                "for": f"{rng.randint(1, 3)} tokens",
                "severity": "low",
            }
            for index in range(rng.randint(1, 3))
        ]
        spec = {
            "mode": rng.choice(["shadow", "alert"]),
            "match": {"phases": rng.choice(_PHASES)},
            "detectors": [_detector(rng, "a"), _detector(rng, "b")],
            "rules": rules,
            "record": {"content": rng.choice(["full", "none"])},
        }
        metadata = {"name": f"p{number}", "revision": 1}
        texts.append(json.dumps({"apiVersion": "monitor/v1", "kind": "Policy", "metadata": metadata, "spec": spec}))
    return texts


def requests(rng: Random) -> list[Request]:
    """Prompts go on from earlier prompts, from whole earlier conversations, or begin anew."""
    made: list[Request] = []
    odd = rng.random() < 0.25
    for handle in range(1, rng.randint(3, 8)):
        begun: Sequence[int] = ()
        adapter, salt, content = "", b"", tuple[tuple[int, bytes], ...]()
        if made and rng.random() < 0.8:
            earlier = rng.choice(made)
            begun = earlier.tokens[: rng.randint(1, len(earlier.tokens)) if rng.random() < 0.3 else None]
            adapter, salt, content = earlier.adapter, earlier.salt, earlier.content
        if rng.random() < 0.15:
            adapter, salt = rng.choice(["", "lora"]), rng.choice([b"", b"salt"])
            content = rng.choice([(), ((3, b"cat"),), ((3, b"dog"),)])
        prompt = (*begun, *_tokens(rng, 1))
        made.append(Request(handle, prompt, _tokens(rng, 0), adapter, salt, content, odd))
    return made


def _tokens(rng: Random, least: int) -> list[int]:
    return rng.choices([1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 11], k=rng.randint(least, 16))


def schedule(rng: Random, made: Sequence[Request], block_size: int) -> list[list[Piece]]:
    """Frames: a few requests at a time, each with rows, a gap, or rows behind a gap."""
    cached = set[tuple[object, ...]]()
    waiting = []
    for request in made:
        waiting.append(_pieces(rng, request, block_size, cached))
        cached |= {request.identity(end) for end in range(block_size, len(request.tokens) + 1, block_size)}
    live: list[list[Piece]] = []
    frames = []
    while waiting or live:
        while waiting and (not live or (len(live) < 3 and rng.random() < 0.35)):
            live.append(waiting.pop(0))
        going = [entry for entry in live if rng.random() < 0.7] or live[:1]
        frames.append([])
        for entry in rng.sample(going, len(going)):
            frames[-1].append(entry.pop(0))
            if frames[-1][-1].gap is not None and entry and entry[0].gap is None and rng.random() < 0.7:
                frames[-1].append(entry.pop(0))
        live = [entry for entry in live if entry]
    return frames


def _pieces(rng: Random, request: Request, block_size: int, cached: Container[tuple[object, ...]]) -> list[Piece]:
    """How the engine works through a request: cached prefixes, also after a preemption, rows in chunks, lost rows."""
    pieces, position, total = list[Piece](), 0, len(request.tokens)
    careful = rng.random() < 0.6
    while position < total:
        end = min(position + rng.randint(1, 12), total)
        gap = None
        # Whole blocks, and never the last token of the prompt. Now and then what no request had before, as after a
        # restart of the sidecar.
        ends = [*range((position // block_size + 1) * block_size, len(request.prompt), block_size)]
        if careful or rng.random() < 0.7:
            ends = [end for end in ends if request.identity(end) in cached]
        if ends and rng.random() < (0.8 if position == 0 else 0.3):
            gap, end = PREFIX, rng.choice([*ends, ends[-1]])
        elif not careful and rng.random() < 0.15:
            # In the response no engine takes anything from its cache; nothing must be made of it.
            gap = PREFIX if position >= len(request.prompt) and rng.random() < 0.3 else QUEUE_FULL
        pieces.append(Piece(request, position, end, gap))
        position = end
    return pieces
