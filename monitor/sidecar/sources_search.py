"""Sources of policies from several folders, so that they can be compiled together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.policy import DenseProbeInfo, SaeInfo, SaeProbeInfo
from monitor.sae import Catalog, DenseProbe, Dictionary
from monitor.sidecar.sources import CatalogSources


class SearchSources:
    """Looks for a probe file in each policy folder. The same name with other content in two folders is refused.

    What was read once stays as it was, whatever becomes of the file.
    """

    def __init__(self, catalog: Catalog, folders: Sequence[Path]) -> None:
        self._catalog = catalog
        self._saes = CatalogSources(catalog, Path())
        self._holders: dict[str, CatalogSources] = {}
        self._folders = {folder.resolve(): CatalogSources(catalog, folder.resolve()) for folder in folders}

    def sae(self, sae_id: str) -> SaeInfo:
        return self._saes.sae(sae_id)

    def labelled_latent(self, sae_id: str, label: str) -> int:
        return self._saes.labelled_latent(sae_id, label)

    def dense_probe(self, file: str) -> DenseProbeInfo:
        return self._holder(file).dense_probe(file)

    def sae_probe(self, file: str) -> SaeProbeInfo:
        return self._holder(file).sae_probe(file)

    def dictionary(self, sae_id: str) -> Dictionary:
        """The SAE itself."""
        return self._saes.dictionary(sae_id)

    def sae_folder(self, sae_id: str) -> Path:
        """Where the SAE lies; raises FeaturewatchError when it is unknown."""
        return self._catalog.path(sae_id)

    def dense_weights(self, file: str) -> DenseProbe:
        """The dense probe itself."""
        return self._holder(file).dense_weights(file)

    def _holder(self, file: str) -> CatalogSources:
        if file not in self._holders:
            self._holders[file] = self._find_holder(file)
        return self._holders[file]

    def _find_holder(self, file: str) -> CatalogSources:
        holders = [folder for folder in self._folders if (folder / file).is_file()]
        if not holders:
            raise FeaturewatchError(
                f"probe file {file!r}",
                f"it is in none of the policy folders {', '.join(map(str, self._folders))}",
                "give a path relative to the policy file",
            )
        if len({(folder / file).read_bytes() for folder in holders}) > 1:
            raise FeaturewatchError(
                f"probe file {file!r}",
                f"it is in {' and '.join(map(str, holders))} with different content",
                "give the two files different names",
            )
        return self._folders[holders[0]]
