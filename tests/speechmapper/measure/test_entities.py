"""Entities by hand: what is one, which are found, and how often training had their words."""

from __future__ import annotations

import numpy as np
import pytest

from speechmapper.measure.entities import EntityMatches, bucket_of, count_found, mentions, words_found


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("He met Anna Berg in Oslo.", "en", ["Anna Berg", "Oslo"]),
        ("Yesterday I'm told that I met Bob, Ann and Eve.", "en", ["Bob", "Ann", "Eve"]),
        ("Oslo is cold. Bergen is wet, said Ann.", "en", ["Ann"]),
        ("HE MET ANNA IN OSLO", "en", []),
        ("he met anna", "en", []),
        ("Er traf den Hund in Oslo.", "de", []),  # every noun has a capital
        ("Il a vu Anna Berg à l'Opéra.", "fr", ["Anna Berg"]),
        ("他在奥斯陆见到安娜。", "zh", []),
        ("“So,” he told Ann.", None, ["Ann"]),
        ("", None, []),
    ],
)
def test_the_heuristic(text, language, found):
    assert mentions(text, language) == found


def test_mentions_are_found_as_whole_words_in_a_row_each_once():
    assert count_found(["anna berg", "oslo"], "he met anna berg in oslo") == 2
    assert count_found(["anna berg"], "he met anna and berg") == 0
    assert count_found(["ann"], "anna") == 0
    assert count_found(["oslo", "oslo", "oslo"], "oslo oslo and bergen") == 2
    assert count_found(["奥斯陆"], "他在奥斯陆见到安娜") == 1
    assert words_found(["anna", "anna", "oslo"], "oslo anna") == [True, False, True]


def test_recall_error_rate_and_buckets():
    references = ["he met anna berg in oslo", "nobody came", "bergen is wet"]
    outputs = ["he met anna bird in oslo", "nobody came", "very wet"]
    trained = {"anna": 12, "berg": 0, "oslo": 9, "bergen": 100}
    found = EntityMatches.of(references, outputs, [["anna berg", "oslo"], [], ["bergen"]], "f", True, trained)
    assert found.figures(np.arange(3)) == {
        "entity_recall": pytest.approx(1 / 3),
        "entity_wer": 0.5,  # berg and bergen of four words
        "entities": {
            "0": {"words": 1, "recall": 0.0},
            "1-9": {"words": 1, "recall": 1.0},
            "10-99": {"words": 1, "recall": 1.0},
            "100+": {"words": 1, "recall": 0.0},
        },
        "entity_mentions": 3,
        "entity_source": "f",
    }
    assert found.figures(np.array([1])) == {}
    assert found.figures(np.array([0]))["entities"].keys() == {"0", "1-9", "10-99"}


def test_translations_have_recall_alone_and_without_training_there_are_no_buckets():
    found = EntityMatches.of(["anna kam"], ["anna ist da"], [["anna"]], "manifest", aligned=False)
    assert found.figures(np.arange(1)).keys() == {"entity_recall", "entity_mentions", "entity_source"}
    assert EntityMatches.of(["a"], ["a"], [[]], "manifest", aligned=True) is None


@pytest.mark.parametrize(("count", "bucket"), [(0, 0), (1, 1), (9, 1), (10, 2), (99, 2), (100, 3), (10**9, 3)])
def test_buckets(count, bucket):
    assert bucket_of(count) == bucket
