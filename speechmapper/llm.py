"""A frozen LLM that is given speech vectors in the middle of a prompt.

    before        vectors_U           after                    answer
    <|im_start|>… "  v0 v1 … v17   "  Repeat the text…         the dog ran <|im_end|>
    └ shared start: run once, kept ┘  └─ one row each, padded on the left ─┘

Every row ends at the same column, so the logits of the answers are the last columns of the batch and only
those are computed. The ids all prompts of a batch begin with do not depend on the speech: their keys and
values are computed once and kept. Pads on the left are masked and positions counted without them, so a row
gives what it gives alone.

Shapes: B batch, U projector vectors, S positions after the shared start, N answer tokens, E width, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from sm_pipeline.devices import choose_dtype
from sm_pipeline.models.quiet import quiet_transformers
from sm_pipeline.models.source import ModelSource
from sm_store import TargetSet
from sm_store.errors import ModelError
from speechmapper.prompting import Prompt, Prompter

MAX_NEW_TOKENS = 150  # paper
# Mean squared difference of two embedding tables, over their mean square, up to which they are one table in
# two precisions: rounding to bfloat16 gives about 1e-6, another LLM's table about 2.
TABLE_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Spliced:
    """A batch of prompts with vectors in place.

    Attributes:
        start: the ids all rows begin with (not in `inputs_BSE`); possibly none.
        inputs_BSE: embeddings after the start, padded on the left with zeros.
        valid_BS: bool, False on the pads.
        answers_BN: answer ids, aligned right, -100 where a row's answer is shorter. N may be 0.
    """

    start: tuple[int, ...]
    inputs_BSE: torch.Tensor
    valid_BS: torch.Tensor
    answers_BN: torch.Tensor


class FrozenLLM:
    """A causal LLM in eval mode whose weights take no gradient; gradients flow through it to the vectors.

    Args:
        model: a Hugging Face causal LM.
        tokenizer: its tokenizer.
        source: where it is from, for identities.
    """

    def __init__(self, model: Any, tokenizer: Any, source: ModelSource) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.source = source
        self.prompter = Prompter(tokenizer)
        self._starts: dict[tuple[int, ...], Any] = {}

    @property
    def width(self) -> int:
        """E."""
        return int(self._table.shape[1])

    @property
    def device(self) -> torch.device:
        return self._table.device

    @property
    def _table(self) -> torch.Tensor:
        return self.model.get_input_embeddings().weight

    def identity(self) -> dict[str, Any]:
        """Id and revision (JSON values)."""
        return {"id": self.source.id, "revision": self.source.revision}

    def require_table(self, targets: TargetSet) -> None:
        """Check that this is the LLM the target set was made from, whatever precision it is loaded in.

        Raises:
            ModelError: other input embeddings.
        """
        spec = targets.spec
        scale = float(getattr(self.model.get_input_embeddings(), "scalar_embed_scale", 1.0))
        mine = self._table.detach().float().cpu()[: spec.vocabulary] * scale
        same = mine.shape == (spec.vocabulary, spec.width)
        if same:
            error = (mine - torch.from_numpy(targets.table)).square().mean().item()
            same = error <= TABLE_TOLERANCE * spec.table_scale
        if not same:
            raise ModelError(
                f"--llm {self.source.id}: its input embeddings are not those of target set {spec.name} "
                f"(made from {spec.llm}); name that LLM, or choose another --target"
            )

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Input embeddings (N, E) of token ids, as the LLM would look them up."""
        embedded: torch.Tensor = self.model.get_input_embeddings()(
            torch.tensor(ids, dtype=torch.long, device=self.device)
        )
        return embedded

    def splice(self, vectors_BUE: torch.Tensor, vectors_B: torch.Tensor, prompts: Sequence[Prompt]) -> Spliced:
        """Put each row's vectors between its prompt's two parts, and its answer behind."""
        start = common_start([prompt.before for prompt in prompts])
        rows = []
        for vectors_UE, length, prompt in zip(vectors_BUE, vectors_B.tolist(), prompts, strict=True):
            # The last id of an answer is predicted, never read.
            tail = self.embed((*prompt.after, *prompt.answer[:-1]))
            rows.append(torch.cat([self.embed(prompt.before[len(start) :]), vectors_UE[:length].to(tail.dtype), tail]))
        size = max(len(row) for row in rows)
        longest = max(len(prompt.answer) for prompt in prompts)
        valid_BS = torch.tensor([[0] * (size - len(row)) + [1] * len(row) for row in rows], device=self.device)
        answers = [[-100] * (longest - len(prompt.answer)) + list(prompt.answer) for prompt in prompts]
        inputs_BSE = torch.stack([F.pad(row, (0, 0, size - len(row), 0)) for row in rows])
        return Spliced(start, inputs_BSE, valid_BS.bool(), torch.tensor(answers, dtype=torch.long, device=self.device))

    def answer_loss(
        self, vectors_BUE: torch.Tensor, vectors_B: torch.Tensor, prompts: Sequence[Prompt]
    ) -> torch.Tensor:
        """Cross-entropy summed over all answer tokens (float32 scalar); the prompts carry answers."""
        batch = self.splice(vectors_BUE, vectors_B, prompts)
        output = self._forward(batch, batch.answers_BN.shape[1])
        logits_BNV = output.logits.float()
        return F.cross_entropy(logits_BNV.flatten(0, 1), batch.answers_BN.flatten(), ignore_index=-100, reduction="sum")

    @torch.inference_mode()
    def generate(
        self,
        vectors_BUE: torch.Tensor,
        vectors_B: torch.Tensor,
        prompts: Sequence[Prompt],
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> list[str]:
        """Greedy answers as text, special tokens not written."""
        batch = self.splice(vectors_BUE, vectors_B, [Prompt(prompt.before, prompt.after) for prompt in prompts])
        output = self._forward(batch, 1, use_cache=True)
        cache, logits_BV = output.past_key_values, output.logits[:, -1]
        valid_BK = self._with_start(batch)
        written: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))  # of the batch, still being written
        for _ in range(max_new_tokens):
            next_B = logits_BV.argmax(dim=-1)
            going = [position for position, token in enumerate(next_B.tolist()) if token not in self.stop_ids]
            for position in going:
                written[rows[position]].append(int(next_B[position]))
            if not going:
                break
            if len(going) < len(rows):
                kept = torch.tensor(going, device=self.device)
                cache.batch_select_indices(kept)
                next_B, valid_BK, rows = next_B[kept], valid_BK[kept], [rows[position] for position in going]
            valid_BK = F.pad(valid_BK, (0, 1), value=True)
            output = self.model(
                input_ids=next_B[:, None],
                attention_mask=valid_BK.long(),
                past_key_values=cache,
                position_ids=valid_BK.sum(dim=1, keepdim=True) - 1,
                use_cache=True,
            )
            logits_BV = output.logits[:, -1]
        return [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        listed = getattr(self.model.generation_config, "eos_token_id", None)
        ids = listed if isinstance(listed, list) else [listed]
        return frozenset([self.prompter.end_of_turn, *(token for token in ids if token is not None)])

    def _forward(self, batch: Spliced, logits: int, use_cache: bool = False) -> Any:
        """Run the LLM on what follows the shared start; logits of the last `logits` columns only."""
        cache = self._start_cache(batch.start, len(batch.inputs_BSE)) if batch.start or use_cache else None
        valid_BK = self._with_start(batch)
        positions_BS = (valid_BK.long().cumsum(dim=1) - 1).clamp(min=0)[:, len(batch.start) :]
        return self.model(
            inputs_embeds=batch.inputs_BSE,
            attention_mask=valid_BK.long(),
            position_ids=positions_BS,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=logits,
        )

    def _with_start(self, batch: Spliced) -> torch.Tensor:
        """Valid positions (B, start + S)."""
        return F.pad(batch.valid_BS, (len(batch.start), 0), value=True)

    def _start_cache(self, start: tuple[int, ...], rows: int) -> Any:
        """A cache that holds `start` for this many rows; its keys and values are computed once."""
        from transformers import DynamicCache

        if not start:
            return DynamicCache(config=self.model.config)
        if start not in self._starts:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                ids = torch.tensor([start], device=self.device)
                cache = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
            self._starts[start] = [(layer.keys, layer.values) for layer in cache.layers]
        grown = DynamicCache(config=self.model.config)
        for index, (keys, values) in enumerate(self._starts[start]):
            grown.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
        return grown


def common_start(ids: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The ids all rows begin with."""
    shortest = min(ids, key=len)
    for position, token in enumerate(shortest):
        if any(row[position] != token for row in ids):
            return shortest[:position]
    return shortest


def load_llm(source: ModelSource, device: torch.device, dtype: str = "auto", tokenizer: Any | None = None) -> FrozenLLM:
    """Load a causal LLM and its tokenizer from a folder or GGUF file; no code of the checkpoint is run.

    Args:
        dtype: float32, bfloat16, float16, or auto: bfloat16 on a GPU, float32 on a CPU.
        tokenizer: its tokenizer where that is loaded already (making one from a GGUF takes seconds).

    Raises:
        ModelError: not a causal LLM that transformers loads. ConfigError: an unknown dtype.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chosen = choose_dtype(dtype, device, "LLM dtype")
    options: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    with quiet_transformers():
        try:
            if tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, **options)
            model = AutoModelForCausalLM.from_pretrained(source.folder, local_files_only=True, dtype=chosen, **options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"--llm {source.id}: cannot be loaded as a causal LLM ({reason[:200]})") from error
    return FrozenLLM(model.to(device), tokenizer, source)
