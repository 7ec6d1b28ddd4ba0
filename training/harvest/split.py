"""Which documents are held out for the card."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from training.harvest.documents import Document
from training.harvest.tokens import Reason, SequenceMaker


def without_shared_texts(digests_n: npt.NDArray[np.uint64], held_out_n: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Which documents remain without those of the training part whose very text is held out under another name.

    Whether a document is held out depends on its own hash (see `Document`), so neither the order of the rows nor a
    second copy of a row moves anything between the two parts.

    Args:
        digests_n: of the texts.
        held_out_n: whether each document is.
    """
    shared_n = np.isin(digests_n, digests_n[held_out_n])
    return np.flatnonzero(held_out_n | ~shared_n)


def require_usable(documents: Sequence[Document], maker: SequenceMaker, share: float) -> None:
    """Raises FeaturewatchError unless there is text to train on and two sequences of it are held out.

    One of these sets the threshold, the other is measured for the card.
    """
    if documents and all(document.is_held_out(share) for document in documents):
        count = "the only document" if len(documents) == 1 else f"all of the {len(documents):,} documents"
        raise FeaturewatchError(
            f"heldout-share {share:g}, which holds out {count}",
            "none is left to train on",
            "give more documents (a .txt file is cut at blank lines into documents of about 6,000 characters, a .jsonl "
            "file has one a row) or lower --heldout-share",
        )
    if _usable(documents, maker, share, held_out=False, most=1) < 1:
        raise FeaturewatchError(
            f"{len(documents):,} documents", f"none that is trained on has {maker.needs}", "give longer texts"
        )
    if (found := _usable(documents, maker, share, held_out=True, most=2)) < 2:
        held_out = sum(document.is_held_out(share) for document in documents)
        raise FeaturewatchError(
            f"heldout-share {share:g} of {len(documents):,} documents, which holds out {held_out} of them with "
            f"{found} usable sequence{'' if found == 1 else 's'}",
            "two are needed: one sets the threshold, another is measured for the card",
            "raise --heldout-share or give more documents",
        )


def _usable(documents: Sequence[Document], maker: SequenceMaker, share: float, *, held_out: bool, most: int) -> int:
    """Sequences with content in one part, counted up to `most`."""
    part = (document for document in documents if document.is_held_out(share) == held_out)
    usable = (sequence for sequence in maker.all_sequences(part) if (sequence.reasons_n == Reason.KEPT).any())
    return sum(1 for _ in itertools.islice(usable, most))
