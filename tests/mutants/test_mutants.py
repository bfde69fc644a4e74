"""Every mutant can still be applied, and names tests that are there."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.mutants import MUTANTS
from tests.mutants.run import ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_fits_the_code_and_its_tests_exist(mutant):
    sound = (ROOT / mutant.file).read_text(encoding="utf-8")
    ast.parse(mutant.applied(sound))
    assert all((ROOT / test).exists() for test in mutant.tests)


def test_there_are_enough_and_names_are_unique():
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
