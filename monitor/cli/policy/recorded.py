"""What explain and replay read from records and from disk: how a request was served, and what detectors are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.policy import Policy, Sources
from monitor.policy.schema.detector import Detector
from monitor.replay import Circumstances
from monitor.replay.same_source import Ingredients
from monitor.sae import Catalog
from monitor.sidecar.plan import serving_config
from monitor.sidecar.sources import CatalogSources
from monitor.v1.generations_pb2 import GenerationRecord

_NANOS = 1_000_000_000


def made_of(policy: Policy, catalog: Catalog) -> dict[str, Ingredients]:
    """Of each detector the hashes of its SAE and its probe, None for what cannot be read here; by detector id."""
    return ingredients_of(policy, CatalogSources(catalog, Path(policy.file).parent))


def ingredients_of(policy: Policy, sources: Sources) -> dict[str, Ingredients]:
    """Like `made_of`, from sources that are at hand."""
    return {one.id: _ingredients(one, sources) for one in policy.document.spec.detectors}


def circumstances_of(record: GenerationRecord) -> Circumstances:
    """What decided about the recorded request, as the sidecar saw it."""
    summary, engine = record.summary, record.engine
    began = datetime.fromtimestamp(summary.start_unix_nanos // _NANOS, UTC)
    return Circumstances(
        request_id=summary.request_id,
        models=tuple(name for name in (engine.served_model, engine.model) if name),
        serving=serving_config(engine),
        tenant=summary.tenant,
        adapter=summary.adapter,
        day=began.date().isoformat(),
    )


def _ingredients(detector: Detector, sources: Sources) -> Ingredients:
    source, found = detector.source, dict[tuple[str, str], str | None]()
    try:
        if source.sae_latents is not None:
            found["sae", source.sae_latents.sae] = None
            found["sae", source.sae_latents.sae] = sources.sae(source.sae_latents.sae).sha256
        elif source.sae_probe is not None:
            file = source.sae_probe.file
            found["probe", file] = None
            probe = sources.sae_probe(file)
            found |= {("probe", file): probe.sha256, ("sae", probe.sae): None}
            found["sae", probe.sae] = sources.sae(probe.sae).sha256
        elif source.dense_probe is not None:
            file = source.dense_probe.file
            found["probe", file] = None
            found["probe", file] = sources.dense_probe(file).sha256
    except FeaturewatchError:
        # It is not here, or damaged: the entry stays None, and what reads it says that it could not be compared.
        return found
    return found
