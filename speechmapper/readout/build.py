"""The readout of a projector: by nearest token without an LLM, or by a frozen LLM that answers an instruction.

    readout = build_readout(projector, None, None)               the nearest rows of the table it was trained for
    readout = build_readout(projector, None, None, search=BeamSearch(16))      by CTC the most probable text instead
    readout = build_readout(projector, "smollm2-135m", None)     that LLM, greedily
    readout.read(projected, instructions)                        -> texts, one per row
    readout.shown(instruction)                                   the prompt as text; None by nearest token

Validation, evaluation and the model all read vectors out through this. By nearest token a projector can only
transcribe; the instructions have no effect. What the LLM is given, and which tokens are read, is the projector's head
(speechmapper/heads).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sm_pipeline.models.llm_table import load_llm_table
from sm_pipeline.models.source import resolve_model
from sm_pipeline.models.tokenizer import load_stored_tokenizer
from sm_pipeline.text import NORMALIZER
from sm_store import TargetSet
from sm_store.errors import ConfigError, ModelError
from sm_store.targets import table_sha256
from speechmapper.config import AUTO, LlmConfig
from speechmapper.heads import Head
from speechmapper.llm import MAX_NEW_TOKENS, FrozenLLM, Output
from speechmapper.llm_loading import load_llm
from speechmapper.lora import load_adapter
from speechmapper.projector import Projected, Projector, ProjectorConfig
from speechmapper.prompting import Instruction
from speechmapper.readout.beam import NO_HOTWORDS, TOP_TOKENS, BeamSearch, beam_search
from speechmapper.readout.hotwords import HotwordBonus
from speechmapper.readout.nearest import NearestToken
from speechmapper.saved_projector import model_name, recorded_model
from speechmapper.tasks import ASR, Task

NEAREST, SEARCHED, GENERATED = "nearest-token", "beam-search", "generation"


@dataclass(frozen=True, slots=True)
class Readout:
    """How vectors become text.

    Attributes:
        name: for reports.
        head: of the projector, with the table it reads by.
        answers: a projected batch and an instruction per row -> an answer per row.
        shown: the prompt of an instruction as text; None where none is used.
        template: what the chat template was given besides the turns, for identities.
        llm: the LLM that writes; None where none does. max_new_tokens: length at which it is stopped.
    """

    name: str
    head: Head
    answers: Callable[[Projected, Sequence[Instruction]], list[Output]]
    shown: Callable[[Instruction], str | None]
    template: Mapping[str, Any] = field(default_factory=dict)
    llm: FrozenLLM | None = None
    max_new_tokens: int = MAX_NEW_TOKENS

    def read(self, projected: Projected, instructions: Sequence[Instruction]) -> list[str]:
        """The text of each answer."""
        return [answer.text for answer in self.answers(projected, instructions)]

    def require_task(self, task: Task) -> None:
        """Check that this readout can do a task. Raises as `require_transcript`."""
        if self.name != GENERATED:
            require_transcript(task)


def require_transcript(task: Task) -> None:
    """Check that a task can be done without an LLM.

    Raises:
        ConfigError: without an LLM there is only the transcript.
    """
    if task.name != ASR.name:
        raise ConfigError(f"{task.name} needs an LLM; name it with --llm (without one, speech is only transcribed)")


def build_readout(
    projector: Projector,
    llm: str | None,
    targets: TargetSet | None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    search: BeamSearch | None = None,
    *,
    llm_dtype: str = AUTO,
    llm_config: LlmConfig | None = None,
) -> Readout:
    """Greedy generation by the LLM named, else the nearest token of the LLM the projector was trained for.

    Args:
        llm: a model argument.
        targets: the target set of that LLM in the store at hand: its table and tokenizer are taken, and the LLM is
            checked against it. None: both come from the LLM's own files.
        search: how a CTC projector is read without an LLM; None: greedily.
        llm_dtype, llm_config: how the LLM is loaded (`load_llm`).

    An LLM gets the adapter of the projector's run, where it has one.

    Raises:
        ModelError: no usable LLM, another one than the target set's, or see `load_adapter`. ConfigError: see
            `require_search`.
    """
    if search is not None:
        require_search(search, projector.config, llm)
    if llm is None:
        return nearest_readout(projector, targets, search)
    tokenizer = load_stored_tokenizer(targets) if targets else None
    frozen = load_llm(resolve_model(llm, "llm"), projector.device, llm_dtype, tokenizer, llm_config)
    made = projector.config.trained_for["target"]
    if targets:
        frozen.require_table(targets)
        table_VE = torch.from_numpy(targets.table)
    else:
        _require_trained_table(projector, frozen, llm)
        table_VE = frozen.input_table(made["vocabulary"])
    load_adapter(frozen, projector)
    return llm_readout(frozen, Head(projector.config, table_VE, made["pad_id"], projector.device), max_new_tokens)


def llm_readout(llm: FrozenLLM, head: Head, max_new_tokens: int = MAX_NEW_TOKENS) -> Readout:
    """Greedy answers of a loaded LLM to what the head gives it."""

    def answers(projected: Projected, instructions: Sequence[Instruction]) -> list[Output]:
        prompts = [llm.prompter.write(instruction) for instruction in instructions]
        return llm.answers(*head.inputs(projected), prompts, max_new_tokens)

    def shown(instruction: Instruction) -> str:
        return llm.prompter.shown(llm.prompter.write(instruction))

    return Readout(GENERATED, head, answers, shown, llm.prompter.template(), llm, max_new_tokens)


def require_search(search: BeamSearch, config: ProjectorConfig, llm: str | None) -> None:
    """Check that a projector can be read by beam search.

    Raises:
        ConfigError: it is not read as CTC, an LLM writes the text, or a hotword has nothing to find.
    """
    if config.readout != "ctc":
        raise ConfigError(
            f"--beam, --hotwords: they read projectors of the objective ctc-embedding, and this one is read by "
            f"{config.readout}; leave them out"
        )
    if llm is not None:
        raise ConfigError(f"--beam, --hotwords: here the LLM ({llm}) writes the text; leave them out, or the LLM")
    if search.hotwords is not None:
        search.hotwords.normalised(_normalizer(config))


def nearest_readout(projector: Projector, targets: TargetSet | None, search: BeamSearch | None = None) -> Readout:
    """The nearest rows of the embedding table the projector was trained for, or its texts by beam search."""
    made = projector.config.trained_for["target"]
    if targets:
        table, tokenizer = targets.table, load_stored_tokenizer(targets)
    else:
        name = model_name({"id": made["llm"], "revision": made["revision"]})
        what = "the embedding table of this LLM, by which the run reads vectors,"
        with recorded_model(name, what, "put the LLM back there, or let one generate the text with --llm"):
            loaded = load_llm_table(name)
        table, tokenizer = loaded.table_VE, loaded.tokenizer
    head = Head(projector.config, table, made["pad_id"], projector.device)
    nearest = NearestToken(tokenizer, made["pad_id"])
    if search is None:
        return Readout(
            NEAREST, head, lambda projected, _: _unwritten(nearest.texts(head.token_ids(projected))), lambda _: None
        )
    bonus, width = NO_HOTWORDS, search.width
    if search.hotwords is not None:
        bonus = HotwordBonus(search.hotwords.normalised(_normalizer(projector.config)), tokenizer, search.weight)

    def answers(projected: Projected, _: Sequence[Instruction]) -> list[Output]:
        found = [beam_search(top, width, bonus)[0] for top in head.top_tokens(projected, TOP_TOKENS)]
        return _unwritten(nearest.texts([best.tokens for best in found]))

    return Readout(SEARCHED, head, answers, lambda _: None)


def _unwritten(texts: Sequence[str]) -> list[Output]:
    """Texts that no LLM wrote."""
    return [Output(text) for text in texts]


def _normalizer(config: ProjectorConfig) -> str:
    """The text normaliser of the transcripts that a projector was trained on."""
    return str(config.trained_for.get("target", {}).get("normalizer", NORMALIZER))


def _require_trained_table(projector: Projector, frozen: FrozenLLM, llm: str) -> None:
    """Check that the LLM has the embedding table the projector was trained for.

    Raises:
        ModelError: another table.
    """
    trained = projector.config.trained_for["target"]
    if frozen.table_sha256(trained["vocabulary"]) == trained["table_sha256"]:
        return
    # Loaded in a narrower dtype than the checkpoint's, the same table has other numbers: the files decide.
    if table_sha256(load_llm_table(llm).table_VE) != trained["table_sha256"]:
        raise ModelError(
            f"--llm {llm}: its input embeddings are not those this projector was trained for (made from "
            f"{trained['llm']}); name that LLM"
        )
