"""Which documents are held out for the card."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from monitor.errors import FeaturewatchError
from training.harvest.documents import Document
from training.harvest.tokens import Reason, SequenceMaker


def without_shared_texts(documents: Sequence[Document], share: float) -> list[Document]:
    """The documents less those of the training part whose very text is held out under another name.

    Whether a document is held out depends on its own hash (see `Document`), so neither the order of the rows nor a
    second copy of a row moves anything between the two parts.
    """
    held_out = {document.digest for document in documents if document.is_held_out(share)}
    return [document for document in documents if document.is_held_out(share) or document.digest not in held_out]


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
            f"{len(documents):,} documents", "none that is trained on has text of 4 tokens or more", "give longer texts"
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
    sequences = (
        sequence
        for document in documents
        if document.is_held_out(share) == held_out
        for sequence in maker.sequences(document)
        if (sequence.reasons_n == Reason.KEPT).any()
    )
    return sum(1 for _ in itertools.islice(sequences, most))
