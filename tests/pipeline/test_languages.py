"""Languages: every form in which corpora name them gives one tag."""

from __future__ import annotations

import pytest

from sm_pipeline.languages import language_tag, tag_or_name


@pytest.mark.parametrize(
    ("tag", "names"),
    [
        ("zh", ("zh", "zh-CN", "zh_cn", "zh-TW", "cmn_hans_cn", "zho", "chi", "cmn", "Chinese", "Mandarin Chinese")),
        ("en", ("en", "EN", "en-US", "en_us", "eng", "English", " english ", "en_accented", "en_accented_2")),
        ("de", ("de", "de_de", "deu", "ger", "German", "deutsch")),
        ("sv", ("sv-SE", "sv_se", "swe", "Swedish")),
        ("ar", ("ar_eg", "arb", "Arabic")),
        ("he", ("he_il", "iw", "iw_il")),
        ("yue", ("yue_hant_hk", "yue", "Cantonese", "zh-yue")),
        ("pt", ("pt_br", "Brazilian Portuguese")),
        ("ckb", ("ckb_iq",)),
        ("sr", ("sr_rs", "sr-Latn")),
        (None, ("", " ", "xx", "und", "mul", "zxx", "unknown", "studio 3", "-", "x" * 500)),
    ],
)
def test_names(tag, names):
    assert {name: language_tag(name) for name in names} == dict.fromkeys(names, tag)


def test_what_is_not_known_stays():
    assert [tag_or_name(name) for name in (None, " ", " dialect 7 ", "German")] == [None, None, "dialect 7", "de"]


def test_a_tag_is_its_own_tag():
    for tag in ("en", "de", "zh", "yue", "fil", "ckb", "nb", "nn", "no", "sr", "mls"):
        assert language_tag(tag) == tag
