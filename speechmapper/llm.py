"""A frozen LLM that is given speech vectors in the middle of a prompt.

    before        vectors_U           after                    answer
    <|im_start|>… "  v0 v1 … v17   "  Repeat the text…         the dog ran <|im_end|>

Rows are padded on the left, so all rows end at the same column. Pads are masked and positions are counted without
them, so a row gives the same result alone and in a batch. The ids that all prompts of a batch begin with (the shared
start) do not depend on the speech: they run once, and their keys and values are kept; while adapters are trained
(lora.py), they run once per batch, since weights get a gradient through them.

The loss computes only the logits of the answers, which are the last columns, and its gradient overwrites them. Answers
are written by transformers' `generate`, in two steps, since it computes every row until the last one ends: rows that
are unfinished once they have more tokens than speech vectors, which are few and often repeat themselves, are continued
in a batch of their own. A sharded LLM (llm_sharding.py) keeps no start and writes in one step.

Shapes: B batch, U projector vectors, S positions after the shared start, N answer tokens, E width, V
vocabulary, K all positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, DynamicLayer

from sm_pipeline.models.source import ModelSource
from sm_store import TargetSet
from sm_store.errors import ModelError
from sm_store.targets import table_sha256
from speechmapper.config import NONE
from speechmapper.cross_entropy import IGNORED, cross_entropy_sum
from speechmapper.flop import FlopSizes
from speechmapper.llm_sharding import is_sharded
from speechmapper.prompting import Prompt, Prompter
from speechmapper.shared_start import ReadLayer, StartLayer, common_start

MAX_NEW_TOKENS = 150  # paper
# Mean squared difference of two embedding tables, over their mean square, up to which they are one table in
# two precisions: rounding to bfloat16 gives about 1e-6, another LLM's table about 2.
TABLE_TOLERANCE = 1e-4
ROOM = 16  # tokens an answer may have beyond the speech vectors before it is continued apart; our own


@dataclass(frozen=True, slots=True)
class Spliced:
    """A batch of prompts with vectors in place.

    Attributes:
        start: the ids all rows begin with (not in `inputs_BSE`); possibly none.
        inputs_BSE: embeddings after the start, padded on the left with zeros.
        valid_BS: bool, False on the pads.
        answers_BN: answer ids, aligned right, -100 where a row's answer is shorter.
    """

    start: tuple[int, ...]
    inputs_BSE: torch.Tensor
    valid_BS: torch.Tensor
    answers_BN: torch.Tensor


@dataclass(frozen=True, slots=True)
class Output:
    """What was read out of one row of vectors.

    Attributes:
        tokens: how many the LLM wrote, without the stop token; None where no LLM wrote it.
        stopped_by_length: whether the limit of tokens ended it; None where no LLM wrote it.
    """

    text: str
    tokens: int | None = None
    stopped_by_length: bool | None = None


class FrozenLLM:
    """A causal LLM in eval mode whose weights take no gradient; gradients flow through it to the vectors.

    Args:
        model: a Hugging Face causal LM. Of its generation settings only the stop tokens are kept: `generate` would
            take every setting that a call leaves open, such as a repetition penalty, from the model's.
        tokenizer: its tokenizer.
        source: where it was loaded from, for identities.
        quantize: how its weights are quantised (`llm.quantize`), for identities.

    Attributes:
        stop_ids: tokens that end an answer.
        adapters: peft's wrapper of the model, once `lora.py` has added an adapter to its layers.
        cache_argument: what the model calls its keys and values: `cache` from transformers 5.24 on, which warns of the
            name before, `past_key_values`.
    """

    def __init__(self, model: Any, tokenizer: Any, source: ModelSource, quantize: str = NONE) -> None:
        from transformers import GenerationConfig

        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.source, self.quantize = source, quantize
        listed = model.generation_config.eos_token_id
        own = listed if isinstance(listed, list) else [listed]
        self.prompter = Prompter(tokenizer, [token for token in own if token is not None])
        self.stop_ids = self.prompter.stop_ids
        model.generation_config = GenerationConfig(eos_token_id=sorted(self.stop_ids))
        self._sizes = FlopSizes.of(model)
        self._flop = 0.0
        self.adapters: Any = None
        self._is_trained = False
        self._starts: dict[tuple[int, ...], Any] = {}
        known = inspect.signature(model.forward).parameters
        self.cache_argument = "cache" if "cache" in known else "past_key_values"
        self._is_sharded = is_sharded(model)
        # A sliding window would be filled by the pads after the start; a recurrent state has no keys and values.
        layers = DynamicCache(config=model.config).layers
        # Of a sharded LLM each forward pass is a collective, and processes have other starts at other times.
        self._can_share_start = not self._is_sharded and all(type(layer) is DynamicLayer for layer in layers)

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
        """Id and revision (JSON values), and the quantisation where there is one."""
        quantized = {"quantize": self.quantize} if self.quantize != NONE else {}
        return {"id": self.source.id, "revision": self.source.revision, **quantized}

    def require_table(self, targets: TargetSet) -> None:
        """Check that this is the LLM the target set was made from, whatever precision it is loaded in.

        Raises:
            ModelError: other input embeddings.
        """
        require_same_table(self.input_table(targets.spec.vocabulary).cpu(), targets, self.source.id)

    def table_sha256(self, vocabulary: int) -> str:
        """Fingerprint of the first `vocabulary` rows of the embedding table, in the precision it is loaded in."""
        return table_sha256(self.input_table(vocabulary).cpu().numpy())

    def input_table(self, vocabulary: int) -> torch.Tensor:
        """The first `vocabulary` rows as the layers receive them, (V, E), float32."""
        scale = float(getattr(self.model.get_input_embeddings(), "scalar_embed_scale", 1.0))
        return self._table.detach()[:vocabulary].float() * scale

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Input embeddings (N, E) of token ids, as the LLM would look them up."""
        embedded: torch.Tensor = self.model.get_input_embeddings()(
            torch.tensor(ids, dtype=torch.long, device=self.device)
        )
        return embedded

    def splice(self, vectors_BUE: torch.Tensor, vectors_B: torch.Tensor, prompts: Sequence[Prompt]) -> Spliced:
        """Put each row's vectors between the two parts of its prompt, followed by its answer."""
        start = common_start([prompt.before for prompt in prompts]) if self._can_share_start else ()
        rows = []
        for vectors_UE, length, prompt in zip(vectors_BUE, vectors_B.tolist(), prompts, strict=True):
            # The last id of an answer is predicted, never read.
            tail = self.embed((*prompt.after, *prompt.answer[:-1]))
            rows.append(torch.cat([self.embed(prompt.before[len(start) :]), vectors_UE[:length].to(tail.dtype), tail]))
        size = max(len(row) for row in rows)
        longest = max(len(prompt.answer) for prompt in prompts)
        valid_BS = torch.tensor([[0] * (size - len(row)) + [1] * len(row) for row in rows], device=self.device)
        answers = [[IGNORED] * (longest - len(prompt.answer)) + list(prompt.answer) for prompt in prompts]
        inputs_BSE = torch.stack([F.pad(row, (0, 0, size - len(row), 0)) for row in rows])
        return Spliced(start, inputs_BSE, valid_BS.bool(), torch.tensor(answers, dtype=torch.long, device=self.device))

    def answer_loss(
        self, vectors_BUE: torch.Tensor, vectors_B: torch.Tensor, prompts: Sequence[Prompt]
    ) -> torch.Tensor:
        """Cross-entropy summed over all answer tokens (float32 scalar); the prompts carry answers.

        The LLM runs in its own precision, whatever the projector is trained in.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._answer_loss(vectors_BUE, vectors_B, prompts)

    def _answer_loss(
        self, vectors_BUE: torch.Tensor, vectors_B: torch.Tensor, prompts: Sequence[Prompt]
    ) -> torch.Tensor:
        batch = self.splice(vectors_BUE, vectors_B, prompts)
        valid_BK = self._with_start(batch)
        positions_BS = (valid_BK.long().cumsum(dim=1) - 1).clamp(min=0)[:, len(batch.start) :]
        self._count_flop(batch)
        logits_BNV = self.model(
            inputs_embeds=batch.inputs_BSE,
            attention_mask=valid_BK.long(),
            position_ids=positions_BS,
            use_cache=bool(batch.start),
            logits_to_keep=batch.answers_BN.shape[1],
            **{self.cache_argument: self._start_cache(batch, grows=False)},
        ).logits.float()
        return cross_entropy_sum(logits_BNV.flatten(0, 1), batch.answers_BN.flatten())

    @torch.inference_mode()
    def next_token_logits(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (B, V), float32, of the token that follows each of these prompts, which are ids of text alone."""
        size = max(map(len, prompts))
        ids_BS = torch.tensor([[0] * (size - len(ids)) + list(ids) for ids in prompts], device=self.device)
        valid_BS = torch.tensor([[0] * (size - len(ids)) + [1] * len(ids) for ids in prompts], device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            logits_B1V = self.model(
                input_ids=ids_BS,
                attention_mask=valid_BS,
                position_ids=(valid_BS.cumsum(dim=1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            ).logits
        return logits_B1V[:, -1].float()

    def layers_changed(self, trained: int) -> None:
        """From now on the layers compute something else: what they computed before is not used again.

        Args:
            trained: weights in them that take a gradient.
        """
        self._starts.clear()
        self._is_trained = trained > 0
        if self._sizes is not None:
            self._sizes = replace(self._sizes, trained=trained)

    def _count_flop(self, batch: Spliced) -> None:
        if self._sizes is None or not torch.is_grad_enabled():
            return
        (rows, inputs), start = batch.valid_BS.shape, len(batch.start)
        self._flop += self._sizes.of_answers(rows, inputs, start + inputs, batch.answers_BN.shape[1])
        if self._is_trained and start:
            self._flop += self._sizes.of_answers(1, start, start, 1)

    def take_flop(self) -> float:
        """FLOP of all losses with gradients since the last call (speechmapper/flop.py); 0 where they are not known."""
        taken, self._flop = self._flop, 0.0
        return taken

    def generate(
        self,
        vectors_BUE: torch.Tensor,
        vectors_B: torch.Tensor,
        prompts: Sequence[Prompt],
        max_new_tokens: int = MAX_NEW_TOKENS,
        streamer: Any | None = None,
    ) -> list[str]:
        """Greedy answers as text, without special tokens; arguments as of `answers`."""
        return [answer.text for answer in self.answers(vectors_BUE, vectors_B, prompts, max_new_tokens, streamer)]

    def answers(
        self,
        vectors_BUE: torch.Tensor,
        vectors_B: torch.Tensor,
        prompts: Sequence[Prompt],
        max_new_tokens: int = MAX_NEW_TOKENS,
        streamer: Any | None = None,
    ) -> list[Output]:
        """Greedy answers with their lengths.

        Args:
            prompts: one per row; answers in them are ignored.
            max_new_tokens: length at which an answer is cut, at least 1.
            streamer: a Hugging Face streamer that is given each token as it appears; batches of one row only.
        """
        unanswered = [Prompt(prompt.before, prompt.after) for prompt in prompts]
        # What a sharded LLM gathers in inference mode could not be used in training afterwards.
        without_gradients = torch.no_grad() if self._is_sharded else torch.inference_mode()
        with without_gradients, torch.autocast(self.device.type, enabled=False):
            written = self._write(vectors_BUE, vectors_B, unanswered, max_new_tokens, streamer)
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]
        return [Output(text, len(ids), len(ids) == max_new_tokens) for text, ids in zip(texts, written, strict=True)]

    def _write(
        self,
        vectors_BUE: torch.Tensor,
        vectors_B: torch.Tensor,
        prompts: Sequence[Prompt],
        limit: int,
        streamer: Any | None = None,
    ) -> list[list[int]]:
        """Ids of the greedy answers, at most `limit` each, without stop tokens."""
        once = len(prompts) == 1 or self._is_sharded
        first = limit if once else min(limit, int(vectors_B.max()) + ROOM)
        written = self._generate(self.splice(vectors_BUE, vectors_B, prompts), first, streamer)
        unfinished = [row for row, ids in enumerate(written) if len(ids) == first < limit]
        if unfinished:
            longer = [Prompt(prompts[row].before, (*prompts[row].after, *written[row])) for row in unfinished]
            rest = self._write(vectors_BUE[unfinished], vectors_B[unfinished], longer, limit - first)
            for row, ids in zip(unfinished, rest, strict=True):
                written[row] += ids
        return written

    def _generate(self, batch: Spliced, limit: int, streamer: Any | None) -> list[list[int]]:
        """Ids that `generate` adds to each row, up to its first stop token."""
        from transformers import GenerationConfig

        stops = sorted(self.stop_ids)
        greedy = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=limit, eos_token_id=stops, pad_token_id=stops[0]
        )
        ids_BN = self.model.generate(
            inputs_embeds=F.pad(batch.inputs_BSE, (0, 0, len(batch.start), 0)),  # of the start only the length is used
            attention_mask=self._with_start(batch).long(),
            generation_config=greedy,
            streamer=streamer,
            synced_gpus=self._is_sharded,
            **{self.cache_argument: self._start_cache(batch)},
        )
        return [list(takewhile(lambda token: token not in self.stop_ids, ids)) for ids in ids_BN.tolist()]

    def _with_start(self, batch: Spliced) -> torch.Tensor:
        """Valid positions (B, K)."""
        return F.pad(batch.valid_BS, (len(batch.start), 0), value=True)

    def _start_cache(self, batch: Spliced, grows: bool = True) -> Any | None:
        """A cache that holds the shared start for each row, None if there is none.

        Args:
            grows: later keys and values are added to it, as generation needs.
        """
        if not batch.start:
            return None
        cache, rows = DynamicCache(config=self.model.config), len(batch.inputs_BSE)
        for index, pair in enumerate(self._start(batch.start)):
            keys, values = (each.expand(rows, -1, -1, -1) for each in pair)
            if grows:
                cache.update(keys, values, index)
            else:
                cache.layers[index] = StartLayer(keys, values)
        return cache

    def _start(self, start: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each layer's keys and values of a shared start. They are computed once, but where weights in the layers take
        a gradient: these get theirs through the start too."""
        if self._is_trained and torch.is_grad_enabled():
            return self._read_start(start)
        if start not in self._starts:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._starts[start] = self._read_start(start)
        return self._starts[start]

    def _read_start(self, start: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        cache = DynamicCache(config=self.model.config)
        cache.layers = [ReadLayer() for _ in cache.layers]
        ids = torch.tensor([start], device=self.device)
        self.model(input_ids=ids, use_cache=True, logits_to_keep=1, **{self.cache_argument: cache})
        return [(layer.keys, layer.values) for layer in cache.layers]


def require_same_table(table_VE: torch.Tensor, targets: TargetSet, llm: str) -> None:
    """Check that an LLM's input embeddings (V, E), float32, are a target set's but for rounding.

    Raises:
        ModelError: other embeddings; names the LLM.
    """
    spec = targets.spec
    mine = table_VE[: spec.vocabulary]
    same = mine.shape == (spec.vocabulary, spec.width)
    if same:
        error = (mine - torch.from_numpy(targets.table)).square().mean().item()
        same = error <= TABLE_TOLERANCE * spec.table_scale
    if not same:
        raise ModelError(
            f"--llm {llm}: its input embeddings are not those of target set {spec.name} "
            f"(made from {spec.llm}); name that LLM, or choose another --target"
        )
