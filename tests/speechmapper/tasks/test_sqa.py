"""Spoken question answering as a task."""

from __future__ import annotations

import pytest

from speechmapper.tasks import TASKS, Item
from tests.speechmapper.tiny import fields_of

SQA = TASKS["sqa"]


def test_a_question_counts_only_with_its_answer():
    assert SQA.items(fields_of("a", "Who slept?", "the dog")) == [Item("the dog", values={"question": "Who slept?"})]
    assert SQA.items(fields_of("a", "Who slept?")) == []
    assert SQA.items(fields_of("a", answer="the dog")) == []


def test_the_question_comes_before_your_answer():
    assert SQA.instruction(Item(values={"question": "Who slept?"})).text == "Who slept? Your answer:"


def test_braces_in_a_question_are_only_text():
    asked = "what is {this} and {0} and {question}"
    assert SQA.instruction(Item(values={"question": asked})).text == f"{asked} Your answer:"


def test_score_is_exact_match_and_token_f1():
    found = SQA.score([{"reference": "the dog", "output": "A dog."}, {"reference": "a red cat", "output": "cat"}])
    assert found == {"exact_match": 0.5, "f1": pytest.approx((1 + 2 / 3) / 2), "utterances": 2}
