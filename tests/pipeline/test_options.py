"""Options: every setting of an extraction has its flag, and help that is a sentence."""

from __future__ import annotations

import typing

from sm_pipeline import options
from sm_pipeline.corpora import KINDS

SHARED = {name: value for name, value in vars(options).items() if name.endswith(("Option", "Argument"))}


def test_every_option_has_help_that_is_a_sentence():
    for name, annotated in SHARED.items():
        (info,) = typing.get_args(annotated)[1:]
        assert info.help and info.help.endswith("."), name


def test_flags_are_unique():
    infos = [typing.get_args(annotated)[1] for annotated in SHARED.values()]
    flags = [flag for info in infos for flag in (info.default, *(info.param_decls or ())) if str(flag).startswith("--")]
    assert {flag for flag in flags if flags.count(flag) > 1} == {"--split"}  # of a corpus, of a manifest
    assert {"--store", "--encoder", "--llm", "--json", "--numbers"} <= set(flags)


def test_the_kinds_of_corpora_are_those_of_the_registry():
    text = typing.get_args(options.CorpusKindArgument)[1].help
    assert f"Kind of corpus: {', '.join(KINDS)}." in text
