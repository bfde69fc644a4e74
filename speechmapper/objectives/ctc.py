"""Connectionist temporal classification over an LLM's vocabulary, scored by its own embedding table.

    `ctc`             after block 1: a linear layer to E, then its dot product with the rows: an auxiliary loss
                      for the first block, not saved with the projector (arXiv 2607.01960)
    `ctc-embedding`   the vectors themselves: -||v - e||^2 to every row and to a learned blank (DirectSpeech2LLM)

So a vocabulary of 128 k rows needs no classifier of its own. With a commitment (`ctc-embedding+commitment`) vectors
are also drawn to the rows they are read as (`commitment.py`); with a smaller vocabulary rare tokens are spelled with
frequent ones (`respelling.py`). An utterance whose text cannot be aligned (more tokens
and repetitions of a token than positions) has no loss; `NAME_unaligned` is the share of such utterances.

Shapes: B batch, T positions, P valid positions of a batch, N tokens, K columns, V vocabulary, E LLM width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from sm_store import Geometry
from sm_store.errors import ConfigError
from speechmapper.objectives.base import Answers, Part, mean
from speechmapper.objectives.commitment import clamped, commitment
from speechmapper.objectives.respelling import Respelling
from speechmapper.objectives.vocabulary import Rows, Vocabulary, distance_rows
from speechmapper.projector import Projected, num_outputs

COMMITMENT = "commitment"


def needed_positions(answers: Answers) -> torch.Tensor:
    """The fewest positions each text can be aligned with: its tokens, and a blank between equal neighbours; (B,)."""
    ids_BN = answers.token_ids_BN
    position_1N = torch.arange(1, ids_BN.shape[1], device=ids_BN.device)[None, :]
    repeated_BN = (ids_BN[:, 1:] == ids_BN[:, :-1]) & (position_1N < answers.tokens_B[:, None])
    return answers.tokens_B + repeated_BN.sum(dim=1)


@dataclass(frozen=True, slots=True)
class Scored:
    """What CTC found for a batch.

    Attributes:
        loss_B: negative log-likelihood of each text, 0 where it cannot be aligned; aligned_B: whether it can.
        tokens_B: tokens of each text, as they are learned.
        log_BTK: log-probabilities of the columns: the batch's own tokens `ids_K`, ascending, and the blank last.
        valid_BT: the positions that there are.
    """

    loss_B: torch.Tensor
    aligned_B: torch.Tensor
    tokens_B: torch.Tensor
    log_BTK: torch.Tensor
    valid_BT: torch.Tensor
    ids_K: torch.Tensor


class CTC(Part):
    """Negative log-likelihood of the texts per token; subclasses define what is scored, and by which rows.

    Args:
        name: of its figures. vocabulary: the embedding table. respelling: of rare tokens; None: no token is respelled.
    """

    def __init__(self, name: str, vocabulary: Vocabulary, respelling: Respelling | None = None) -> None:
        super().__init__()
        self.name, self._vocabulary, self._respelling = name, vocabulary, respelling

    def positions(self, answers: Answers) -> torch.Tensor:
        """Number of valid positions of each utterance, (B,), from the answers alone."""
        raise NotImplementedError

    def queries(self, projected: Projected) -> torch.Tensor:
        """The vector that is scored at each position, (B, T, E)."""
        raise NotImplementedError

    def rows(self, projected: Projected) -> Rows:
        """The rows that tokens are scored by, of the whole table."""
        raise NotImplementedError

    def blank(self, projected: Projected) -> tuple[torch.Tensor, torch.Tensor]:
        """Row (E,) and bias () of the blank."""
        raise NotImplementedError

    def spelled(self, answers: Answers) -> Answers:
        """The answers with the tokens that are learned."""
        return answers if self._respelling is None else self._respelling(answers)

    def aligned(self, answers: Answers) -> torch.Tensor:
        """Which texts have at most as many tokens and repetitions as positions, (B,), bool."""
        return needed_positions(self.spelled(answers)) <= self.positions(answers)

    def counts(self, answers: Answers) -> dict[str, torch.Tensor]:
        tokens = (self.spelled(answers).tokens_B * self.aligned(answers)).sum().float()
        return {self.name: tokens, f"{self.name}_unaligned": torch.ones_like(answers.tokens_B).sum().float()}

    def forward(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        scored = self.scored(projected, answers)
        unaligned = (~scored.aligned_B).sum().float()
        return {self.name: scored.loss_B.sum(), f"{self.name}_unaligned": unaligned}

    def scored(self, projected: Projected, answers: Answers) -> Scored:
        """The loss of each utterance and what it was computed from."""
        queries_BTE, positions_B, aligned_B = self.queries(projected), self.positions(answers), self.aligned(answers)
        answers = self.spelled(answers)
        valid_BT = torch.arange(queries_BTE.shape[1], device=positions_B.device)[None, :] < positions_B[:, None]
        is_token_BN = torch.arange(answers.token_ids_BN.shape[1], device=positions_B.device) < answers.tokens_B[:, None]
        log_PK, own_K = self._vocabulary.log_probs(
            queries_BTE[valid_BT], answers.token_ids_BN[is_token_BN], self.rows(projected), self.blank(projected)
        )
        log_BTK = log_PK.new_zeros(*valid_BT.shape, log_PK.shape[-1]).masked_scatter(valid_BT[..., None], log_PK)
        targets_BN = torch.where(is_token_BN, torch.searchsorted(own_K, answers.token_ids_BN), 0)
        loss_B = F.ctc_loss(
            log_BTK.transpose(0, 1),
            targets_BN,
            positions_B,
            answers.tokens_B,
            blank=len(own_K),
            reduction="none",
            zero_infinity=True,
        )
        return Scored(loss_B * aligned_B, aligned_B, answers.tokens_B, log_BTK, valid_BT, own_K)

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return mean(sums, counts, self.name)


class AuxiliaryCTC(CTC):
    """After block 1; its layer and blank are parameters of its own. Names: `ctc`, `ctc_unaligned`.

    Args:
        hidden_size: width of block 1's output. frames_to_hidden: of its convolution.
    """

    def __init__(self, vocabulary: Vocabulary, hidden_size: int, frames_to_hidden: Geometry) -> None:
        super().__init__("ctc", vocabulary)
        width = vocabulary.table_VE.shape[1]
        self.linear = nn.Linear(hidden_size, width)
        self.blank_E = nn.Parameter(torch.zeros(width))
        self._geometry = frames_to_hidden
        self._unit = vocabulary.row_scale**0.5

    def positions(self, answers: Answers) -> torch.Tensor:
        return num_outputs(answers.frames_B, self._geometry)

    def queries(self, projected: Projected) -> torch.Tensor:
        queries_BTE: torch.Tensor = self.linear(projected.hidden_BTC)
        return queries_BTE

    def rows(self, projected: Projected) -> Rows:
        table_VE = self._vocabulary.table_VE
        return Rows(table_VE, table_VE.new_zeros(len(table_VE)), 1 / self._unit)

    def blank(self, projected: Projected) -> tuple[torch.Tensor, torch.Tensor]:
        return self.blank_E * self._unit, self.blank_E.new_zeros(())


class EmbeddingCTC(CTC):
    """On the vectors; the blank is the projector's. Names: `ctc-embedding`, `ctc-embedding_unaligned`, and `commitment`
    where that has a weight.

    Args:
        temperature: of the squared distance over the rows' mean squared norm, where the projector learns none; two
            random rows are about 2 apart.
        commitment_weight: of the commitment; None: there is none.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        temperature: float,
        commitment_weight: float | None = None,
        respelling: Respelling | None = None,
    ) -> None:
        super().__init__("ctc-embedding", vocabulary, respelling)
        self._temperature, self._commitment_weight = temperature, commitment_weight

    def counts(self, answers: Answers) -> dict[str, torch.Tensor]:
        counts = super().counts(answers)
        return counts if self._commitment_weight is None else {**counts, COMMITMENT: counts[self.name]}

    def forward(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        if self._commitment_weight is None:
            return super().forward(projected, answers)
        scored, vocabulary = self.scored(projected, answers), self._vocabulary
        rows_KE = vocabulary.table_VE[scored.ids_K]
        distance_B = commitment(projected.vectors_BUE, scored.log_BTK, scored.valid_BT, rows_KE, vocabulary.row_scale)
        per_token_B = clamped(distance_B, scored.loss_B / scored.tokens_B.clamp(min=1))
        return {
            self.name: scored.loss_B.sum(),
            f"{self.name}_unaligned": (~scored.aligned_B).sum().float(),
            COMMITMENT: (per_token_B * scored.tokens_B * scored.aligned_B).sum(),
        }

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        loss = super().combine(sums, counts)
        return loss + (self._commitment_weight * mean(sums, counts, COMMITMENT) if self._commitment_weight else 0)

    def positions(self, answers: Answers) -> torch.Tensor:
        return answers.vectors_B

    def queries(self, projected: Projected) -> torch.Tensor:
        return projected.vectors_BUE

    def rows(self, projected: Projected) -> Rows:
        return distance_rows(self._vocabulary.table_VE, self._vocabulary.norms_V, self._unit(projected))

    def blank(self, projected: Projected) -> tuple[torch.Tensor, torch.Tensor]:
        if projected.blank_E is None:
            raise ConfigError("objective ctc-embedding: this projector has no blank; train stage 1 with it")
        blank_E = projected.blank_E.float()
        return blank_E, -blank_E.square().sum() / self._unit(projected)

    def _unit(self, projected: Projected) -> float | torch.Tensor:
        """What squared distances are divided by: with the projector's temperature where it learns one."""
        temperature = self._temperature if projected.temperature is None else projected.temperature
        return temperature * self._vocabulary.row_scale
