"""Takes the same sequences through both engines, batch by batch, and measures the difference."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, load_saelens
from training.comparison.config import CompareConfig
from training.comparison.point import MeasuredPoint, PointDifference
from training.harvest.activations import ActivationModel
from training.harvest.batches import TokenBatch, make_batches
from training.harvest.config import HarvestConfig
from training.harvest.document_store import DocumentStore
from training.harvest.documents import require_some
from training.harvest.engine_model import EngineModel, check_engine_points, require_room
from training.harvest.engine_start import engine_version, parse_engine_args
from training.harvest.loading import load_tokenizer
from training.harvest.model_config import ModelConfig
from training.harvest.residuals import ResidualModel
from training.harvest.tokens import SequenceMaker, TokenSequence
from training.harvest.wanted import wanted_documents
from training.progress import ProgressLine


@dataclass(frozen=True)
class Comparison:
    """Both engines and what differs between them."""

    model: str
    reference: dict[str, Any]
    engine: dict[str, Any]
    sequences: int
    tokens: int
    points: dict[str, PointDifference]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(config: CompareConfig) -> Comparison:
    """Everything that can be wrong without an engine is told before it starts.

    Raises:
        FeaturewatchError: bad text, model, hook point or SAE; vLLM does not start; rows are missing.
    """
    points = sorted({HookPoint.parse(text) for text in config.hook_points})
    check_engine_points(points)
    shape = ModelConfig.read(config.model)
    shape.require_hook_points(points)
    shape.require_context(config.context)
    require_room(shape, config.context)
    engine_version()
    arguments = parse_engine_args(config.engine_args)
    dictionaries = _dictionaries(config, points, shape.width)
    tokenizer = load_tokenizer(config.model)
    sequences = _sequences(_harvest_config(config), config, tokenizer)
    reference = ResidualModel(config.model, points, config.reference_dtype)
    with EngineModel(config.model, points, config.dtype, context=config.context, engine_args=arguments) as engine:
        measured = {
            point: MeasuredPoint(shape.width, dictionaries.get(point, {}), tokenizer, config.worst) for point in points
        }
        tokens = sum(len(sequence.token_ids_n) for sequence in sequences)
        with ProgressLine("compare", tokens) as progress:
            for done in _measure(reference, engine, make_batches(sequences, config.batch_tokens), measured):
                progress.update(done)
        told = engine.engine
    return Comparison(
        model=config.model,
        reference={
            "name": "transformers",
            "version": importlib.metadata.version("transformers"),
            "dtype": str(reference.dtype).removeprefix("torch."),
            "device": reference.device.type,
        },
        engine=told,
        sequences=len(sequences),
        tokens=tokens,
        points={str(point): found.result() for point, found in measured.items()},
    )


def _measure(
    reference: ActivationModel,
    engine: ActivationModel,
    batches: Iterator[TokenBatch],
    measured: Mapping[HookPoint, MeasuredPoint],
) -> Iterator[int]:
    """Yields how many positions are done."""
    done, first = 0, 0
    for batch in batches:
        ours = engine.residuals(batch.token_ids_bt, batch.lengths_b)
        theirs = reference.residuals(batch.token_ids_bt, batch.lengths_b)
        for point, found in measured.items():
            found.add(batch, first, theirs[point].numpy(), ours[point].numpy())
        done += int(batch.lengths_b.sum())
        first += len(batch.lengths_b)
        yield done


def _sequences(wanted: HarvestConfig, config: CompareConfig, tokenizer: Any) -> list[TokenSequence]:
    # Nothing is held out of a comparison.
    documents = DocumentStore(wanted_documents(wanted), 0.0, config.seed, None)
    require_some(documents, config.data)
    return list(itertools.islice(SequenceMaker(tokenizer, wanted).all_sequences(documents), config.sequences))


def _harvest_config(config: CompareConfig) -> HarvestConfig:
    """How text becomes sequences, as a harvest does it."""
    return HarvestConfig(
        model=config.model,
        data=config.data,
        hook_points=config.hook_points,
        tokens=config.sequences * config.context,
        context=config.context,
        chat_share=config.chat_share,
        batch_tokens=config.batch_tokens,
        heldout_tokens=2 * config.context,
        text_field=config.text_field,
        seed=config.seed,
    )


def _dictionaries(
    config: CompareConfig, points: Sequence[HookPoint], width: int
) -> dict[HookPoint, dict[str, Dictionary]]:
    found: dict[HookPoint, dict[str, Dictionary]] = {}
    for folder in config.sae:
        dictionary = load_saelens(folder)
        dictionary.require_width(width, config.model)
        if dictionary.hook_point not in points:
            raise FeaturewatchError(
                f"SAE {folder} at {dictionary.hook_point}",
                f"the comparison is at {', '.join(map(str, points))}",
                f"add --hook-point {dictionary.hook_point}",
            )
        found.setdefault(dictionary.hook_point, {})[folder.name] = dictionary
    return found
