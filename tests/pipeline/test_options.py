"""Options: every setting of an extraction has its flag, and help that begins like a sentence."""

from __future__ import annotations

import typing

from sm_pipeline import options
from sm_pipeline.corpora import KINDS

SHARED = {name: value for name, value in vars(options).items() if name.endswith(("Option", "Argument"))}


def test_every_option_has_help_that_is_a_sentence():
    for name, annotated in SHARED.items():
        (info,) = typing.get_args(annotated)[1:]
        assert info.help and info.help.endswith((".", "GPU-hours")), name


def test_flags_are_unique():
    flags = [flag for annotated in SHARED.values() for flag in typing.get_args(annotated)[1].param_decls or ()]
    assert len(set(flags)) == len(flags) - 1  # --split is of a corpus and of a manifest


def test_the_kinds_of_corpora_are_those_of_the_registry():
    text = typing.get_args(options.CorpusKindArgument)[1].help
    assert f"Kind of corpus: {', '.join(KINDS)}." in text
