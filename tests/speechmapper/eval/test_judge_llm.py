"""A judge reads one token: which tokens say yes and no, and that a question gives what it gives alone."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from sm_pipeline.models.llm_table import load_tokenizer
from sm_pipeline.models.source import resolve_model
from sm_store.errors import ModelError
from speechmapper.eval.judge_llm import Judge, load_judge, word_ids
from speechmapper.eval.judges import judge_prompts
from tests.speechmapper.eval.judging import save_judge, yes_no_llm

PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    "▁yes",
    "yes",
    "▁Yes",
    "YES",
    "▁yesterday",
    "no",
    "▁No",
    "▁not",
    "▁n",
    "o",
    "▁",
    "yes.",
]


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """The pipeline of Llama 2 and of other SentencePiece tokenizers: `▁` is a space, also at the start of a text."""
    made = Tokenizer(models.BPE({piece: number for number, piece in enumerate(PIECES)}, [], unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_the_tokens_of_a_byte_level_tokenizer():
    tokenizer = load_tokenizer(resolve_model("smollm2-135m", "llm"))
    found = {word: {tokenizer.decode([token]) for token in word_ids(tokenizer, word)} for word in ("yes", "no")}
    assert found["yes"] == {"yes", "Yes", " yes", " Yes"}  # " YES" is two tokens
    assert found["no"] == {"no", "No", "NO", " no", " No", " NO"}


def test_the_tokens_of_a_sentencepiece_tokenizer():
    tokenizer = sentencepiece_tokenizer()
    assert [PIECES[token] for token in word_ids(tokenizer, "yes")] == ["▁yes", "yes", "▁Yes", "YES"]
    assert [PIECES[token] for token in word_ids(tokenizer, "no")] == ["no", "▁No"]


def test_a_special_token_says_nothing():
    tokenizer = sentencepiece_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["yes"]})
    assert "yes" not in [PIECES[token] for token in word_ids(tokenizer, "yes")]


class Fixed:
    """An LLM whose next token is given."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        self.prompter = self
        self._logits = torch.tensor(probabilities).log()

    def text_ids(self, system: str, user: str) -> tuple[int, ...]:
        return (int(user),) * (int(user) + 1)

    def next_token_logits(self, prompts) -> torch.Tensor:
        return self._logits[[ids[0] for ids in prompts]]


def test_the_variants_of_a_word_count_together():
    llm = Fixed([[0.1, 0.2, 0.3, 0.4], [0.0001, 0.0, 0.0, 0.9999], [0.5, 0.25, 0.25, 0.0]])
    verdicts = Judge(llm, [0, 1], [2]).verdicts([("s", "0"), ("s", "1"), ("s", "2")])
    assert [verdict.yes for verdict in verdicts] == pytest.approx([0.5, 1.0, 0.75])
    assert [verdict.said for verdict in verdicts] == pytest.approx([0.6, 0.0001, 1.0])


def test_a_question_gives_what_it_gives_alone(tmp_path, monkeypatch):
    judge = Judge(yes_no_llm(), [1], [2])
    prompts = judge_prompts()
    asked = [(prompts["system"], "a " * length + "dog") for length in (3, 40, 1, 17, 8)]
    together = judge.verdicts(asked)
    alone = [judge.verdicts([each])[0] for each in asked]
    monkeypatch.setattr("speechmapper.eval.judge_llm.TOKENS_OF_A_BATCH", 60)
    for verdicts in (alone, judge.verdicts(asked)):
        assert [each.yes for each in verdicts] == pytest.approx([each.yes for each in together], rel=1e-4)
    assert len({round(each.yes, 6) for each in together}) == len(asked)


def test_a_judge_is_a_causal_lm_that_can_say_yes_and_no(tmp_path, world):
    folder = save_judge(tmp_path / "judge")
    assert load_judge(resolve_model(str(folder), "judge"), "cpu").no_ids
    with pytest.raises(ModelError, match=r"--judge .*llm: its tokenizer has no token for 'yes'"):
        load_judge(resolve_model(str(world.llm_folder), "judge"), "cpu")
    (folder / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(ModelError, match=r"--judge .*judge: cannot be loaded as a causal LLM"):
        load_judge(resolve_model(str(folder), "judge"), "cpu")
