"""Evidence in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from monitor.cli.evidence import render_evidence
from monitor.cli.render import render_generation
from monitor.v1.alerts_pb2 import Alert
from monitor.v1.evidence_pb2 import Evidence, TokenEvidence
from monitor.v1.generations_pb2 import GenerationRecord, TokenRecord


def record(tokens: int = 40, fired: int = 30, **changes: object) -> GenerationRecord:
    evidence = Evidence(
        hook_point="resid_post.14",
        sae="some-model-with-a-long-name/resid_post.14",
        num_latents=131_072,
        tokens=[
            TokenEvidence(
                position=position,
                latents=[100_000 + position % 7, *range(50, 65)],
                activations=[20.0 + position, *(10.0 - n / 2 for n in range(15))],
                active=60 + position % 2,
                error=0.125,
            )
            for position in range(tokens)
        ],
        labels={50: "separates harmful requests from harmless ones, train AUROC 0.833", 51: "\x1b[2J[bold]hostile"},
        reason="harmful-intent/HARMFUL-001",
        missing=2,
    )
    evidence.MergeFrom(Evidence(**changes))  # type: ignore[arg-type]
    return GenerationRecord(
        tokens=[TokenRecord(position=position, text=f"t{position}") for position in range(tokens)],
        alerts=[Alert(policy="harmful-intent", rule="HARMFUL-001", position=fired)],
        evidence=[evidence],
    )


def shown(one: GenerationRecord, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(render_evidence(one.evidence, one), highlight=False)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_evidence_fits_the_terminal_and_is_no_wall(width: int) -> None:
    lines = shown(record(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < 60
    assert not any("…" in line for line in lines)


def test_evidence_says_what_where_and_how_much() -> None:
    text = shown(record())
    words = " ".join(text.split())
    assert "40 of 42 judged tokens, 2 were no longer recorded" in words
    assert "median token: 60.5 latents active, 12.5% not reconstructed" in text
    assert "at token 30 “t30”, where HARMFUL-001 fired" in text
    at_token, _, over_all = text.partition("over the generation")
    assert at_token.index("100002") < at_token.index("  50 ")
    assert "separates harmful" in at_token
    rows = [line.split() for line in over_all.splitlines() if line.split()[:1] in (["50"], ["100004"])]
    # Latent 50 is active in all tokens, 100004 in every seventh; the latter's highest is at its last token.
    assert rows[0][0] == "50"
    assert rows[0][2:5] == ["40", "10", "0"]


def test_labels_cannot_steer_the_terminal() -> None:
    text = shown(record())
    assert "\x1b" not in text
    assert "\\u001b[2J[bold]hostile" in text


def test_evidence_without_tokens_tells_what_is_missing() -> None:
    one = record(tokens=0, fired=3)
    text = shown(one)
    assert "0 of 2 judged tokens, 2 were no longer recorded or did not arrive" in " ".join(text.split())
    assert "over the generation" not in text


def test_a_trigger_without_a_row_is_left_out() -> None:
    """The rule fired in a part of the prompt that came from the prefix cache."""
    text = shown(record(fired=99))
    assert "fired" not in text
    assert "over the generation" in text


def test_a_record_shows_its_evidence() -> None:
    out = io.StringIO()
    Console(file=out, width=80, color_system=None).print(render_generation(record()), highlight=False)
    assert "Evidence of some-model-with-a-long-name/resid_post.14 (131072 latents)" in out.getvalue()
