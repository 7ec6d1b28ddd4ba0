"""Which engines the tap was seen to observe rightly, and how. Others are refused unless the operator insists."""

from __future__ import annotations

from typing import Final, NamedTuple

from monitor.errors import FeaturewatchError

_REAL_ENGINE: Final = "the real engine, every row against Hugging Face"
_INTERPRETED: Final = f"{_REAL_ENGINE}, with vLLM's Triton kernels run by Triton's interpreter"


class Cell(NamedTuple):
    """One way to run vLLM.

    Attributes:
        version: of vLLM, without its local part.
        runner: model runner, "v1" or "v2".
        device: "cpu" or "cuda".
        drafting: method of speculative decoding; empty without.
    """

    version: str
    runner: str
    device: str
    drafting: str = ""

    def __str__(self) -> str:
        drafting = f" with {self.drafting} speculative decoding" if self.drafting else ""
        return f"vLLM {self.version}, {self.runner.upper()} model runner, {self.device}{drafting}"


PROVEN: Final = {
    Cell("0.32.0", "v1", "cpu"): _REAL_ENGINE,
    Cell("0.32.0", "v1", "cpu", "ngram"): _REAL_ENGINE,
    Cell("0.32.0", "v2", "cpu"): _INTERPRETED,
    Cell("0.32.0", "v2", "cpu", "ngram"): _INTERPRETED,
}
"""Nothing here has run on a GPU: none could be had. docs/tap.md lists what each cell was proven with."""


def require_proven(cell: Cell, *, allow_unproven: bool) -> None:
    """Raises FeaturewatchError unless `cell` was proven, or may be unproven."""
    if cell in PROVEN or allow_unproven:
        return
    raise FeaturewatchError(
        str(cell),
        f"the tap was proven on {'; '.join(str(known) for known in PROVEN)}" + _known_of(cell),
        "use one of these, or set allow_unproven_engine to true in the featurewatch configuration and check the engine "
        "with featurewatch verify",
    )


def _known_of(cell: Cell) -> str:
    """What can honestly be said of a cell that was not proven."""
    if cell.device == "cuda":
        return " (its code for CUDA is written for this, but no GPU could be had to run it)"
    if cell.drafting and cell._replace(drafting="") in PROVEN:
        return f" (rows of {cell.drafting} drafts should be told apart like those of ngram; nobody has compared them)"
    return ""
