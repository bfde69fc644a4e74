"""The error tree and its codes: scripts depend on them."""

from __future__ import annotations

import copy

import pytest

from sm_store import errors
from sm_store.ledger import REASONS

TREE = {
    "SpeechMapperError": ("Exception", "error", 1),
    "InputError": ("SpeechMapperError", "input", 2),
    "ManifestError": ("InputError", "input.manifest", 2),
    "ConfigError": ("InputError", "input.config", 2),
    "ModelError": ("InputError", "input.model", 2),
    "StoreError": ("SpeechMapperError", "store", 2),
    "StoreMissing": ("StoreError", "store.missing", 2),
    "StoreFormatError": ("StoreError", "store.format", 2),
    "IdentityMismatch": ("StoreError", "store.identity", 2),
    "StoreCorrupt": ("StoreError", "store.corrupt", 2),
    "StoreBusy": ("StoreError", "store.busy", 2),
    "SampleError": ("SpeechMapperError", "sample", 1),
    "RunFailed": ("SpeechMapperError", "run", 1),
}


def test_the_tree_and_its_codes():
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    found = {name: (each.__base__.__name__, each.kind, each.exit_code) for name, each in classes.items()}
    assert found == TREE


@pytest.mark.parametrize("name", TREE)
def test_the_module_shows_every_error(name):
    assert name in errors.__doc__


@pytest.mark.parametrize("reason", REASONS)
def test_a_sample_error_crosses_processes(reason):
    error = copy.copy(errors.SampleError(reason, "wav/1.flac: no such file"))  # as pickle does it: by __reduce__
    assert (error.reason, error.detail) == (reason, "wav/1.flac: no such file")
    assert str(error) == f"{reason}: wav/1.flac: no such file"


@pytest.mark.parametrize("name", [name for name in TREE if name != "SampleError"])
def test_the_text_of_an_error_keeps_its_ends_and_a_bounded_length(name):
    long = getattr(errors, name)(f"file: line 1: {'x' * 10**6}: give less")
    assert len(str(long)) < errors.LONGEST_MESSAGE
    assert str(long).startswith("file: line 1: xx") and str(long).endswith("xx: give less")
    assert "characters]" in str(long)
    short = getattr(errors, name)("x" * errors.LONGEST_MESSAGE)
    assert str(short) == "x" * errors.LONGEST_MESSAGE


def test_the_detail_of_a_sample_error_is_bounded():
    error = errors.SampleError(next(iter(REASONS)), "x" * 10**6)
    assert len(error.detail) < errors.LONGEST_MESSAGE and len(str(error)) <= errors.LONGEST_MESSAGE


def test_one_line_of_many():
    assert errors.one_line(ValueError("a\n  b\tc ")) == "a b c"
    assert len(errors.one_line("word " * 10**6)) < errors.LONGEST_MESSAGE


@pytest.mark.parametrize("value", ["word", 7, None, [1, 2], {"a": 1.5}])
def test_a_short_value_is_quoted_as_it_is(value):
    assert errors.quoted(value) == repr(value)


def test_a_quote_is_short_however_large_the_value():
    bomb = ["x"] * 9
    for _ in range(30):  # 9 ** 30 leaves: their text could not be held by any memory
        bomb = [bomb] * 9
    for value in (bomb, {"a": bomb}, "x" * 10**6, list(range(10**6)), 16**100_000, b"x" * 10**6):
        assert len(errors.quoted(value)) < 700
