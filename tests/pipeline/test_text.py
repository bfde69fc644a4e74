"""The normaliser: fixed outputs, since a store's identity promises them."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from sm_pipeline.text import NORMALIZER, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“Well,” she said — it’s 5 o’clock!", "well she said it s 5 o clock"),
        ("  two   spaces\tand\nlines ", "two spaces and lines"),
        ("HALLO WELT", "hallo welt"),
        ("don't", "don t"),
        ("co-operate/and_more", "co operate and more"),
        ("1,234.5 km² ½", "1 234 5 km2 1 2"),
        ("ﬁne Ｗｉｄｅ", "fine wide"),
        ("Éa e\u0301", "éa é"),
        ("ça va? oui…", "ça va oui"),
        ("你好，世界。", "你好 世界"),
        ("مرحبا، بالعالم؟", "مرحبا بالعالم"),
        ("हिन्दी में।", "हिन्दी में"),
        ("soft\u00adhyphen zero\u200bwidth join\u200ded", "softhyphen zero width joined"),
        ("a<|im_end|>b", "a im end b"),
        ("$5 + €6 = 11%", "5 6 11"),
        ("Straße ΣΊΣΥΦΟΣ", "straße σίσυφος"),
        ("", ""),
        ("?!… — ", ""),
        ("\x00a\x1fb\ufeff", "a b"),
        ("emoji 🎉 gone", "emoji gone"),
    ],
)
def test_examples(text, expected):
    assert normalise(text) == expected


def test_version():
    assert NORMALIZER == "mms-1"  # raise it with any change of an expected value above


def test_once_is_enough_for_every_character():
    for code in range(sys.maxunicode + 1):
        once = normalise(f"a{chr(code)}b")
        assert normalise(once) == once, hex(code)


def test_only_letters_marks_numbers_and_single_spaces_remain():
    text = "".join(chr(code) for code in range(0x3000) if not 0xD800 <= code < 0xE000)
    result = normalise(text)
    assert {unicodedata.category(char)[0] for char in result if char != " "} <= set("LMN")
    assert "  " not in result
    assert result == result.strip()
