"""A line for silent work that takes more than a second."""

from __future__ import annotations

import time

import pytest

from sm_pipeline.announce import announced


def test_short_work_stays_silent(capsys):
    with announced("loading", after=0.2):
        pass
    time.sleep(0.3)
    assert capsys.readouterr() == ("", "")


def test_long_work_is_announced_once(capsys):
    with announced("loading encoder e", after=0.01):
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "loading encoder e ...\n")


def test_an_error_passes_and_ends_it(capsys):
    with pytest.raises(ValueError), announced("loading", after=0.2):
        raise ValueError
    time.sleep(0.3)
    assert capsys.readouterr().err == ""
