"""Documents as token sequences, with a reason for every position that is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers

from training.harvest.chat import ChatTemplate, speaker_turns
from training.harvest.config import HarvestConfig
from training.harvest.documents import Document
from training.harvest.loading import load_tokenizer
from training.harvest.tokens import Reason, SequenceMaker, special_ids


def _config(folder: Path, **changes: Any) -> HarvestConfig:
    settings: dict[str, Any] = {"context": 256, "prompt_tokens": 20, **changes}
    return HarvestConfig(model=str(folder), data=(Path("unread.jsonl"),), hook_points=("resid_post.1",), **settings)


def test_reasons_in_a_chat(tiny_model: Path) -> None:
    maker = SequenceMaker(load_tokenizer(str(tiny_model)), _config(tiny_model, context=256))
    tokenizer = load_tokenizer(str(tiny_model))
    (sequence,) = maker.sequences(Document("User: boats\nAssistant: bread"))
    text = tokenizer.decode(sequence.token_ids_n.tolist())
    assert text == (
        "<|im_start|>system\nYou are a test<|im_end|>\n<|im_start|>user\nboats<|im_end|>\n"
        "<|im_start|>assistant\nbread<|im_end|>\n"
    )
    kept = tokenizer.decode(sequence.token_ids_n[sequence.reasons_n == Reason.KEPT].tolist())
    assert kept == "boatsbread"
    assert sequence.reasons_n[0] == Reason.BOS
    assert int((sequence.reasons_n == Reason.SPECIAL).sum()) == 5


def test_plain_and_rendered_windows(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    text = "quiet letters " * 100
    plain = SequenceMaker(tokenizer, _config(tiny_model, context=128, chat_share=0.0))
    pieces = list(plain.sequences(Document(text)))
    joined = tokenizer.decode([i for s in pieces for i in s.token_ids_n[1:].tolist()])
    assert text.startswith(joined)
    assert len(text) - len(joined) < 4  # a rest that is too short is left out
    assert all(s.reasons_n[0] == Reason.BOS and (s.reasons_n[1:] == Reason.KEPT).all() for s in pieces)
    rendered = SequenceMaker(tokenizer, _config(tiny_model, context=128, chat_share=1.0))
    assert all(
        tokenizer.decode(s.token_ids_n.tolist()).startswith("<|im_start|>system") and len(s.token_ids_n) <= 128
        for s in rendered.sequences(Document(text))
    )
    few = SequenceMaker(tokenizer, _config(tiny_model, context=128, windows_per_document=2))
    assert len(list(few.sequences(Document(text)))) == 2


def test_what_a_conversation_has_beyond_the_context_is_left_out(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    turns = (("user", "quiet letters " * 40), ("assistant", "bread " * 40))
    document = Document("\n\n".join(said for _, said in turns), turns=turns)
    (whole,) = SequenceMaker(tokenizer, _config(tiny_model, context=4096)).sequences(document)
    (cut,) = SequenceMaker(tokenizer, _config(tiny_model, context=128)).sequences(document)
    assert len(whole.token_ids_n) > len(cut.token_ids_n) == 128
    np.testing.assert_array_equal(cut.token_ids_n, whole.token_ids_n[:128])
    tokenizer.chat_template = None
    windows = list(SequenceMaker(tokenizer, _config(tiny_model, context=128)).sequences(document))
    assert sum(len(window.token_ids_n) for window in windows) > 300


def test_speaker_turns() -> None:
    assert [turn["role"] for turn in speaker_turns("Human: a\n\nAssistant: b\nc\n\nHuman: d")] == [
        "user",
        "assistant",
        "user",
    ]
    assert speaker_turns("A note. User: this is no transcript\nAssistant: either") == []


def test_turns_of_an_uneven_transcript_alternate_from_the_user_on() -> None:
    turns = speaker_turns("Assistant: hello\nUser: a\nHuman: b\nAssistant:\nUser: c\nAssistant: d\nAssistant: e")
    assert turns == [{"role": "user", "content": "a\nb\nc"}, {"role": "assistant", "content": "d\ne"}]
    assert speaker_turns("Assistant: nobody\nAssistant: asked") == []


ALTERNATING = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Assistant: hello\nUser: boats\nAssistant: bread", "boatsbread"),
        ("User: boats\nUser: salt\nAssistant: bread", "boats\nsaltbread"),
    ],
)
def test_an_uneven_transcript_in_a_template_that_demands_alternation(tiny_model: Path, text: str, kept: str) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = ALTERNATING
    (sequence,) = SequenceMaker(tokenizer, _config(tiny_model)).sequences(Document(text))
    assert tokenizer.decode(sequence.token_ids_n[sequence.reasons_n == Reason.KEPT].tolist()) == kept


def test_turns_that_the_template_refuses_become_plain_windows(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}" + ALTERNATING
    text = "User: boats\nAssistant: bread\nUser: salt"
    maker = SequenceMaker(tokenizer, _config(tiny_model, prompt_tokens=100, chat_share=1.0))
    for _ in range(2):
        (sequence,) = maker.sequences(Document(text))
        assert tokenizer.decode(sequence.token_ids_n[1:].tolist()) == text
        assert (sequence.reasons_n[1:] == Reason.KEPT).all()
    assert [record.getMessage() for record in caplog.records] == [
        "the chat template refuses turns (too long): such text is taken without it"
    ]
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    (plain,) = SequenceMaker(tokenizer, _config(tiny_model, chat_share=1.0)).sequences(Document(text))
    assert tokenizer.decode(plain.token_ids_n[1:].tolist()) == text


def test_a_text_of_which_the_normaliser_leaves_nothing_gives_no_sequence(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    assert list(SequenceMaker(tokenizer, _config(tiny_model)).sequences(Document("\u200b\u200b"))) == []


@pytest.mark.parametrize("content", ["You are a test", "user", "system", "s", "<|im_start|>", "assistant\n", "e\ne"])
def test_text_that_the_template_has_too_is_found_in_its_own_turn(tiny_model: Path, content: str) -> None:
    template = ChatTemplate(load_tokenizer(str(tiny_model)))
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    rendered = template.render(turns)
    header = "<|im_start|>system\nYou are a test<|im_end|>\n<|im_start|>user\n"
    first = len(header)
    second = first + len(content) + len("<|im_end|>\n<|im_start|>assistant\n")
    length = len(content.strip())
    assert template.spans(turns, rendered) == [(first, first + length), (second, second + length)]


def test_the_words_of_a_user_that_are_also_in_the_header_are_kept(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    (sequence,) = SequenceMaker(tokenizer, _config(tiny_model)).sequences(Document("user"))
    kept_n = np.flatnonzero(sequence.reasons_n == Reason.KEPT)
    assert tokenizer.decode(sequence.token_ids_n[kept_n].tolist()) == "user"
    text = tokenizer.decode(sequence.token_ids_n[: kept_n[0]].tolist())
    assert text.endswith("<|im_start|>user\n")


def test_added_words_are_text_and_special_tokens_are_not(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.add_tokens(["riverboat"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|marker|>"]})
    word, marker = tokenizer.convert_tokens_to_ids(["riverboat", "<|marker|>"])
    assert set(special_ids(tokenizer).tolist()) == {0, 1, 2, marker}
    maker = SequenceMaker(tokenizer, _config(tiny_model, chat_share=0.0))
    (sequence,) = maker.sequences(Document("a riverboat and a <|marker|> " * 8))
    assert (sequence.reasons_n[sequence.token_ids_n == word] == Reason.KEPT).sum() == 8
    assert (sequence.reasons_n[sequence.token_ids_n == marker] == Reason.SPECIAL).sum() == 8
