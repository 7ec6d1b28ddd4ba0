"""Labelled texts as one row each: their latents and their residuals pooled over tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse

from monitor.errors import FeaturewatchError
from monitor.policy import TokenClasses
from monitor.sae import Dictionary, HookPoint
from training.discovery.capture import by_length, chat_sequence, tokenizer_json
from training.discovery.prompt import Prompt
from training.evaluation.config import EvalConfig
from training.harvest.activations import ActivationModel
from training.harvest.batches import pad
from training.harvest.tokens import Reason, TokenSequence, special_ids
from training.progress import ProgressLine

Floats = npt.NDArray[np.float32]
Key = TypeVar("Key")
_CHUNK_VALUES = 2**24  # latents of one chunk of rows; a single longer text is still taken whole


@dataclass(frozen=True)
class PooledTexts(Generic[Key]):
    """One row per text.

    Attributes:
        codes: per dictionary, latents pooled over the text's content tokens, sparse float32 [p, m].
        residuals: per hook point, mean of the content rows, float32 [p, d].
    """

    codes: dict[Key, sparse.csr_array]
    residuals: dict[HookPoint, Floats]


def pooled_texts(
    model: ActivationModel,
    dictionaries: Mapping[Key, Dictionary],
    sequences: Sequence[TokenSequence],
    config: EvalConfig,
    title: str,
) -> PooledTexts[Key]:
    """One pass of the model over the texts; each needs at least one content token."""
    codes: dict[Key, list[Any]] = {key: [None] * len(sequences) for key in dictionaries}
    residuals = {point: np.empty((len(sequences), model.width_of(point)), np.float32) for point in model.hook_points}
    done = 0
    with ProgressLine(f"probe {title}", sum(len(sequence.token_ids_n) for sequence in sequences)) as progress:
        for indices in by_length(sequences, config.batch_tokens):
            batch = pad([sequences[index] for index in indices])
            kept_bt = batch.reasons_bt == Reason.KEPT
            starts_b = np.concatenate([[0], np.cumsum(kept_bt.sum(1))[:-1]])
            rows = {point: rows_btd.numpy()[kept_bt] for point, rows_btd in model.residuals(batch.token_ids_bt).items()}
            for point, rows_nd in rows.items():
                residuals[point][indices] = np.add.reduceat(rows_nd, starts_b) / kept_bt.sum(1)[:, None]
            for key, dictionary in dictionaries.items():
                pooled = _pooled_codes(dictionary, rows[dictionary.hook_point], starts_b, config.pooling)
                for index, row in zip(indices, pooled, strict=True):
                    codes[key][index] = row
            done += sum(len(sequences[index].token_ids_n) for index in indices)
            progress.update(done)
    return PooledTexts({key: sparse.csr_array(sparse.vstack(rows)) for key, rows in codes.items()}, residuals)


def text_sequences(
    prompts: Sequence[Prompt], tokenizer: Any, config: EvalConfig
) -> tuple[list[Prompt], list[TokenSequence]]:
    """Texts that have content tokens, and these as sequences.

    Raises:
        FeaturewatchError: chat turns are asked for and the tokenizer has no template.
    """
    if config.probe_form == "chat" and not tokenizer.chat_template:
        raise FeaturewatchError(
            f"tokenizer of {config.model}", "it has no chat template", "use --probe-form plain for a base model"
        )
    if config.probe_form != "plain" and tokenizer.chat_template:
        classes = TokenClasses.from_tokenizer_json(tokenizer_json(tokenizer))
        sequences = [chat_sequence(tokenizer, classes, prompt.text, config.context) for prompt in prompts]
    else:
        special_n = special_ids(tokenizer)
        sequences = [_plain_sequence(tokenizer, special_n, prompt.text, config.context) for prompt in prompts]
    pairs = [
        (prompt, sequence)
        for prompt, sequence in zip(prompts, sequences, strict=True)
        if (sequence.reasons_n == Reason.KEPT).any()
    ]
    return [prompt for prompt, _ in pairs], [sequence for _, sequence in pairs]


def _plain_sequence(tokenizer: Any, special_n: npt.NDArray[np.int32], text: str, context: int) -> TokenSequence:
    """The text behind a BOS (an EOS where the tokenizer has none)."""
    first = next((token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None), 0)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    ids_n = np.array([first, *ids][:context], np.int32)
    reasons_n = np.where(np.isin(ids_n, special_n), Reason.SPECIAL, Reason.KEPT).astype(np.uint8)
    reasons_n[0] = Reason.BOS
    return TokenSequence(ids_n, reasons_n, False)


def _pooled_codes(
    dictionary: Dictionary, rows_nd: Floats, starts_b: npt.NDArray[np.int64], pooling: str
) -> list[sparse.csr_array]:
    """Latents of each text, pooled over its rows."""
    ends_b = np.append(starts_b[1:], len(rows_nd))
    most = max(1, _CHUNK_VALUES // dictionary.num_latents)
    out: list[sparse.csr_array] = []
    first = 0
    while first < len(starts_b):
        last = max(first + 1, int(np.searchsorted(ends_b, starts_b[first] + most, "right")))
        codes_nm = dictionary.encode(rows_nd[starts_b[first] : ends_b[last - 1]])
        starts = starts_b[first:last] - starts_b[first]
        if pooling == "max":
            pooled_bm = np.maximum.reduceat(codes_nm, starts)
        else:
            pooled_bm = np.add.reduceat(codes_nm, starts) / (ends_b - starts_b)[first:last, None].astype(np.float32)
        out += [sparse.csr_array(row_m[None]) for row_m in pooled_bm]
        first = last
    return out
