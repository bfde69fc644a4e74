"""Hotwords: which files are taken, and what a text with them is worth."""

from __future__ import annotations

import hashlib
import re

import pytest

from sm_pipeline.models.source import resolve_model
from sm_pipeline.models.tokenizer import load_tokenizer
from sm_store.errors import ConfigError
from speechmapper.readout.hotwords import HotwordBonus, Hotwords, read_hotwords
from tests.speechmapper import tiny
from tests.speechmapper.readout.pieces import Pieces


def bonuses(bonus: HotwordBonus, tokens) -> list[float]:
    """After each token, while the text may go on, and in the end."""
    state, found = bonus.start, []
    for number, token in enumerate(tokens):
        state = bonus.after(state, token, number == 0)
        found.append(bonus.so_far(state))
    return [*found, bonus.at_end(state)]


def test_words_are_normalised_as_transcripts_are_and_counted_once(tmp_path):
    path = tmp_path / "names.txt"
    raw = "\ufeffToronto\r\n\n  Jean-Luc  PICARD!\ntoronto\n".encode()
    path.write_bytes(raw)
    hotwords = read_hotwords(path)
    assert hotwords.normalised() == ["toronto", "jean-luc picard"]
    assert hotwords.normalised("mms-1") == ["toronto", "jean luc picard"]
    assert hotwords.sha256 == hashlib.sha256(raw).hexdigest()
    assert Hotwords(["Toronto", "Ravi"]).normalised() == ["toronto", "ravi"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", ": no words there; write one word or phrase per line"),
        (b" \n\r\n", ": no words there"),
        (b"toronto\n?!\n", ":2: '?!' has nothing that the text normaliser mms-2 keeps"),
        (b"toronto\nwinnip\xff\n", ":2: not UTF-8; save the file as UTF-8 text"),
        ("toronto".encode("utf-16"), ":1: not UTF-8"),
    ],
)
def test_files_that_name_no_words_are_refused_with_their_line(tmp_path, raw, message):
    path = tmp_path / "names.txt"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=re.escape(f"--hotwords {path}{message}")):
        read_hotwords(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none.txt: cannot be read \(No such file or directory\); give a text file"):
        read_hotwords(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_hotwords(tmp_path)


def test_a_word_that_another_normaliser_removes_is_refused():
    with pytest.raises(ConfigError, match=r"hotwords:2: '1984' has nothing that .* mms-2-numbers-removed keeps"):
        Hotwords(["orwell", "1984"]).normalised("mms-2-numbers-removed")


PIECES = Pieces("we", " see", " tor", "onto", "tor", "st", "s", "'s", " st", " john", "\ufffd", "a", "é")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["we", " tor", "onto"], [0, 4, 8, 8]),
        (["tor", "onto", " see"], [4, 8, 8, 8]),  # written otherwise at the start of a text
        (["we", " tor"], [0, 4, 0]),  # unfinished
        (["we", " tor", " see"], [0, 4, 0, 0]),
        (["we", " tor", " tor", "onto"], [0, 4, 4, 8, 8]),
        (["we", " tor", "onto", "s"], [0, 4, 8, 0, 0]),  # another word
        (["we", " tor", "onto", "\ufffd"], [0, 4, 8, 0, 0]),  # some bytes of a character
        (["we", " tor", "onto", "é"], [0, 4, 8, 0, 0]),
        (["we", " tor", "onto", "'s"], [0, 4, 8, 8, 8]),
        (["we", " tor", "onto", " tor", "onto"], [0, 4, 8, 12, 16, 16]),
        (["we", "tor", "onto"], [0, 0, 0, 0]),  # inside a word
        (["we", " st", " john"], [0, 4, 8, 8]),
        (["we", " st", " john", "s"], [0, 4, 8, 4, 4]),  # of the two hotwords "st" and "st john" one is left
        (["we", " st", " st", " john"], [0, 4, 8, 12, 12]),
    ],
)
def test_each_token_of_a_hotword_counts_unless_it_comes_to_nothing(pieces, expected):
    bonus = HotwordBonus(["toronto", "st john", "st"], PIECES, 4.0)
    assert bonuses(bonus, PIECES.ids(*pieces)) == expected


def test_scripts_without_spaces_have_hotwords_anywhere():
    pieces = Pieces("北", "京", "我", "在", "a", " ", "north")
    bonus = HotwordBonus(["北京", "north"], pieces, 1.0)
    assert bonuses(bonus, pieces.ids("我", "在", "北", "京", "我")) == [0, 0, 1, 2, 2, 2]
    assert bonuses(bonus, pieces.ids("我", "north")) == [0, 0, 0]


def test_a_word_level_tokenizer_and_words_that_it_lacks():
    tokenizer = tiny.tokenizer()
    ids = tokenizer("the green dog sang")["input_ids"]
    assert bonuses(HotwordBonus(["green dog"], tokenizer, 2.0), ids) == [0, 2, 4, 4, 4]
    with pytest.raises(ConfigError, match="'toronto': the LLM's tokenizer has no tokens for it"):
        HotwordBonus(["toronto"], tokenizer, 2.0)


@pytest.mark.parametrize("text", ["toronto", "we saw toronto", "toronto is far", "we saw toronto's mayor"])
def test_byte_level_bpe_of_a_real_llm(text):
    tokenizer = load_tokenizer(resolve_model("smollm2-135m", "llm"))
    bonus = HotwordBonus(["toronto"], tokenizer, 1.0)

    def total(said: str) -> float:
        return bonuses(bonus, tokenizer(said, add_special_tokens=False)["input_ids"])[-1]

    assert total(text) == len(tokenizer("toronto" if text.startswith("toronto") else " toronto")["input_ids"]) > 1
    assert total(text.replace("toronto", "torontonians")) == total("tor") == 0
