"""The frozen LLM: speech vectors in a prompt give what the same tokens would, alone and among others."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from sm_pipeline.models.source import ModelSource, resolve_model
from sm_store.errors import ConfigError, ModelError
from speechmapper.llm import FrozenLLM, common_start, load_llm
from speechmapper.prompting import Prompt
from speechmapper.tasks import ASR, Item
from tests.speechmapper.tiny import llama, make_world, save_llm, tokenizer

CPU = torch.device("cpu")
TEXTS = ["the dog slept", "a small green boat walked home in the rain", "the old bird", "red"]


@pytest.fixture(scope="module")
def llm(tmp_path_factory) -> FrozenLLM:
    folder = save_llm(tmp_path_factory.mktemp("llm"))
    return load_llm(resolve_model(str(folder), "llm"), CPU)


def ids_of(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


def as_vectors(llm: FrozenLLM, texts=TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact text embeddings in place of speech; NaN beyond each length, which must never be read."""
    rows = [llm.embed(ids_of(text)) for text in texts]
    return pad_sequence(rows, batch_first=True, padding_value=float("nan")), torch.tensor([len(row) for row in rows])


def plain_ids(prompt: Prompt, text: str) -> list[int]:
    return [*prompt.before, *ids_of(text), *prompt.after]


def reference_loss(model, prompt: Prompt, text: str) -> float:
    """Cross-entropy of an answer by token ids, one position at a time."""
    ids = plain_ids(prompt, text)
    total = 0.0
    for token in prompt.answer:
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        total -= float(F.log_softmax(logits.float(), dim=-1)[token])
        ids = [*ids, token]
    return total


def reference_answer(model, prompt: Prompt, text: str, stops: set[int], limit: int) -> list[int]:
    ids, answer = plain_ids(prompt, text), []
    while len(answer) < limit:
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in stops:
            break
        ids, answer = [*ids, token], [*answer, token]
    return answer


def asr_prompts(llm: FrozenLLM, answers: bool = True) -> list[Prompt]:
    """A different wording for each row, so that rows differ in length on both sides."""
    return [
        llm.prompter.write(ASR.instruction(Item(text), wording, learn=answers)) for wording, text in enumerate(TEXTS)
    ]


@torch.no_grad()
def test_loss_equals_that_of_plain_token_ids(llm):
    expected = sum(reference_loss(llm.model, *pair) for pair in zip(asr_prompts(llm), TEXTS, strict=True))
    found = float(llm.answer_loss(*as_vectors(llm), asr_prompts(llm)))
    assert found == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch_mates(llm):
    together = float(llm.answer_loss(*as_vectors(llm), asr_prompts(llm)))
    alone = sum(
        float(llm.answer_loss(*as_vectors(llm, [text]), [prompt]))
        for text, prompt in zip(TEXTS, asr_prompts(llm), strict=True)
    )
    assert together == pytest.approx(alone, rel=1e-5)


@torch.no_grad()
def test_the_kept_start_changes_nothing(llm):
    """Prompts that share nothing at their beginning go the long way; the sum stays."""
    prompts = asr_prompts(llm)
    foreign = Prompt((9, *prompts[0].before), prompts[0].after, prompts[0].answer)
    texts = [*TEXTS, TEXTS[0]]
    batch = llm.splice(*as_vectors(llm, texts), [*prompts, foreign])
    assert batch.start == ()
    found = float(llm.answer_loss(*as_vectors(llm, texts), [*prompts, foreign]))
    expected = float(llm.answer_loss(*as_vectors(llm), prompts)) + reference_loss(llm.model, foreign, TEXTS[0])
    assert found == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("limit", [1, 12])
def test_generation_equals_greedy_decoding_of_plain_token_ids(llm, limit):
    prompts = asr_prompts(llm, answers=False)
    expected = [
        reference_answer(llm.model, prompt, text, set(llm.stop_ids), limit)
        for prompt, text in zip(prompts, TEXTS, strict=True)
    ]
    assert len({tuple(answer) for answer in expected}) > 1
    found = llm.generate(*as_vectors(llm), prompts, max_new_tokens=limit)
    assert found == [tokenizer().decode(answer, skip_special_tokens=True).strip() for answer in expected]


@torch.no_grad()
def test_rows_that_end_early_leave_the_others_alone(llm, monkeypatch):
    """Every common token is made a stop, so that rows end at different steps."""
    prompts = asr_prompts(llm, answers=False)
    free = [reference_answer(llm.model, prompt, text, set(), 12) for prompt, text in zip(prompts, TEXTS, strict=True)]
    stops = frozenset([free[0][0], free[1][3], free[2][6]])
    monkeypatch.setattr(type(llm), "stop_ids", stops)
    expected = [
        reference_answer(llm.model, prompt, text, set(stops), 12) for prompt, text in zip(prompts, TEXTS, strict=True)
    ]
    assert len({len(answer) for answer in expected}) > 2
    found = llm.generate(*as_vectors(llm), prompts, max_new_tokens=12)
    assert found == [tokenizer().decode(answer, skip_special_tokens=True).strip() for answer in expected]


def test_hugging_faces_own_generate_agrees(llm):
    prompt = llm.prompter.write(ASR.instruction(Item()))
    ids = torch.tensor([plain_ids(prompt, TEXTS[1])])
    ours = llm.generate(*as_vectors(llm, [TEXTS[1]]), [prompt], max_new_tokens=10)
    theirs = llm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=list(llm.stop_ids),
        pad_token_id=0,
    )[0, ids.shape[1] :]
    assert ours == [tokenizer().decode(theirs, skip_special_tokens=True).strip()]


def test_gradients_reach_the_vectors_and_no_weight(llm):
    vectors, lengths = as_vectors(llm)
    vectors = vectors.nan_to_num().requires_grad_()
    llm.answer_loss(vectors, lengths, asr_prompts(llm)).backward()
    norms = vectors.grad.norm(dim=-1)
    for row, length in enumerate(lengths.tolist()):
        assert (norms[row, :length] > 0).all()
        assert not norms[row, length:].any()
    assert not llm.model.training
    assert all(not weight.requires_grad and weight.grad is None for weight in llm.model.parameters())


def test_splice_puts_vectors_between_the_quotes(llm):
    vectors, lengths = as_vectors(llm)
    prompts = asr_prompts(llm)
    batch = llm.splice(vectors, lengths, prompts)
    assert batch.start == common_start([prompt.before for prompt in prompts]) == prompts[0].before
    assert batch.inputs_BSE.isfinite().all()
    for row, (prompt, text) in enumerate(zip(prompts, TEXTS, strict=True)):
        expected = llm.embed([*ids_of(text), *prompt.after, *prompt.answer[:-1]])
        assert torch.equal(batch.inputs_BSE[row, -len(expected) :], expected)
        assert batch.valid_BS[row].sum() == len(expected)
        assert batch.answers_BN[row, -len(prompt.answer) :].tolist() == list(prompt.answer)
        assert (batch.answers_BN[row, : -len(prompt.answer)] == -100).all()


def test_only_the_answers_logits_are_computed(llm):
    seen = []
    handle = llm.model.lm_head.register_forward_hook(lambda _m, _i, output: seen.append(tuple(output.shape)))
    try:
        llm.answer_loss(*as_vectors(llm), asr_prompts(llm))
    finally:
        handle.remove()
    longest = max(len(prompt.answer) for prompt in asr_prompts(llm))
    assert (len(TEXTS), longest, 64) in seen
    assert all(shape[1] <= longest for shape in seen)


def test_common_start():
    assert common_start([(1, 2, 3), (1, 2, 4)]) == (1, 2)
    assert common_start([(1, 2), (1, 2, 4)]) == (1, 2)
    assert common_start([(1,), (2,)]) == ()


def test_stop_ids_hold_the_end_of_turn_and_the_models_own(llm):
    names = {tokenizer().convert_ids_to_tokens(token) for token in llm.stop_ids}
    assert names == {"<|im_end|>", "</s>"}


def test_the_target_sets_llm_is_accepted_and_another_refused(llm, tmp_path):
    targets = make_world(tmp_path / "world").store.targets("tiny")
    llm.require_table(targets)
    half = FrozenLLM(llama().to(torch.bfloat16), tokenizer(), llm.source)
    half.require_table(targets)  # the same LLM in another precision
    with pytest.raises(ModelError, match="not those of target set tiny"):
        FrozenLLM(llama(seed=1), tokenizer(), llm.source).require_table(targets)
    with pytest.raises(ModelError, match="not those of target set tiny"):
        FrozenLLM(llama(vocabulary=50), tokenizer(), llm.source).require_table(targets)


def test_unusable_models_are_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing-like-it"}))
    with pytest.raises(ModelError, match="cannot be loaded as a causal LLM") as error:
        load_llm(ModelSource("mine", None, tmp_path), CPU)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="LLM dtype 'int3'"):
        load_llm(ModelSource("mine", None, tmp_path), CPU, "int3")
