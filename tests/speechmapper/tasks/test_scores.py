"""The scores by their names: every task has its metrics from here."""

from __future__ import annotations

import pytest

from speechmapper.tasks import TASKS
from speechmapper.tasks.file import FileTask
from speechmapper.tasks.scores import SCORES, answer_language

LINES = [{"reference": "Mr. Müller", "output": "mister muller", "lang": "en"}]
FIRST_WORD = {"name": "n", "system": "s", "wordings": {"any": ["w"]}, "answer": "{text}"}


@pytest.mark.parametrize(
    ("task", "metrics"), [("asr", {"wer", "cer"}), ("st", {"bleu", "chrf"}), ("sqa", {"exact_match", "f1"})]
)
def test_each_task_has_its_metrics(task, metrics):
    assert metrics <= TASKS[task].score([{"reference": "a b", "output": "a"}]).keys()
    assert TASKS[task].scored_by in SCORES


def test_a_file_task_normalises_by_the_language_as_asr_does():
    task = FileTask({**FIRST_WORD, "score": "wer"}, "n.yaml").with_normalizer("whisper")
    german = [{**LINES[0], "lang": "de"}]
    for lines, wer in ((LINES, 0.0), (german, 1.0)):  # English rules write Mr. out
        assert task.score(lines) == TASKS["asr"].with_normalizer("whisper").score(lines)
        assert task.score(lines)["wer"] == wer


def test_the_language_of_an_answer_is_its_own_before_that_of_the_speech():
    assert answer_language({"lang": "en", "language": "de"}) == "de"
    assert answer_language({"lang": "en"}) == "en"
    assert answer_language({"language": None}) is None
