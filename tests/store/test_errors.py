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
