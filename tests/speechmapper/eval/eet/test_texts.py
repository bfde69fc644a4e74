"""Texts to measure with: our own, a file's, a store's; normalised, drawn the same way each time."""

from __future__ import annotations

import hashlib

import pytest

from sm_store.errors import ConfigError, StoreError
from speechmapper.eval.eet.texts import choose_texts


def test_our_own_sentences_are_distinct_and_the_same_each_time():
    chosen = choose_texts(30)
    assert len(set(chosen.texts)) == 30 and chosen == choose_texts(30)
    assert choose_texts(1).texts == chosen.texts[:1]
    assert all(6 <= len(text.split()) <= 11 for text in chosen.texts)
    assert (chosen.available, chosen.source) == (30, "demo")


def test_a_file_is_normalised_line_by_line(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("He hoped, for stew.\n\n  \n...\nÉté!\n")
    chosen = choose_texts(9, file)
    assert chosen.texts == ("he hoped for stew", "été")
    assert chosen.to_json() == {
        "count": 2,
        "available": 2,
        "without_words": 1,
        "source": str(file),
        "sha256": hashlib.sha256("he hoped for stew\nété".encode()).hexdigest(),
    }


def test_of_too_many_some_are_drawn_in_their_order(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{number}\n" for number in range(100)))
    chosen = choose_texts(20, file)
    numbers = [int(text) for text in chosen.texts]
    assert len(set(numbers)) == 20 and numbers == sorted(numbers) and numbers != list(range(20))
    assert chosen == choose_texts(20, file)
    assert chosen.available == 100


def test_a_store_gives_the_transcripts_of_a_split(world):
    store = world.store
    for split, expected in ((None, "dev"), ("test", "test")):
        column = store.columns(["text"])["text"].take(store.select(split=expected)).to_pylist()
        chosen = choose_texts(99, store=world.path, split=split)
        assert list(chosen.texts) == [text.lower().rstrip(".") for text in column]
        assert chosen.source == f"{world.path}, split {expected}"


def test_bad_sources(world, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("...\n")
    with pytest.raises(ConfigError, match=r"--texts .*texts\.txt: no text contains words"):
        choose_texts(5, file)
    file.write_bytes(b"ok\n\xff\n")
    with pytest.raises(ConfigError, match=r"not UTF-8 \(byte 3\)"):
        choose_texts(5, file)
    with pytest.raises(ConfigError, match=r"--texts .*: cannot be read \(Is a directory\)"):
        choose_texts(5, tmp_path)
    with pytest.raises(ConfigError, match="give only one of the two"):
        choose_texts(5, file, world.path)
    with pytest.raises(ConfigError, match="--split dev: can only be used with --store"):
        choose_texts(5, split="dev")
    with pytest.raises(ConfigError, match="no split 'x'"):
        choose_texts(5, store=world.path, split="x")
    with pytest.raises(StoreError):
        choose_texts(5, store=tmp_path)
