"""The frozen LLM: speech vectors in a prompt give what the same tokens would give, alone and in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, TextIteratorStreamer

from sm_pipeline.models.source import ModelSource, resolve_model
from sm_store.errors import ModelError
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.prompting import Prompt
from speechmapper.shared_start import common_start
from speechmapper.tasks import ASR, Item
from tests.speechmapper.tiny import llama, make_world, save_llm, tokenizer

CPU = torch.device("cpu")
TEXTS = ["the dog slept", "a small green boat walked home in the rain", "the old bird", "red"]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
GROUPED = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
WINDOW = {"sliding_window": 8}  # shorter than every prompt
MIXED = {**WINDOW, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "rotary positions": ("Llama", GROUPED),
    "learned positions": ("GPT2", {**SIZES, "n_positions": 256}),
    "learned positions with an offset": ("OPT", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.4}),
    "positions in the attention (ALiBi)": ("Bloom", SIZES),
    "sliding window": ("Mistral", {**GROUPED, **WINDOW}),
    "sliding window in every other layer, scaled embeddings": ("Gemma3", {**GROUPED, **MIXED}),
}


def build(name: str) -> Any:
    """A tiny model with random weights."""
    family, sizes = ARCHITECTURES[name]
    config = getattr(transformers, "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config")(**sizes)
    torch.manual_seed(0)
    return getattr(transformers, "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")(config)


def frozen(model: Any) -> FrozenLLM:
    return FrozenLLM(model, tokenizer(), ModelSource("tiny", None, Path()))


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
    """Greedy decoding that runs the whole prompt again for each token."""
    ids, answer = plain_ids(prompt, text), []
    while len(answer) < limit:
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in stops:
            break
        ids, answer = [*ids, token], [*answer, token]
    return answer


def reference_texts(llm: FrozenLLM, prompts: list[Prompt], limit: int, texts=TEXTS) -> list[str]:
    answers = [
        reference_answer(llm.model, prompt, text, set(llm.stop_ids), limit)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    return [tokenizer().decode(answer, skip_special_tokens=True).strip() for answer in answers]


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
def test_the_shared_start_does_not_change_the_loss(llm):
    """One prompt with another first token leaves no shared start; the sum stays the same."""
    prompts = asr_prompts(llm)
    foreign = Prompt((9, *prompts[0].before), prompts[0].after, prompts[0].answer)
    texts = [*TEXTS, TEXTS[0]]
    batch = llm.splice(*as_vectors(llm, texts), [*prompts, foreign])
    assert batch.start == ()
    found = float(llm.answer_loss(*as_vectors(llm, texts), [*prompts, foreign]))
    expected = float(llm.answer_loss(*as_vectors(llm), prompts)) + reference_loss(llm.model, foreign, TEXTS[0])
    assert found == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_loss_in_a_batch_on_every_architecture(name):
    llm = frozen(build(name))
    expected = sum(reference_loss(llm.model, *pair) for pair in zip(asr_prompts(llm), TEXTS, strict=True))
    assert float(llm.answer_loss(*as_vectors(llm), asr_prompts(llm))) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("limit", [1, 12])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_generation_equals_greedy_decoding_of_plain_token_ids(name, limit):
    llm = frozen(build(name))
    prompts = asr_prompts(llm, answers=False)
    vectors, lengths = as_vectors(llm)
    expected = reference_texts(llm, prompts, limit)
    assert llm.generate(vectors, lengths, prompts, max_new_tokens=limit) == expected
    alone = [
        llm.generate(vectors[row : row + 1], lengths[row : row + 1], prompts[row : row + 1], max_new_tokens=limit)[0]
        for row in range(len(TEXTS))
    ]
    assert alone == expected


@torch.no_grad()
@pytest.mark.parametrize("name", ["rotary positions", "sliding window"])
def test_answers_longer_than_the_speech_are_continued_apart(name, monkeypatch):
    """With no room beyond the vectors, rows go on in ever smaller batches; the answers stay the same."""
    model = build(name)
    llm = frozen(model)
    prompts = asr_prompts(llm, answers=False)
    expected = reference_texts(llm, prompts, 40)
    assert llm.generate(*as_vectors(llm), prompts, max_new_tokens=40) == expected
    sizes: list[int] = []
    model.lm_head.register_forward_hook(lambda _m, _i, output: sizes.append(len(output)))
    monkeypatch.setattr("speechmapper.llm.ROOM", 0)
    assert llm.generate(*as_vectors(llm), prompts, max_new_tokens=40) == expected
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == len(TEXTS) > sizes[-1]
    assert len(sizes) > 2 * max(len(ids_of(text)) for text in TEXTS)


def test_generated_rows_differ_and_follow_the_order_of_the_batch(llm):
    prompts = asr_prompts(llm, answers=False)
    texts = llm.generate(*as_vectors(llm), prompts, max_new_tokens=12)
    assert len(set(texts)) == len(TEXTS)
    turned = llm.generate(*as_vectors(llm, TEXTS[::-1]), prompts[::-1], max_new_tokens=12)
    assert turned == texts[::-1]


@torch.no_grad()
def test_prompts_without_a_common_start_generate_the_same(llm):
    first, *others = asr_prompts(llm, answers=False)
    for before in ((), (9, *first.before)):
        prompts = [Prompt(before, first.after), *others]
        assert common_start([prompt.before for prompt in prompts]) == ()
        found = llm.generate(*as_vectors(llm), prompts, max_new_tokens=12)
        assert found == reference_texts(llm, prompts, 12)


def test_answers_in_the_prompts_are_ignored(llm):
    expected = llm.generate(*as_vectors(llm), asr_prompts(llm, answers=False), max_new_tokens=12)
    assert llm.generate(*as_vectors(llm), asr_prompts(llm), max_new_tokens=12) == expected


@torch.no_grad()
def test_rows_that_end_early_leave_the_others_alone(llm):
    """Common tokens are made stop tokens, so that rows end at different steps."""
    prompts = asr_prompts(llm, answers=False)
    free = [reference_answer(llm.model, prompt, text, set(), 12) for prompt, text in zip(prompts, TEXTS, strict=True)]
    model = llama()
    model.generation_config.eos_token_id = [free[0][0], free[1][3], free[2][6]]
    stopping = frozen(model)
    assert {free[0][0], free[1][3], free[2][6]} < stopping.stop_ids
    expected = reference_texts(stopping, prompts, 12)
    assert len({len(text.split()) for text in expected}) > 2
    assert stopping.generate(*as_vectors(stopping), prompts, max_new_tokens=12) == expected


def test_the_models_generation_settings_have_no_effect(llm):
    model = llama()
    model.generation_config = GenerationConfig(
        eos_token_id=2,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        do_sample=True,
        temperature=5.0,
        min_new_tokens=12,
        suppress_tokens=list(range(40)),
        forced_eos_token_id=50,
    )
    arguments = (*as_vectors(llm), asr_prompts(llm, answers=False))
    changed = frozen(model)
    assert changed.generate(*arguments, max_new_tokens=12) == llm.generate(*arguments, max_new_tokens=12)
    assert changed.stop_ids == frozen(changed.model).stop_ids == llm.stop_ids


def test_a_streamer_receives_the_same_text_in_pieces(llm):
    streamer = TextIteratorStreamer(llm.tokenizer, skip_special_tokens=True)
    vectors, lengths = as_vectors(llm, TEXTS[1:2])
    prompts = asr_prompts(llm, answers=False)[1:2]
    (text,) = llm.generate(vectors, lengths, prompts, max_new_tokens=12, streamer=streamer)
    pieces = list(streamer)
    assert len([piece for piece in pieces if piece]) > 2
    assert "".join(pieces).strip() == text


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


@pytest.mark.parametrize("autocast", [False, True])
def test_an_llm_in_bfloat16_takes_vectors_in_float32_and_gives_their_gradients_back_so(autocast):
    """Whatever precision the projector is trained in, the LLM computes in its own."""
    half = frozen(llama().to(torch.bfloat16))
    vectors, lengths = as_vectors(half)
    vectors, prompts = vectors.float().nan_to_num().requires_grad_(), asr_prompts(half)
    seen = []
    half.model.lm_head.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    batch = half.splice(vectors, lengths, prompts)
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        loss = half.answer_loss(vectors, lengths, prompts)
        half.generate(vectors, lengths, prompts, max_new_tokens=2)
    loss.backward()
    assert batch.inputs_BSE.dtype == half.embed([3]).dtype == torch.bfloat16 and set(seen) == {torch.bfloat16}
    assert loss.dtype == vectors.grad.dtype == torch.float32
    full = frozen(llama())
    expected = torch.autograd.grad(full.answer_loss(vectors, lengths, prompts), vectors)[0]
    assert torch.cosine_similarity(vectors.grad.flatten(), expected.flatten(), dim=0) > 0.99


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


def test_stop_ids_hold_the_end_of_turn_and_the_models_own(llm):
    names = {tokenizer().convert_ids_to_tokens(token) for token in llm.stop_ids}
    assert names == {"<|im_end|>", "</s>"}


def test_an_end_of_turn_of_the_generation_settings_is_taught_and_stops(tmp_path):
    """Flagged special nowhere: only `generation_config.eos_token_id` knows it."""
    words, model = tokenizer(), llama()
    words.add_tokens(["<end>"])
    end = words.convert_tokens_to_ids("<end>")
    words.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    model.generation_config.eos_token_id = [2, end]
    found = FrozenLLM(model, words, ModelSource("tiny", None, Path()))
    assert found.prompter.write(ASR.instruction(Item("the dog"), learn=True)).answer[-1] == end
    assert found.stop_ids == {2, end}


def test_the_target_sets_llm_is_accepted_and_another_refused(llm, tmp_path):
    targets = make_world(tmp_path / "world").store.targets("tiny")
    llm.require_table(targets)
    half = FrozenLLM(llama().to(torch.bfloat16), tokenizer(), llm.source)
    half.require_table(targets)  # the same LLM in another precision
    with pytest.raises(ModelError, match="not those of target set tiny"):
        FrozenLLM(llama(seed=1), tokenizer(), llm.source).require_table(targets)
    with pytest.raises(ModelError, match="not those of target set tiny"):
        FrozenLLM(llama(vocabulary=50), tokenizer(), llm.source).require_table(targets)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_the_next_token_of_a_text_is_the_same_alone_and_in_a_batch(name):
    llm = frozen(build(name))
    prompts = [tuple(range(6, 6 + length)) for length in (3, 20, 11)]
    together = llm.next_token_logits(prompts)
    for prompt, logits in zip(prompts, together, strict=True):
        torch.testing.assert_close(
            logits, llm.model(torch.tensor([prompt])).logits[0, -1].float(), atol=1e-4, rtol=1e-4
        )
