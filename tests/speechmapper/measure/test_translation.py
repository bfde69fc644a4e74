"""BLEU and chrF against sacrebleu's own corpus scores."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu

from speechmapper.measure.translation import TranslationMatches, bleu_metric

GERMAN = ["Der Hund schlief am Fluss.", "Ein rotes Boot fuhr langsam vorbei.", "Niemand war dort."]
OUTPUTS = ["Der Hund schläft am Fluss.", "Ein rotes Boot fuhr vorbei.", ""]
CHINESE, CHINESE_OUTPUTS = ["这只狗睡了一整天觉。", "没有人在那里。"], ["这只狗睡了一天觉。", "没有人在这里。"]


def test_all_and_parts_are_sacrebleus():
    found = TranslationMatches.of(GERMAN, OUTPUTS, ["de"] * 3)
    for rows in ([0, 1, 2], [0, 1], [2, 2, 0]):
        outputs, references = ([each[row] for row in rows] for each in (OUTPUTS, GERMAN))
        own = found.figures(np.array(rows))
        assert own["bleu"] == pytest.approx(sacrebleu.corpus_bleu(outputs, [references]).score)
        assert own["chrf"] == pytest.approx(sacrebleu.corpus_chrf(outputs, [references]).score)
    assert own["bleu_signature"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert own["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|")


def test_each_language_is_cut_by_its_own_tokenizer():
    found = TranslationMatches.of(GERMAN + CHINESE, OUTPUTS + CHINESE_OUTPUTS, ["de"] * 3 + ["zh-CN"] * 2)
    part = found.figures(np.array([3, 4]))
    assert part["bleu"] == pytest.approx(sacrebleu.corpus_bleu(CHINESE_OUTPUTS, [CHINESE], tokenize="zh").score)
    assert "tok:zh" in part["bleu_signature"]
    assert "tok:13a+zh" in found.figures()["bleu_signature"]
    alone = TranslationMatches.of(GERMAN, OUTPUTS, ["de"] * 3).figures()["bleu"]
    assert found.figures(np.array([0, 1, 2]))["bleu"] == alone


@pytest.mark.parametrize("tag", ["ja", "ko"])
def test_without_mecab_characters_are_counted_and_the_signature_says_so(tag, monkeypatch):
    import sacrebleu.metrics.bleu as module

    def no_mecab(name: str) -> type:
        if "mecab" in name:
            raise RuntimeError("Please install MeCab")
        return original(name)

    original = module._get_tokenizer
    monkeypatch.setattr(module, "_get_tokenizer", no_mecab)
    bleu_metric.cache_clear()
    try:
        found = TranslationMatches.of(["犬は寝た。"], ["犬は寝た。"], [tag]).figures()
    finally:
        bleu_metric.cache_clear()
    assert (found["bleu"], "tok:char" in found["bleu_signature"]) == (pytest.approx(100), True)


def test_outputs_with_line_ends_change_no_other_line():
    odd = ["Der Hund\nschläft\u2028am Fluss.", "", "Niemand war dort."]
    found = TranslationMatches.of(GERMAN, odd, ["de"] * 3)
    assert found.figures(np.array([2]))["bleu"] == pytest.approx(100)
    assert found.figures(np.array([1]))["chrf"] == 0
    assert len(found) == 3
