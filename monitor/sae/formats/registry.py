"""All families, and the one way to load an SAE of any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from monitor.errors import FeaturewatchError
from monitor.sae.dictionary import Dictionary
from monitor.sae.formats import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    llama_scope,
    llamascopium,
    openai,
    qwen_scope,
    saelens,
    sparsify,
)
from monitor.sae.formats.family import Family, odd_values_are_told
from monitor.sae.formats.hub import PREFIX, HubId, fetch
from monitor.sae.formats.no_sae import refuse_what_is_no_sae
from monitor.sae.formats.stored import Hints, Stored, open_stored

FAMILIES: Final[tuple[Family, ...]] = (
    saelens.FAMILY,
    sparsify.FAMILY,
    gemma_scope.FAMILY,
    gemma_scope_2.FAMILY,
    openai.FAMILY,
    llama_scope.FAMILY,
    llamascopium.FAMILY,
    goodfire.FAMILY,
    dictionary_learning.FAMILY,
    qwen_scope.FAMILY,
)


def load_dictionary(source: str | Path, hints: Hints | None = None, *, cache: Path | None = None) -> Dictionary:
    """Loads an SAE of any known family into the normal form.

    Args:
        source: a folder, a weights file, or ``hf:owner/repository/path[@revision]``.
        hints: what the files of some families do not say.
        cache: Hugging Face's cache folder; None for the user's.

    Raises:
        FeaturewatchError: nothing is there, the files are of no known family or no SAE, or they are damaged.
    """
    stored = _open(source, cache)
    with odd_values_are_told(stored):
        refuse_what_is_no_sae(stored)
        return _family(stored).load(stored, hints or Hints())


def _open(source: str | Path, cache: Path | None) -> Stored:
    text = str(source)
    if text.startswith(PREFIX):
        hub_id = HubId.parse(text)
        return open_stored(fetch(hub_id, cache), place=str(hub_id))
    return open_stored(Path(source))


def _family(stored: Stored) -> Family:
    for family in FAMILIES:
        if family.recognises(stored):
            return family
    raise FeaturewatchError(
        f"{stored.weights} with tensors {', '.join(sorted(stored.tensors)) or 'none'}"
        + ("" if stored.config else f" and no {stored.config_path.name}"),
        f"these are not those of {', '.join(family.name for family in FAMILIES)}",
        "give the folder as its makers publish it, with the configuration beside the weights",
    )
