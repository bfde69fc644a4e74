"""The first layers of an LLM, its final norm and its output rows: all that the objective part `kd` needs of an LLM.

    layers = first_layers_of(None, 1, store.targets("llama"), device)        of the LLM that made this target set
    hidden_BNE = layers.hidden(inputs_BNE)                what `norm` gives after layer 1; differentiable
    logits_PV = hidden_PE @ layers.output_VE.T

The architecture is built on the meta device with that many layers, and only their tensors, the norm's and the output
rows' (`lm_head`, or the input embeddings where the two are tied) are read: of Llama 3.1 8B with one layer 1.5 GB of
16 GB, and of a Hub id only the files that hold them. A GGUF file is small, and is read by transformers: every tensor is
converted to float32 in turn, only these are kept.

Inputs are what the layers receive, as the table of a target set holds it (Gemma's scale is applied). Positions count
from 0, a position sees itself and those before it, and there is no prompt; padding on the right is never seen.

Not a module: the weights are frozen, so no optimizer, checkpoint or process that averages gradients should meet them.

Shapes: B batch, N positions, P positions of a batch, E LLM width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sm_pipeline.devices import choose_dtype
from sm_pipeline.models.quiet import quiet_transformers
from sm_pipeline.models.source import ModelSource, open_tensors, resolve_model
from sm_pipeline.models.weights import BROKEN_CONFIG, build, load_weights, one_line
from sm_store import TargetSet
from sm_store.errors import ConfigError, ModelError

# Decoders whose output is `lm_head(norm(layers(embeddings)))`, without anything applied to the logits. EuroLLM, Llama 2
# and 3 and SmolLM2 are `llama`.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
# Where checkpoints have the stack of layers: alone, as a text LLM, and inside models of text and images.
PREFIXES = ("model.", "language_model.model.", "model.language_model.", "")
OUTPUT_NAMES = ("lm_head.weight", "language_model.lm_head.weight")
COMPARED_ROWS = 256  # of the two embedding tables
TABLE_TOLERANCE = 1e-4  # of their difference, as in speechmapper/llm.py


class FirstLayers:
    """Frozen first layers; gradients flow through them to their inputs.

    Args:
        stack: a Hugging Face decoder without output head (`LlamaModel`), in eval mode.
        output_VE: rows that the logits are dot products with.
    """

    def __init__(self, stack: Any, output_VE: torch.Tensor) -> None:
        self._stack = stack.eval().requires_grad_(False)
        self.output_VE = output_VE.detach()

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(self._stack.layers)

    def hidden(self, inputs_BNE: torch.Tensor) -> torch.Tensor:
        """The layers' output after the final norm, (B, N, E), in the precision of the weights, also under autocast."""
        with torch.autocast(inputs_BNE.device.type, enabled=False):
            inputs_BNE = inputs_BNE.to(self.output_VE.dtype)
            hidden_BNE: torch.Tensor = self._stack(inputs_embeds=inputs_BNE, use_cache=False).last_hidden_state
        return hidden_BNE


def first_layers_of(llm: str | None, count: int, targets: TargetSet, device: torch.device) -> FirstLayers:
    """The first `count` layers of the LLM that a target set was made from.

    They are in bfloat16 on a GPU that has it, else in float32. No code of the checkpoint is run.

    Args:
        llm: a model argument; None: what the target set recorded.

    Raises:
        ModelError: it is not found, of another family, quantised, incomplete, or not the LLM of the target set.
        ConfigError: more layers than it has.
    """
    spec = targets.spec
    recorded = spec.llm if spec.revision is None else f"{spec.llm}@{spec.revision}"
    try:
        source = resolve_model(llm or recorded, "llm", weights=False)
    except ModelError as error:
        raise ModelError(
            f"objective kd: no LLM for target set {spec.name}; name the one it was made from in objective.llm ({error})"
        ) from error
    config = _config(source, count)
    start = max((spec.vocabulary - COMPARED_ROWS) // 2, 0)
    compared = slice(start, min(start + COMPARED_ROWS, spec.vocabulary))
    read = _read_safetensors if source.gguf_file is None else _read_gguf
    with quiet_transformers():
        found = read(source, config, compared)
    _require_rows(found.rows_KE, torch.from_numpy(targets.table[compared]), source, targets)
    dtype = choose_dtype("auto", device)
    stack = found.stack.to(device, dtype)
    # Tables of positions are no weights, and stay in float32.
    stack.rotary_emb = found.rotary(config).to(device)
    return FirstLayers(stack, found.output_VE.to(device, dtype))


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of an LLM.

    Attributes:
        stack: the decoder without input embeddings and positions. rotary: class of the latter.
        output_VE: the output rows. rows_KE: some rows of the input embeddings, as the layers receive them.
    """

    stack: Any
    rotary: Callable[..., torch.nn.Module]
    output_VE: torch.Tensor
    rows_KE: torch.Tensor


def _config(source: ModelSource, count: int) -> Any:
    """The LLM's configuration with `count` layers; of a model of text and images that of its text part."""
    from transformers import AutoConfig

    options: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    try:
        with quiet_transformers():
            whole = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True, **options)
    except BROKEN_CONFIG as error:
        raise ModelError(f"objective kd: {source.id}: its configuration cannot be used ({one_line(error)})") from error
    config = whole.get_text_config()
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"objective kd: {source.id}: model_type {config.model_type!r} is not supported; use an LLM of "
            f"{', '.join(FAMILIES)}, or leave kd out of objective.name"
        )
    if getattr(whole, "quantization_config", None) is not None:
        raise ModelError(
            f"objective kd: {source.id}: its weights are quantised; name the checkpoint without quantisation in "
            "objective.llm"
        )
    if count > config.num_hidden_layers:
        raise ConfigError(
            f"objective.kd_layers {count}: {source.id} has {config.num_hidden_layers} layers; give 1 to that many"
        )
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:count]
    return config


def _read_safetensors(source: ModelSource, config: Any, compared: slice) -> _Read:
    """The layers' tensors, the norm's, the output rows and the compared rows; no other tensor is read."""
    from transformers import AutoModel

    stack = build(lambda each: AutoModel.from_config(each, attn_implementation="sdpa"), config, source)
    scale, rotary = _without_tables(stack)
    load_weights(stack, source, PREFIXES)
    tensors = open_tensors(source)
    stored = set(tensors.names())
    tables = [f"{prefix}embed_tokens.weight" for prefix in PREFIXES]
    table = next((name for name in tables if name in stored), tables[0])
    output = next((name for name in OUTPUT_NAMES if name in stored), OUTPUT_NAMES[0])
    if config.tie_word_embeddings and output not in stored:
        output = table
    rows_KE = tensors.get_rows(table, compared.start, compared.stop)
    return _Read(stack, rotary, tensors.get(output), rows_KE.float() * scale)


def _read_gguf(source: ModelSource, config: Any, compared: slice) -> _Read:
    """The same of a GGUF file, whose tensors transformers converts one by one."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.folder,
            gguf_file=source.gguf_file,
            config=config,
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"objective kd: {source.id}: cannot be read ({one_line(error)})") from error
    rows_KE = model.get_input_embeddings().weight.detach()[compared].clone()
    output_VE = model.lm_head.weight
    scale, rotary = _without_tables(model.model)
    return _Read(model.model, rotary, output_VE, rows_KE * scale)


def _without_tables(stack: Any) -> tuple[float, Callable[..., torch.nn.Module]]:
    """Take input embeddings and positions out of a decoder; returns the former's factor and the latter's class."""
    scale, rotary = float(getattr(stack.embed_tokens, "scalar_embed_scale", 1.0)), type(stack.rotary_emb)
    stack.embed_tokens, stack.rotary_emb = torch.nn.Identity(), torch.nn.Identity()
    return scale, rotary


def _require_rows(found_KE: torch.Tensor, table_KE: torch.Tensor, source: ModelSource, targets: TargetSet) -> None:
    """Check rows of the LLM's input embeddings against the target set's, whatever their precisions.

    Raises:
        ModelError: they differ: vectors trained for one LLM say nothing to another.
    """
    spec = targets.spec
    same = found_KE.shape == table_KE.shape
    if not same or (found_KE - table_KE).square().mean() > TABLE_TOLERANCE * spec.table_scale:
        raise ModelError(
            f"objective kd: {source.id}: its input embeddings are not those of target set {spec.name} (made from "
            f"{spec.llm}); name that LLM in objective.llm"
        )
