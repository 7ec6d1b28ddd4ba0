"""The dictionaries and probes that policies name, read from disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from monitor.errors import FeaturewatchError
from monitor.policy import DenseProbeInfo, SaeInfo, SaeProbeInfo
from monitor.sae import Catalog, DenseProbe, Dictionary, SaeProbe, load_dense_probe, load_sae_probe, require_watchable
from monitor.sae.labels import labelled_latent, read_labels

_Name = TypeVar("_Name")
_Read = TypeVar("_Read")


class CatalogSources:
    """`monitor.policy.Sources` over a catalog of SAEs and a folder of policies. Each file is read once.

    Args:
        catalog: where SAE ids are looked up.
        policy_dir: the folder that probe files are relative to.
    """

    def __init__(self, catalog: Catalog, policy_dir: Path) -> None:
        self._catalog = catalog
        self._policy_dir = policy_dir
        self._labels: dict[str, Mapping[str, tuple[int, ...]]] = {}
        self._dense: dict[str, DenseProbe] = {}
        self._sae_probes: dict[str, SaeProbe] = {}

    def dictionary(self, sae_id: str) -> Dictionary:
        """The SAE itself; raises FeaturewatchError when it is unknown or damaged."""
        return _readable(self._catalog.load, sae_id, f"SAE {sae_id!r}")

    def dense_weights(self, file: str) -> DenseProbe:
        """The dense probe itself; raises FeaturewatchError when it is missing or damaged."""
        if file not in self._dense:
            self._dense[file] = _readable(load_dense_probe, self._policy_dir / file, f"probe file {file!r}")
        return self._dense[file]

    def sae(self, sae_id: str) -> SaeInfo:
        """Raises FeaturewatchError also for an SAE whose latents the tap cannot watch."""
        dictionary = self.dictionary(sae_id)
        require_watchable(sae_id, dictionary)
        return SaeInfo(
            hook_point=str(dictionary.hook_point),
            num_latents=dictionary.num_latents,
            width=dictionary.width,
            sha256=dictionary.sha256,
        )

    def labelled_latent(self, sae_id: str, label: str) -> int:
        if sae_id not in self._labels:
            self._labels[sae_id] = read_labels(self._catalog.path(sae_id))
        return labelled_latent(self._labels[sae_id], sae_id, label)

    def dense_probe(self, file: str) -> DenseProbeInfo:
        probe = self.dense_weights(file)
        if probe.hook_point.site != "resid_post":
            raise FeaturewatchError(
                f"probe file {file!r} at {probe.hook_point}", "the tap reads resid_post", "fit a probe at that site"
            )
        return DenseProbeInfo(hook_point=str(probe.hook_point), width=probe.weight_d.size, sha256=probe.sha256)

    def sae_probe(self, file: str) -> SaeProbeInfo:
        if file not in self._sae_probes:
            self._sae_probes[file] = _readable(load_sae_probe, self._policy_dir / file, f"probe file {file!r}")
        probe = self._sae_probes[file]
        return SaeProbeInfo(
            sae=probe.sae,
            latents=tuple(int(index) for index in probe.latents_k),
            weights=tuple(float(weight) for weight in probe.weight_k),
            bias=probe.bias,
            sha256=probe.sha256,
        )


def _readable(read: Callable[[_Name], _Read], name: _Name, subject: str) -> _Read:
    try:
        return read(name)
    except OSError as error:
        raise FeaturewatchError(
            f"{subject} ({error.strerror or error})", "it must be a readable file", "check the path and its permissions"
        ) from error
