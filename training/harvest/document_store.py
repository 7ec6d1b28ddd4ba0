"""Documents on disk, in the order of a harvest: of each only a few numbers are in memory."""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, overload

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from training.harvest.disk import full_disk_is_told, nearest_folder
from training.harvest.documents import Document, shuffled_order
from training.harvest.split import without_shared_texts


class DocumentStore(Sequence[Document]):
    """The documents less texts that are held out under another name, in an order that depends on the seed alone.

    They lie in a file without a name, which is gone with the process, however that ends.

    Args:
        documents: read once, in order.
        share: that is held out.
        seed: of the order.
        cache: folder of the activation cache, beside which the file lies, and which need not be there; None for the
            system's folder for temporary files.

    Raises:
        FeaturewatchError: the disk is full or may not be written.
    """

    def __init__(self, documents: Iterable[Document], share: float, seed: int, cache: Path | None) -> None:
        ends, digests, held_out = array("q", [0]), array("Q"), array("b")
        with full_disk_is_told(cache):
            self._file = _unnamed_file(cache)
            for document in documents:
                self._file.write(_packed(document))
                ends.append(self._file.tell())
                digests.append(document.digest)
                held_out.append(document.is_held_out(share))
            self._file.flush()
        kept_n = without_shared_texts(np.array(digests, np.uint64), np.array(held_out, np.bool_))
        self._ends = np.array(ends, np.int64)
        self._order: npt.NDArray[np.int64] = kept_n[shuffled_order(len(kept_n), seed)]

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Document: ...

    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...

    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = self._order[index]
        start, end = int(self._ends[row]), int(self._ends[row + 1])
        return _unpacked(os.pread(self._file.fileno(), end - start, start))


def _unnamed_file(cache: Path | None) -> IO[bytes]:
    if cache is None:
        return tempfile.TemporaryFile()
    folder = nearest_folder(cache.parent)
    try:
        return tempfile.TemporaryFile(dir=folder)
    except PermissionError as error:
        raise FeaturewatchError(
            f"folder {folder} ({error.strerror})",
            "the documents are kept beside the cache during the harvest",
            "give a --cache folder in one that this user may write",
        ) from error


def _packed(document: Document) -> bytes:
    values = [document.text, document.source, document.category, document.licence, document.document, document.turns]
    return json.dumps(values, ensure_ascii=False).encode(errors="surrogatepass")  # json reads it back so


def _unpacked(data: bytes) -> Document:
    text, source, category, licence, document, turns = json.loads(data)
    return Document(text, source, category, licence, document, tuple((role, said) for role, said in turns))
