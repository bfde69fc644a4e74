"""Languages of outputs, by a detector restricted to those in play."""

from __future__ import annotations

import numpy as np
import pytest

from speechmapper.measure.language import LanguageRates, detect, lingua_tag

GERMAN = ["Der Hund schlief die ganze Nacht am Fluss.", "Niemand wusste, wo das rote Boot geblieben war."]
ENGLISH = ["The dog slept by the river all night.", "Nobody knew where the red boat had gone."]
ALL = np.arange(4)


def test_rates_by_hand():
    references = [*GERMAN, *GERMAN]
    rates = LanguageRates.of(references, [GERMAN[0], ENGLISH[1], "", GERMAN[0]], ["de"] * 4, ["en"])
    assert rates.figures(ALL) == {
        "target_language_rate": 0.5,  # an empty output is in no language
        "english_rate": 0.25,
        "language_detector_error": 0.0,
    }
    assert rates.figures(np.array([1])) == {
        "target_language_rate": 0.0,
        "english_rate": 1.0,
        "language_detector_error": 0.0,
    }
    assert rates.off_target().tolist() == [False, True, True, False]


def test_the_detectors_own_error_is_on_the_references_that_have_letters():
    rates = LanguageRates.of([GERMAN[0], ENGLISH[0], "1984", ""], [GERMAN[0]] * 4, ["de"] * 4)
    assert rates.figures(ALL)["language_detector_error"] == 0.5
    assert not rates.off_target().any()


def test_english_answers_have_no_english_rate():
    rates = LanguageRates.of(ENGLISH, [ENGLISH[0], GERMAN[1]], ["en", "English"], ["de"])
    assert rates.figures(np.arange(2)) == {"target_language_rate": 0.5, "language_detector_error": 0.0}


def test_what_nothing_says_the_language_of_is_left_out():
    assert LanguageRates.of(GERMAN, GERMAN, [None, None], ["de"]) is None
    assert LanguageRates.of(ENGLISH, ENGLISH, ["en", "en"], ["en"]) is None  # nothing to tell apart
    rates = LanguageRates.of(GERMAN, ENGLISH, ["de", None])
    assert rates.figures(np.arange(2))["target_language_rate"] == 0.0
    assert rates.figures(np.array([1])) == {}
    assert LanguageRates.of(GERMAN, GERMAN, ["tlh", "studio 3"]) is None


@pytest.mark.parametrize(
    ("name", "tag"), [("zh-CN", "zh"), ("German", "de"), ("nob", "nb"), ("no", "nb"), ("xx", None), (None, None)]
)
def test_languages_under_their_names(name, tag):
    assert lingua_tag(name) == tag


def test_detection_by_hand_in_several_languages():
    texts = ["Le chien dormait près de la rivière.", "这只狗睡了一整天觉。", "", "12", GERMAN[0]]
    assert detect(texts, ("de", "en", "fr", "zh")) == ["fr", "zh", None, None, "de"]
