"""Adapters of an LLM: exact gradients through the shared start too, its own weights untouched, and peft's own files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sm_pipeline.models.source import ModelSource, resolve_model
from sm_store.errors import ConfigError, ModelError
from speechmapper.config import LlmConfig, LoraConfig
from speechmapper.layer_checkpointing import checkpoint_layers
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.lora import LoraAdapter, base_parameters, load_adapter, use_adapter
from speechmapper.projector import Projector, ProjectorConfig
from speechmapper.saved_projector import load_projector, save_projector
from tests.speechmapper.test_llm import ARCHITECTURES, TEXTS, as_vectors, asr_prompts, build
from tests.speechmapper.tiny import EMBEDDING, WIDTH, llama, save_llm, tokenizer

ROTARY = "rotary positions"


def frozen(model: torch.nn.Module) -> FrozenLLM:
    return FrozenLLM(model, tokenizer(), ModelSource("tiny", None, Path("tiny")))


def adapted(name: str = ROTARY, seed: int = 1, **settings) -> tuple[FrozenLLM, LoraAdapter]:
    """An LLM with an adapter that does something: B is not zero."""
    llm = frozen(build(name))
    adapter = LoraAdapter(llm, LoraConfig(**{"rank": 4, **settings}), seed)
    stir(adapter)
    return llm, adapter


def stir(adapter: LoraAdapter, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapter.weights.values():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    adapter.use(training=False)


def gradients(llm: FrozenLLM, adapter: LoraAdapter, texts=TEXTS) -> dict[str, torch.Tensor]:
    """The loss, and its gradients of the vectors and of the adapter."""
    vectors_BUE, lengths_B = as_vectors(llm, texts)
    vectors_BUE = vectors_BUE.detach().nan_to_num().requires_grad_()
    adapter.zero_grad()
    torch.manual_seed(0)
    loss = llm.answer_loss(vectors_BUE, lengths_B, asr_prompts(llm)[: len(texts)])
    loss.backward()
    return {
        "loss": loss.detach(),
        "vectors": vectors_BUE.grad,
        **{name: weight.grad.clone() for name, weight in adapter.weights.items()},
    }


def answers(llm: FrozenLLM) -> list[str]:
    vectors_BUE, lengths_B = as_vectors(llm)
    return llm.generate(vectors_BUE.detach(), lengths_B, asr_prompts(llm, answers=False), max_new_tokens=12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_new_adapter_changes_nothing_and_takes_its_gradient(name):
    plain, llm = frozen(build(name)), frozen(build(name))
    adapter = LoraAdapter(llm, LoraConfig(rank=4), seed=1)
    batch = (*as_vectors(plain), asr_prompts(plain))
    with torch.no_grad():
        assert torch.equal(llm.answer_loss(*batch), plain.answer_loss(*batch))
    assert answers(llm) == answers(plain)
    found = gradients(llm, adapter)
    assert all(found[key].any() for key in found if "lora_B" in key)
    assert all(weight.grad is None for key, weight in llm.model.named_parameters() if ".lora_" not in key)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_are_those_of_the_whole_prompt_of_each_row(name, checkpointing):
    """The shared start runs once per batch; its keys and values depend on the adapter too."""
    llm, adapter = adapted(name)
    if checkpointing:
        checkpoint_layers(llm.model, "tiny")
    found = gradients(llm, adapter)
    llm._can_share_start = False
    whole = gradients(llm, adapter)
    for key, expected in whole.items():
        size = float(expected.abs().max())
        torch.testing.assert_close(found[key], expected, rtol=1e-4, atol=1e-5 * max(size, 1e-3), msg=key)


def test_checkpointed_gradients_are_equal_to_the_bit_with_dropout():
    (plain, one), (checkpointed, other) = (adapted(dropout=0.3) for _ in range(2))
    checkpoint_layers(checkpointed.model, "tiny")
    for adapter in (one, other):
        adapter.use(training=True)
    first, second = gradients(plain, one), gradients(checkpointed, other)
    assert plain.splice(*as_vectors(plain), asr_prompts(plain)).start
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_was_read_before_a_step_is_not_used_after_it():
    llm, adapter = adapted()
    with torch.no_grad():
        before = llm.answer_loss(*as_vectors(llm), asr_prompts(llm))
        stir(adapter, seed=4)
        after = llm.answer_loss(*as_vectors(llm), asr_prompts(llm))
        llm._can_share_start = False
        assert float(after) == pytest.approx(float(llm.answer_loss(*as_vectors(llm), asr_prompts(llm))), rel=1e-5)
    assert float(before) != pytest.approx(float(after), rel=1e-3)


def test_dropout_acts_in_training_alone():
    llm, adapter = adapted(dropout=0.5)
    still = gradients(llm, adapter)["loss"]
    adapter.use(training=True)
    assert not torch.equal(gradients(llm, adapter)["loss"], still)
    adapter.use(training=False)
    assert torch.equal(gradients(llm, adapter)["loss"], still)


def test_an_llm_without_its_adapter_is_as_it_was_loaded():
    plain, (llm, adapter) = frozen(build(ROTARY)), adapted()
    different = answers(llm)
    use_adapter(llm, None)
    assert answers(llm) == answers(plain) != different
    adapter.use(training=False)
    assert answers(llm) == different
    assert base_parameters(llm) == sum(weight.numel() for weight in plain.model.parameters())


def test_two_adapters_in_one_llm_are_what_each_is_alone():
    llm, one = adapted()
    other = LoraAdapter(llm, LoraConfig(rank=2, targets=("q_proj", "v_proj")), seed=2)
    stir(other, seed=5)
    alone, only = adapted(rank=2, targets=("q_proj", "v_proj"), seed=2)
    stir(only, seed=5)
    first, second = adapted()
    for adapter, (its_llm, its) in ((one, (first, second)), (other, (alone, only))):
        adapter.use(training=True)
        found, expected = gradients(llm, adapter), gradients(its_llm, its)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)


def test_weights_are_a_function_of_the_seed_and_leave_the_generator_alone():
    llms = [frozen(llama()) for _ in range(3)]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (LoraAdapter(llm, LoraConfig(rank=4), seed) for llm, seed in zip(llms, (1, 1, 2), strict=True))
    assert torch.equal(torch.rand(3), expected)
    random = [key for key in one.weights if "lora_A" in key]
    assert all(torch.equal(one.weights[key], same.weights[key]) for key in one.weights)
    assert random and not any(torch.equal(one.weights[key], other.weights[key]) for key in random)
    assert all(
        weight.dtype == torch.float32
        for weight in LoraAdapter(frozen(llama().bfloat16()), LoraConfig(rank=2), 1).weights.values()
    )


@pytest.mark.parametrize(("share", "tolerance"), [(False, 0.01), (True, 0.04)], ids=["no shared start", "shared start"])
def test_the_arithmetic_of_flop_counts_adapters_and_the_start(share, tolerance):
    """Of two layers the outer halves have no gradient for the start, which the arithmetic does not know."""
    llm, _ = adapted()
    llm.model.set_attn_implementation("eager")  # torch counts its matrix products
    llm._can_share_start = share
    vectors_BUE, lengths_B = as_vectors(llm)
    with FlopCounterMode(display=False) as counter:
        llm.answer_loss(vectors_BUE.nan_to_num().detach().requires_grad_(), lengths_B, asr_prompts(llm)).backward()
    assert llm.take_flop() == pytest.approx(counter.get_total_flops(), rel=tolerance)


def saved(llm: FrozenLLM, adapter: LoraAdapter, run: Path) -> Projector:
    """A projector of a run with the adapter."""
    sizes = {"block_sizes": [8, 8], "block_outputs": [8, 8], "num_layers": [1, 1], "num_heads": 2, "ffn_size": 8}
    projector = Projector(ProjectorConfig(input_size=WIDTH, output_size=EMBEDDING, **sizes))
    save_projector(run, projector, {"lora": adapter.save(run)})
    return load_projector(run)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # which peft asks transformers
def test_a_saved_adapter_gives_the_same_answers_again_and_to_stock_peft(tmp_path):
    import peft

    llm, adapter = adapted(targets=("q_proj", "down_proj"), alpha=12, dropout=0.5)
    expected, projector = answers(llm), saved(llm, adapter, tmp_path / "run")
    assert projector.config.trained_for["training"]["lora"]["targets"] == ["q_proj", "down_proj"]
    again = frozen(build(ROTARY))
    assert answers(again) != expected
    load_adapter(again, projector)
    assert answers(again) == expected
    assert not any(module.training for module in again.model.modules())
    assert not any(weight.requires_grad for weight in again.model.parameters())
    stock = build(ROTARY)
    peft.PeftModel.from_pretrained(stock, tmp_path / "run" / "lora")
    assert answers(frozen(stock)) == expected
    config = json.loads((tmp_path / "run" / "lora" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 12, "tiny")


def test_a_projector_without_an_adapter_leaves_the_llm_as_it_is(tmp_path):
    llm = frozen(build(ROTARY))
    load_adapter(llm, Projector(ProjectorConfig(input_size=WIDTH, output_size=EMBEDDING)))
    assert llm.adapters is None


def test_an_adapter_that_is_missing_changed_or_of_another_llm_is_refused(tmp_path):
    llm, adapter = adapted()
    projector = saved(llm, adapter, tmp_path / "run")
    wider = llama()
    wider.model.layers[0].self_attn.q_proj = torch.nn.Linear(EMBEDDING, EMBEDDING + 8)
    with pytest.raises(ModelError, match=r"--llm tiny: the adapter .*lora was trained with another LLM, tiny: not fit"):
        load_adapter(frozen(wider), projector)
    with pytest.raises(ModelError, match=r"adapter_config\.json: not a LoRA adapter of tiny \(Target modules"):
        load_adapter(frozen(build("learned positions")), projector)
    path = tmp_path / "run" / "lora" / "adapter_model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: not the adapter that was saved with the projec"):
        load_adapter(frozen(build(ROTARY)), projector)
    path.unlink()
    with pytest.raises(ModelError, match="copy the run's folder as a whole"):
        load_adapter(frozen(build(ROTARY)), projector)


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_adapters_of_a_quantised_llm_learn_and_its_weights_stay(tmp_path, quantize):
    source = resolve_model(str(save_llm(tmp_path)), "llm")
    llm = load_llm(source, torch.device("cpu"), "float32", config=LlmConfig(quantize=quantize))
    adapter = LoraAdapter(llm, LoraConfig(rank=4), seed=1)
    kept = {name: weight.clone() for name, weight in llm.model.named_parameters() if ".lora_" not in name}
    first = gradients(llm, adapter)["loss"]
    for _ in range(20):
        adapter.use(training=True)
        gradients(llm, adapter)
        with torch.no_grad():
            for weight in adapter.weights.values():
                weight -= 0.02 * weight.grad / (weight.grad.abs().max() + 1e-9)
    adapter.use(training=False)
    assert float(gradients(llm, adapter)["loss"]) < 0.8 * float(first)
    assert all(torch.equal(weight, kept[name]) for name, weight in llm.model.named_parameters() if name in kept)
    assert not any(weight.requires_grad for name, weight in llm.model.named_parameters() if name in kept)


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(ConfigError, match=r"lora\.targets \['c_attn'\]: no layers of tiny .* have such names") as error:
        LoraAdapter(frozen(llama()), LoraConfig(rank=4, targets=("c_attn",)), 1)
    assert "\n" not in str(error.value)
