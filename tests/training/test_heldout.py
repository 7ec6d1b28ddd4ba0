"""The threshold and the card need different held-out text, and say so when there is too little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, JumpRelu
from training.card.heldout import heldout_rows, require_halves
from training.evaluation.splice import measure_splice
from training.harvest.tokens import Reason, TokenSequence

POINT = HookPoint(1)


def _sequence(seed: int, length: int, kept: int) -> TokenSequence:
    ids_n = np.random.default_rng(seed).integers(3, 200, length).astype(np.int32)
    reasons_n = np.full(length, Reason.TEMPLATE, np.uint8)
    reasons_n[length - kept :] = Reason.KEPT
    return TokenSequence(ids_n, reasons_n, True)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([9], "1 held-out sequence: none is left with text for the half that is measured for the card"),
        ([], "0 held-out sequences: none is left with text for the half that sets the threshold"),
        ([9, 0], "for the half that is measured for the card"),
        ([0, 9, 0], "for the half that sets the threshold"),
    ],
)
def test_two_sequences_with_text_are_needed(kept: list[int], message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        require_halves([_sequence(seed, 12, count) for seed, count in enumerate(kept)])


def test_two_sequences_are_enough(tiny_model: Path) -> None:
    rows = heldout_rows(str(tiny_model), [POINT], [_sequence(0, 12, 5), _sequence(1, 12, 3)], 64)
    assert (len(rows.calibration(POINT)), len(rows.report(POINT))) == (5, 3)


@pytest.mark.parametrize("kept", [0, 1])
def test_text_whose_loss_no_dictionary_can_change_is_told(tiny_model: Path, kept: int) -> None:
    """With one content token there is no later one whose prediction could suffer: shares would divide by zero."""
    dictionary = Dictionary(
        w_enc_md=np.eye(8, 32, dtype=np.float32),
        b_enc_m=np.zeros(8, np.float32),
        w_dec_md=np.eye(8, 32, dtype=np.float32),
        b_dec_d=np.zeros(32, np.float32),
        activation=JumpRelu(np.ones(8, np.float32)),
        hook_point=POINT,
        model="toy",
    )
    with pytest.raises(FeaturewatchError, match="too little text to measure"):
        measure_splice(str(tiny_model), {POINT: dictionary}, {POINT: dictionary.b_dec_d}, [_sequence(0, 12, kept)], 64)
