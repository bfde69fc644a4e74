"""Which utterances are shown."""

from __future__ import annotations

import random

from speechmapper.eval.report.alignment import Step
from speechmapper.eval.report.clips import Clips
from speechmapper.eval.report.examples import examples_of
from speechmapper.eval.report.lines import measured_lines
from tests.speechmapper.eval.report.made import evaluation, line

MANY = [line("a b c d e", " ".join("abcde"[: 5 - number % 6]), id=f"u{number:02d}") for number in range(40)]


def chosen(lines=MANY, metrics=None, **options):
    run = evaluation(lines=lines, metrics={"wer": 0.1} if metrics is None else metrics)
    return examples_of(run, measured_lines(run), Clips(), **options)


def ids(examples):
    return [each.id for each in examples]


def test_the_worst_and_some_at_random_without_repeats():
    found = chosen()
    assert [each.measure for each in found.worst] == ["5 of 5 words wrong"] * 3
    assert len(found.random) == 2 and not set(ids(found.worst)) & set(ids(found.random))


def test_right_ones_are_not_the_worst():
    assert chosen([line("a", "a", id="u"), line("a", "b", id="v")]).worst[0].id == "v"
    assert len(chosen([line("a", "a", id="u"), line("a", "b", id="v")]).worst) == 1


def test_the_order_of_the_lines_and_their_outputs_do_not_change_the_draw():
    shuffled = random.Random(0).sample(MANY, len(MANY))
    assert ids(chosen(shuffled, count=0, random=5).random) == ids(chosen(count=0, random=5).random)
    right = [{**each, "output": each["reference"]} for each in MANY]
    assert ids(chosen(right, count=0, random=5).random) == ids(chosen(count=0, random=5).random)
    assert ids(chosen(count=0, random=5, seed=1).random) != ids(chosen(count=0, random=5).random)


def test_what_is_known_of_an_utterance():
    more = {"lang": "en", "speaker": "s1", "corpus": 7, "prompt": "Repeat."}
    (found,) = chosen([line("a b", "a c", id="u", **more)]).worst
    assert found.steps == [Step("equal", "a", "a"), Step("substitute", "b", "c")]
    assert found.labels == ["lang en", "speaker s1"] and found.prompt == "Repeat."
    assert "no source is recorded" in found.clip.reason
    (found,) = chosen([line("a b", "a c", prompt=None)]).worst
    assert (found.id, found.labels, found.prompt) == ("", [], "")


def test_answers_are_not_compared_word_by_word():
    (found,) = chosen([line("the dog", "a red dog", id="u")], {"f1": 0.6, "exact_match": 0.0}).worst
    assert found.steps == () and found.measure == "F1 0.67"


def test_texts_that_are_no_utf8_can_be_drawn():
    assert len(chosen([line("\ud800", "\udfff", id="u")], count=1).worst) <= 1
