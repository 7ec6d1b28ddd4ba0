"""The documents that a harvest reads, and what identifies them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from training.harvest.config import HarvestConfig
from training.harvest.documents import Document, read_source
from training.harvest.sources.hub import HubData, is_hub
from training.identity import file_sha256, joined_sha256

_CHARACTERS = 4
"""Per token, in English."""
_MARGIN = 3
"""For tokens that are left out, and for tokenizers that need more of them."""


def wanted_documents(config: HarvestConfig) -> Iterator[Document]:
    """Files whole, and of a Hugging Face data set, which may be endless, as much text as the tokens need, from its
    beginning; of each at most `config.documents`. Raises FeaturewatchError."""
    for path in config.data:
        found = read_source(path, config.text_field, config.document_field)
        if config.documents:
            found = itertools.islice(found, config.documents)
        yield from _enough(found, config) if is_hub(path) else found


def data_sha256(config: HarvestConfig) -> str:
    """Of the bytes of all files, and of the commits of data sets on the Hub; raises FeaturewatchError."""
    return joined_sha256([_hub_identity(path) if is_hub(path) else file_sha256(path) for path in config.data])


def _enough(documents: Iterable[Document], config: HarvestConfig) -> Iterator[Document]:
    most = config.windows_per_document * config.context * _CHARACTERS
    wanted = _MARGIN * _CHARACTERS * config.tokens / (1 - config.heldout_share)
    for document in documents:
        yield document
        wanted -= min(len(document.text), most) if most else len(document.text)
        if wanted <= 0:
            return


def _hub_identity(path: Path) -> str:
    data = HubData.parse(str(path))
    if data.folder is None:
        return f"{data}@{data.revision()}"
    files = sorted(file for file in data.folder.rglob("*") if file.is_file())
    contents = [f"{file.relative_to(data.folder)} {file_sha256(file)}" for file in files]
    return joined_sha256([data.config, data.split, *contents])
