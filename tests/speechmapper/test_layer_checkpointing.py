"""Checkpointed layers: the same loss and gradients to the bit, from fewer bytes kept for the backward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sm_pipeline.models.source import ModelSource, resolve_model
from sm_store.errors import ConfigError
from speechmapper.config import LlmConfig
from speechmapper.layer_checkpointing import checkpoint_layers
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.prompting import Prompt
from speechmapper.tasks import ASR, Item
from tests.speechmapper.test_llm import ARCHITECTURES, TEXTS, as_vectors, asr_prompts, build
from tests.speechmapper.tiny import save_llm, tokenizer

CPU = torch.device("cpu")


def frozen(model: torch.nn.Module) -> FrozenLLM:
    return FrozenLLM(model, tokenizer(), ModelSource("tiny", None, Path()))


def loss_gradient_bytes(llm: FrozenLLM, vectors_BUE, lengths_B, prompts) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The loss, its gradient of the vectors, and the bytes kept for the latter: each storage once, weights not."""
    weights = {weight.untyped_storage().data_ptr() for weight in llm.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    vectors_BUE = vectors_BUE.detach().nan_to_num().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = llm.answer_loss(vectors_BUE, lengths_B, prompts)
    loss.backward()
    return loss.detach(), vectors_BUE.grad, sum(kept.values())


def without_start(prompts: list[Prompt]) -> list[Prompt]:
    """The prompts, the first of which begins with another token."""
    return [Prompt((9, *prompts[0].before), prompts[0].after, prompts[0].answer), *prompts[1:]]


@pytest.mark.parametrize("share", [True, False], ids=["shared start", "no shared start"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradients_are_equal_to_the_bit(name, share):
    plain, checkpointed = frozen(build(name)), frozen(build(name))
    checkpoint_layers(checkpointed.model, "tiny")
    prompts = asr_prompts(plain) if share else without_start(asr_prompts(plain))
    batch = (*as_vectors(plain), prompts)
    loss, gradient, kept = loss_gradient_bytes(plain, *batch)
    again, gradient_again, kept_again = loss_gradient_bytes(checkpointed, *batch)
    assert torch.equal(loss, again) and torch.equal(gradient, gradient_again)
    assert kept_again < 0.75 * kept
    assert gradient.any() or name == "sliding window"  # of 8 positions, which the vectors are not among


def test_the_shared_start_is_read_by_checkpointed_layers_in_the_first_and_in_later_batches():
    plain, checkpointed = frozen(build("rotary positions")), frozen(build("rotary positions"))
    checkpoint_layers(checkpointed.model, "tiny")
    for texts in (TEXTS, TEXTS[:2], TEXTS):
        batch = (*as_vectors(plain, texts), asr_prompts(plain)[: len(texts)])
        assert plain.splice(*batch).start
        one, other = (loss_gradient_bytes(llm, *batch) for llm in (plain, checkpointed))
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_each_layer_runs_again_once_per_backward_and_never_in_generation():
    llm = frozen(build("rotary positions"))
    runs: list[int] = []
    for number, layer in enumerate(llm.model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_args, number=number: runs.append(number))
    checkpoint_layers(llm.model, "tiny")
    vectors_BUE, lengths_B = as_vectors(llm)
    prompts = asr_prompts(llm)
    llm.answer_loss(vectors_BUE, lengths_B, prompts)  # computes the start
    runs.clear()
    llm.answer_loss(vectors_BUE.nan_to_num().requires_grad_(), lengths_B, prompts).backward()
    assert runs == [0, 1, 1, 0]
    runs.clear()
    llm.generate(vectors_BUE, lengths_B, prompts, max_new_tokens=1)
    assert runs == [0, 1]


def test_generation_is_as_without(tmp_path):
    source = resolve_model(str(save_llm(tmp_path)), "llm")
    plain, checkpointed = (load_llm(source, CPU, config=LlmConfig(checkpointing=each)) for each in (False, True))
    prompts = asr_prompts(plain, answers=False)
    expected = plain.generate(*as_vectors(plain), prompts, max_new_tokens=12)
    assert checkpointed.generate(*as_vectors(plain), prompts, max_new_tokens=12) == expected


def test_an_llm_without_such_layers_is_refused():
    with pytest.raises(ConfigError, match=r"llm\.checkpointing: --llm mine: Linear has no layers that can be"):
        checkpoint_layers(torch.nn.Linear(2, 2), "--llm mine")


def test_a_real_llm_keeps_a_tenth_of_the_bytes():
    source = resolve_model("smollm2-135m", "llm")
    texts = ["the old farmer opened a red box today", "a green bird sang in the tall tree near the quiet river"]
    found = []
    for checkpointing in (False, True):
        llm = load_llm(source, CPU, config=LlmConfig(checkpointing=checkpointing))
        prompts = [llm.prompter.write(ASR.instruction(Item(text), learn=True)) for text in texts]
        rows = [llm.embed(llm.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        vectors = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        found.append(loss_gradient_bytes(llm, vectors, lengths, prompts))
    (loss, gradient, kept), (again, gradient_again, kept_again) = found
    assert torch.equal(loss, again) and torch.equal(gradient, gradient_again)
    assert kept_again < 0.25 * kept
