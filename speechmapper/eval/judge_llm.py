"""An LLM as a judge: how likely it finds it that its answer to a question is yes rather than no.

    judge = load_judge("meta-llama/Llama-3.1-8B-Instruct", "auto")
    judge.probabilities([("You check answers to questions.", "Question: Who slept? ...")])      [0.93]

One forward pass per question: the probabilities of the token that would come next, of all tokens that say yes ("yes",
" Yes", "YES", ...) over those of all tokens that say yes or no. Nothing is generated, so no answer can fail to parse.

Shapes: B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sm_pipeline.console import progress
from sm_pipeline.devices import choose_device
from sm_pipeline.models.source import ModelSource
from sm_store.errors import ModelError
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.prompting import special_ids

TOKENS_OF_A_BATCH = 8192  # after padding; a few gigabytes for an LLM of 8 billion parameters
SPACES = "ĠĊ▁ \t\n"  # how tokenizers write white space in a token


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer of a judge.

    Attributes:
        yes: probability of yes, over yes and no. said: probability of either, over the whole vocabulary; a judge that
            would say something else does not answer the question.
    """

    yes: float
    said: float


@dataclass(frozen=True, slots=True)
class Judge:
    """A judge that is loaded, with the tokens that mean yes and no to it."""

    llm: FrozenLLM
    yes_ids: Sequence[int]
    no_ids: Sequence[int]

    def verdicts(self, questions: Sequence[tuple[str, str]], name: str = "judge") -> list[Verdict]:
        """The answers to questions, each the system turn and the user turn.

        Args:
            name: of the judge, on the progress bar.
        """
        prompts = [self.llm.prompter.text_ids(system, user) for system, user in questions]
        order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
        found: dict[int, Verdict] = {}
        with progress(len(order), f"judging by {name}", "answers") as bar:
            while order:
                rows = order[: max(1, TOKENS_OF_A_BATCH // len(prompts[order[0]]))]
                order = order[len(rows) :]
                logits_BV = self.llm.next_token_logits([prompts[row] for row in rows])
                found.update(zip(rows, self._read(logits_BV), strict=True))
                bar.advance(len(rows))
        return [found[row] for row in range(len(prompts))]

    def _read(self, logits_BV: torch.Tensor) -> list[Verdict]:
        log_BV = logits_BV.log_softmax(dim=-1)
        yes_B, no_B = (log_BV[:, list(ids)].logsumexp(dim=-1) for ids in (self.yes_ids, self.no_ids))
        shares_B, said_B = torch.sigmoid(yes_B - no_B), torch.logaddexp(yes_B, no_B).exp()
        return [Verdict(yes, said) for yes, said in zip(shares_B.tolist(), said_B.tolist(), strict=True)]


def load_judge(source: ModelSource, device: str, words: tuple[str, str] = ("yes", "no")) -> Judge:
    """Load the LLM of a judge, in the precision that suits the device.

    Args:
        words: what it answers to agree and to disagree.

    Raises:
        ModelError: no causal LM, or one whose tokenizer has no token for one of the words.
    """
    try:
        llm = load_llm(source, choose_device(device))
    except ModelError as error:
        raise ModelError(str(error).replace("--llm", "--judge", 1)) from error
    yes_ids, no_ids = (word_ids(llm.tokenizer, word) for word in words)
    for word, ids in zip(words, (yes_ids, no_ids), strict=True):
        if not ids:
            raise ModelError(f"--judge {source.id}: its tokenizer has no token for {word!r}; choose another judge")
    return Judge(llm, yes_ids, no_ids)


def word_ids(tokenizer: Any, word: str) -> list[int]:
    """Every token that is this word alone, in any case, with white space around it or without; in rising order."""
    special = special_ids(tokenizer)
    alike = [
        token
        for piece, token in tokenizer.get_vocab().items()
        if piece.strip(SPACES).lower() == word and token not in special
    ]
    return sorted(token for token in alike if tokenizer.decode([token]).strip().lower() == word)
