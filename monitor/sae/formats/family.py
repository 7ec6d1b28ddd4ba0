"""A family of SAE files, and what all of them share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from monitor.errors import FeaturewatchError
from monitor.sae.activation import Activation
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats.stored import Hints, Stored
from monitor.sae.formats.weights import Weights
from monitor.sae.hook_point import HookPoint
from monitor.sae.input_norm import InputNorm


@dataclass(frozen=True)
class Family:
    """Attributes:
    name: as its makers call it.
    recognises: whether files are of this family, by what is in them.
    load: into the normal form; raises FeaturewatchError.
    """

    name: str
    recognises: Callable[[Stored], bool]
    load: Callable[[Stored, Hints], Dictionary]


@contextlib.contextmanager
def odd_values_are_told(stored: Stored) -> Iterator[None]:
    """A configuration comes from anywhere: what no reader expects of its values becomes a FeaturewatchError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FeaturewatchError(
            f"{stored.config_path} ({type(error).__name__}: {error})",
            "a value in it, or in the weights file, is not of the kind that this family's makers write",
            "restore it from the training run, or download the SAE again",
        ) from error


def normal_form(
    weights: Weights,
    activation: Activation,
    stored: Stored,
    *,
    hook_point: HookPoint,
    model: str,
    family: str,
    metadata: Mapping[str, Any] | None = None,
    input_norm: InputNorm = "none",
) -> Dictionary:
    """The dictionary, with its origin in the metadata."""
    return Dictionary(
        w_enc_md=weights.w_enc_md,
        b_enc_m=weights.b_enc_m,
        w_dec_md=weights.w_dec_md,
        b_dec_d=weights.b_dec_d,
        activation=activation,
        hook_point=hook_point,
        model=model,
        sha256=stored.sha256,
        metadata={"source_format": family, "source": stored.place, **(metadata or {})},
        input_norm=input_norm,
    )


def place_of(stored: Stored, hints: Hints, *names: object) -> HookPoint:
    """The hook point that the files name; raises FeaturewatchError when they name none or the caller another.

    Args:
        names: what the files say, the most reliable first.
    """
    said = [name for name in names if isinstance(name, str) and name]
    for name in said:
        try:
            found = HookPoint.from_foreign(name)
        except FeaturewatchError as error:
            if name.startswith("blocks."):
                # TransformerLens' other sites of a layer are none of ours, so the caller cannot know better.
                raise
            if hints.hook_point is None:
                raise FeaturewatchError(
                    f"SAE {stored.place} at {name!r}",
                    error.rule,
                    "if that is one of these sites in its model, say which: --hook-point resid_pre.0",
                ) from error
            continue
        if hints.hook_point not in (None, found):
            raise FeaturewatchError(
                f"hook point {hints.hook_point} for SAE {stored.place}",
                f"its files say that it was trained at {name} ({found})",
                "leave --hook-point out, or use an SAE of the other hook point",
            )
        return found
    if hints.hook_point is None:
        raise FeaturewatchError(
            f"SAE {stored.place}, whose files name no hook_name",
            "the site that it was trained on must be known",
            "say it: --hook-point resid_post.<layer>",
        )
    return hints.hook_point


def model_of(stored: Stored, hints: Hints, *names: object) -> str:
    """The model that the caller or the files name; raises FeaturewatchError when neither does."""
    for name in (hints.model, *names):
        if isinstance(name, str) and name:
            return name
    raise FeaturewatchError(
        f"SAE {stored.place}, whose files name no model",
        "the model that it was trained on must be known",
        "say it: --model-name <model>",
    )


def k_of(stored: Stored, hints: Hints, said: object) -> int:
    """Latents per token; raises FeaturewatchError when nobody says how many, or the caller and the files disagree."""
    k = hints.k if said is None else said
    if not isinstance(k, int | float) or isinstance(k, bool) or k != int(k):
        raise FeaturewatchError(
            f"k {k!r} of SAE {stored.place}",
            "a topk SAE keeps a whole number of latents per token",
            "say it: --k <k>",
        )
    if hints.k not in (None, k):
        raise FeaturewatchError(
            f"k {hints.k} for SAE {stored.place}", f"its files say {k}", "leave --k out, or use another SAE"
        )
    return int(k)
