"""Packing, conversations and the switches that keep what is left out by default."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor.errors import FeaturewatchError
from training.harvest.cache import ActivationCache
from training.harvest.config import HarvestConfig
from training.harvest.documents import Document
from training.harvest.loading import load_tokenizer
from training.harvest.packing import PackedMaker
from training.harvest.run import harvest
from training.harvest.split import require_usable
from training.harvest.tokens import Reason, SequenceMaker

SHARE = 0.3


def _config(folder: Path, **changes: Any) -> HarvestConfig:
    settings: dict[str, Any] = {"context": 64, "prompt_tokens": 20, "heldout_share": SHARE, **changes}
    return HarvestConfig(model=str(folder), data=(Path("unread.jsonl"),), hook_points=("resid_post.1",), **settings)


def _trained_on(length: int) -> Document:
    return next(document for letter in "abcdefgh" if not (document := Document(letter * length)).is_held_out(SHARE))


def test_packed_windows_are_full_and_lose_nothing_but_a_rest(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    documents = [Document("boats carry bread " * (number % 5 + 1) + str(number)) for number in range(60)]
    sequences = list(PackedMaker(tokenizer, _config(tiny_model)).all_sequences(documents))
    assert {len(sequence.token_ids_n) for sequence in sequences} == {64}
    for held_out in (False, True):
        part = [document for document in documents if document.is_held_out(SHARE) == held_out]
        stream = [i for document in part for i in (*tokenizer(document.text)["input_ids"], tokenizer.eos_token_id)]
        found = [i for s in sequences if s.held_out == held_out for i in s.token_ids_n[1:].tolist()]
        assert found == stream[: len(found)]
        assert 0 <= len(stream) - len(found) < 63
        assert len(found) > 63
    for sequence in sequences:
        assert sequence.token_ids_n[0] == tokenizer.bos_token_id
        assert sequence.reasons_n[0] == Reason.BOS
        is_end_n = sequence.token_ids_n[1:] == tokenizer.eos_token_id
        assert (sequence.reasons_n[1:][is_end_n] == Reason.SPECIAL).all()
        assert (sequence.reasons_n[1:][~is_end_n] == Reason.KEPT).all()


def test_a_long_document_fills_many_windows(tiny_model: Path) -> None:
    documents = [_trained_on(1000), _trained_on(30)]
    sequences = list(PackedMaker(load_tokenizer(str(tiny_model)), _config(tiny_model)).all_sequences(documents))
    assert len(sequences) == (1001 + 31) // 63


def test_too_little_text_to_fill_a_window_is_told(tiny_model: Path) -> None:
    maker = PackedMaker(load_tokenizer(str(tiny_model)), _config(tiny_model))
    with pytest.raises(FeaturewatchError, match="none that is trained on has text to fill a window of 64 tokens"):
        require_usable([_trained_on(40)], maker, SHARE)


def test_a_tokenizer_without_an_end_cannot_be_packed(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.eos_token = None
    with pytest.raises(FeaturewatchError, match=r"has no EOS .* Leave --packing out"):
        PackedMaker(tokenizer, _config(tiny_model))
    with pytest.raises(FeaturewatchError, match="packing with windows-per-document 2"):
        _config(tiny_model, packing=True, windows_per_document=2)


def test_a_packed_harvest_has_no_padding_or_template(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        _config(tiny_model, packing=True, tokens=1200, batch_tokens=256, heldout_tokens=400, dtype="float32"),
        data=(corpus,),
        cache=tmp_path / "cache",
    )
    manifest = harvest(config)
    assert manifest.rows >= 1200
    assert set(manifest.counts) <= {"kept", "bos", "special", "outlier"}
    assert manifest.counts["bos"] * 64 == sum(manifest.counts.values())
    assert manifest.heldout_counts["kept"] > 0
    assert ActivationCache(config.cache).require_whole()[0] == 1 + 3


TALK = Document("salt?\n\nhere\n\nmore", turns=(("user", "salt?"), ("assistant", "here"), ("user", "more")))


def test_turns_of_a_conversation_go_through_the_template(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    config = _config(tiny_model, context=256)
    (sequence,) = SequenceMaker(tokenizer, config).sequences(TALK)
    kept = tokenizer.decode(sequence.token_ids_n[sequence.reasons_n == Reason.KEPT].tolist())
    assert kept == "salt?heremore"
    assert tokenizer.decode(sequence.token_ids_n.tolist()).endswith("<|im_start|>assistant\n")
    tokenizer.chat_template = None
    (plain,) = SequenceMaker(tokenizer, config).sequences(TALK)
    assert tokenizer.decode(plain.token_ids_n[1:].tolist()) == TALK.text


@pytest.mark.parametrize(
    ("switches", "left_out"),
    [
        ({}, {"bos": 1, "special": 9, "template": True}),
        ({"keep_bos": True}, {"bos": 0, "special": 9, "template": True}),
        ({"keep_special": True}, {"bos": 1, "special": 0, "template": True}),
        ({"keep_template": True}, {"bos": 1, "special": 9, "template": False}),
        ({"keep_bos": True, "keep_special": True, "keep_template": True}, {"bos": 0, "special": 0, "template": False}),
    ],
)
def test_each_exclusion_can_be_switched_off(
    tiny_model: Path, switches: dict[str, bool], left_out: dict[str, int]
) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    document = Document(TALK.text, turns=(*TALK.turns, ("assistant", "yes")))
    (sequence,) = SequenceMaker(tokenizer, _config(tiny_model, context=256, **switches)).sequences(document)
    special_n = np.isin(sequence.token_ids_n, tokenizer.all_special_ids)
    assert special_n.sum() == 10
    counts = {reason.name.lower(): int((sequence.reasons_n == reason).sum()) for reason in Reason}
    assert counts["bos"] == left_out["bos"]
    assert counts["special"] == left_out["special"]  # all but the first
    assert (counts["template"] > 0) == left_out["template"]
    if len(switches) == 3:
        assert counts["kept"] == len(sequence.token_ids_n)


def test_kept_outliers_are_in_the_cache_and_warned_of(
    tiny_model: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = dataclasses.replace(
        _config(tiny_model, tokens=700, batch_tokens=256, heldout_tokens=400, dtype="float32", outlier_factor=1.1),
        data=(corpus,),
        cache=tmp_path / "default",
    )
    default = harvest(config)
    assert default.counts["outlier"] > 50
    assert not [record for record in caplog.records if "--keep" in record.getMessage()]
    every = harvest(dataclasses.replace(config, keep_outliers=True, keep_bos=True, cache=tmp_path / "every"))
    assert "outlier" not in every.counts
    assert "bos" not in every.counts
    assert every.medians != default.medians  # of the rows that are wanted
    messages = [record.getMessage() for record in caplog.records if "--keep" in record.getMessage()]
    assert [message.partition(":")[0] for message in messages] == ["--keep-bos", "--keep-outliers"]
    with pytest.raises(FeaturewatchError, match=r"other settings \(keep_bos, keep_outliers\)"):
        harvest(dataclasses.replace(config, cache=tmp_path / "every"))


def test_quantiles_of_the_norms_are_noted(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        _config(tiny_model, tokens=700, batch_tokens=256, heldout_tokens=400, dtype="float32"),
        data=(corpus,),
        hook_points=("attn_z.1", "resid_post.1"),
        cache=tmp_path / "cache",
    )
    manifest = harvest(config)
    for point, quantiles in manifest.norm_quantiles.items():
        assert list(quantiles) == ["0.01", "0.1", "0.5", "0.9", "0.99", "1.0"]
        assert list(quantiles.values()) == sorted(quantiles.values())
        assert quantiles["0.5"] == pytest.approx(manifest.medians[point])
    assert set(manifest.norm_quantiles) == {"attn_z.1", "resid_post.1"}
