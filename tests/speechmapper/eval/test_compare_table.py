"""A comparison as a table."""

from __future__ import annotations

from speechmapper.eval.compare_table import print_comparison


def test_values_and_what_is_not_measured(capsys):
    wer = {"first": 0.1, "second": 0.08, "difference": -0.02, "ci95": [-0.03, -0.01], "p": 0.002}
    none = dict.fromkeys(wer)
    metrics = {"wer": wer, "cer": none}
    print_comparison(
        {"task": "asr", "utterances": 1440, "resamples": 1000, "first": "a", "second": "b", "metrics": metrics}
    )
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("1,440 predictions", "wer", "-0.0200", "-0.0300 to -0.0100", "0.002", "cer"))
