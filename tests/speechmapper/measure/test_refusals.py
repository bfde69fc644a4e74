"""Refusals and preambles on cases labelled by hand."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from speechmapper.measure.refusals import PHRASES, Refusals, has_preamble, is_refusal

REFUSALS = [
    "I'm sorry, but I cannot translate that.",
    "I’m sorry, I can't help with that.",
    "As an AI language model, I have no access to audio.",
    "I am unable to transcribe the speech.",
    "Please provide the text you would like me to translate.",
    "There is no audio in your message.",
    "Es tut mir leid, aber ich kann das nicht.",
    "Ich kann diesen Text nicht übersetzen.",
    "Lo siento, no puedo traducir eso.",
    "Je suis désolé, mais je ne peux pas vous aider.",
    "Mi dispiace, non posso rispondere.",
    "Desculpe, não posso traduzir o texto.",
    "Het spijt me, maar ik kan dit niet vertalen.",
    "抱歉，我无法翻译这段话。",
    "作为一个人工智能，我不能听音频。",
    "申し訳ありませんが、お答えできません。",
    "Извините, но я не могу помочь.",
]
ANSWERS = [
    "I'm sorry, he said.",
    "I cannot agree with the president.",
    "We cannot help them all.",
    "Es tut mir leid um den Hund.",
    "Ich kann dem nicht zustimmen.",
    "Lo siento mucho por usted.",
    "Je ne peux pas accepter cette proposition.",
    "Non posso venire domani.",
    "我不能同意。",
    "",
]
PREAMBLES = [
    "Sure! Here is the translation: Der Hund schlief.",
    "Here is the repeated text: the dog slept",
    "The transcription of the audio is: the dog slept",
    "The translation is der Hund",
    "**Translation:** Der Hund",
    "The quoted text says the dog slept",
    "Hier ist die Übersetzung: Der Hund",
    "Aquí tienes la traducción: el perro",
    "Voici la traduction : le chien",
    "Ecco la traduzione: il cane",
    "以下是翻译：这只狗",
]
NONE_THERE = [
    "Here is the house that I built.",
    "The text was long.",
    "Sure, he came.",
    "The audio is bad in this room.",
    "Hier ist der Hund.",
    "Voici le chien.",
    "",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS + PREAMBLES + NONE_THERE)
def test_no_refusals(text):
    assert not is_refusal(text)


@pytest.mark.parametrize("text", PREAMBLES)
def test_preambles(text):
    assert has_preamble(text)


@pytest.mark.parametrize("text", ANSWERS + NONE_THERE)
def test_no_preambles(text):
    assert not has_preamble(text)


def test_what_was_said_is_no_refusal():
    said = "I'm sorry, I can't help you, said the dog."
    found = Refusals.of([said, "Who slept?"], [said, "I'm sorry, I can't help with that."])
    assert found.refuses_N.tolist() == [False, True]
    assert found.figures(np.arange(2)) == {"refusal_rate": 0.5}
    assert found.figures(np.array([], np.int64)) == {}


def test_the_file_has_both_kinds_in_the_same_languages():
    phrases = yaml.safe_load(PHRASES.read_text(encoding="utf-8"))
    assert phrases["refusals"].keys() == phrases["preambles"].keys() >= {"en", "es", "fr", "de", "it", "zh", "pt"}
