"""Quiet loading: nothing on stderr while the block runs, errors pass, and the settings come back."""

from __future__ import annotations

import sys

import pytest
from transformers.utils import logging

from sm_pipeline.models.quiet import quiet_transformers


def test_notes_and_bars_are_silent_and_come_back(capsys):
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet_transformers():
        logging.get_logger("transformers").warning("a note")
        print("a bar", file=sys.stderr)  # noqa: T201
        assert not logging.is_progress_bar_enabled()
    assert capsys.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


def test_errors_pass_and_the_settings_come_back():
    logging.disable_progress_bar()
    try:
        with pytest.raises(ValueError, match="broken"), quiet_transformers():
            raise ValueError("broken")
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.enable_progress_bar()
    print("audible", file=sys.stderr)  # noqa: T201
