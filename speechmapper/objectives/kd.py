"""Distillation of an LLM's first layers: the speech should come out of them as the text does.

    text     the  dog  ran      table rows                 -> layers 1..k -> norm -> lm_head -> softmax p, no gradient
    speech   v0   v1   v2       one vector per token       -> the same                       -> softmax q

    L = sum over tokens of KL(p || q), per token

(arXiv 2609.18516, with k = 1 for recognition and about a third of the layers for translation.) Each utterance's tokens
are alone, without a prompt, at positions 0, 1, ...; the temperature is 1. So a vector is drawn to where the LLM makes
the same of it as of its token, given the tokens before.

The speech has one vector per token, made as the projector's head makes it (mixtures of rows by `rows`, else means).
With `objective.negatives`, the rows mixed are those of the batch's tokens and so many drawn at random, as in CTC. Which
positions are a token's is known from the text:

    readout nearest      position i is token i
    readout ctc          the best CTC path through the true tokens (`forced_alignment.py`)
    readout cif          dynamic time warping (`dtw.py`); the vectors are pooled by their firing weights

A text that fits no path has no loss and is counted in `kd_unaligned`, as in CTC. The scores of all tokens against the
vocabulary are never held: they are computed for some tokens at a time, and with them the gradient, q - p.

Shapes: B batch, U projector vectors, N tokens, P tokens of a batch, V rows of the LLM's output, E LLM width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from sm_store.errors import ConfigError
from speechmapper.first_layers import FirstLayers
from speechmapper.heads import Head
from speechmapper.heads.units import Units, run_units
from speechmapper.objectives.base import Answers, Part, mean
from speechmapper.objectives.ctc import needed_positions
from speechmapper.objectives.dtw import warped
from speechmapper.objectives.forced_alignment import forced_alignment
from speechmapper.objectives.respelling import Respelling
from speechmapper.objectives.vocabulary import CHUNK_SCORES, Vocabulary
from speechmapper.projector import Projected, valid_positions


class FirstLayersDistillation(Part):
    """Names: `kd`, `kd_unaligned`.

    Args:
        layers: frozen, and no part of the module. head: of the projector. vocabulary: its table's rows.
        readout: of the projector: which positions are which token's. respelling: of rare tokens, as in its CTC.
    """

    def __init__(
        self,
        layers: FirstLayers,
        head: Head,
        vocabulary: Vocabulary,
        readout: str,
        respelling: Respelling | None = None,
    ) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self._layers, self._head, self._respelling = layers, head, respelling
        self._align, self._needs_blanks = ALIGNMENTS[readout], readout == "ctc"

    def aligned(self, answers: Answers) -> torch.Tensor:
        """Which texts have enough vectors, (B,), bool."""
        answers = self._spelled(answers)
        needed_B = needed_positions(answers) if self._needs_blanks else answers.tokens_B
        return needed_B <= answers.vectors_B

    def counts(self, answers: Answers) -> dict[str, torch.Tensor]:
        tokens = (self._spelled(answers).tokens_B * self.aligned(answers)).sum().float()
        return {"kd": tokens, "kd_unaligned": torch.ones_like(answers.tokens_B).sum().float()}

    def forward(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        with torch.autocast(projected.vectors_BUE.device.type, enabled=False):
            return self._sums(projected, answers)

    def combine(self, sums: Mapping[str, torch.Tensor], counts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return mean(sums, counts, "kd")

    def _sums(self, projected: Projected, answers: Answers) -> dict[str, torch.Tensor]:
        aligned_B, answers = self.aligned(answers), self._spelled(answers)
        token_BU = self._align(projected, answers, self._head.table_VE).masked_fill(~aligned_B[:, None], -1)
        units = units_of(projected, token_BU)
        said_BN = valid_positions(units.units_B, units.weights_BNU.shape[1])
        total = self._divergence(projected, answers, units, said_BN) if said_BN.any() else said_BN.sum().float()
        return {"kd": total, "kd_unaligned": (~aligned_B).sum().float()}

    def _spelled(self, answers: Answers) -> Answers:
        return answers if self._respelling is None else self._respelling(answers)

    def _divergence(self, projected: Projected, answers: Answers, units: Units, said_BN: torch.Tensor) -> torch.Tensor:
        text_BNE = self._head.table_VE[answers.token_ids_BN[:, : said_BN.shape[1]]]
        with torch.no_grad():
            text_PE = self._layers.hidden(text_BNE)[said_BN]
        rows_K = self._vocabulary.sample(answers.token_ids_BN[:, : said_BN.shape[1]][said_BN])
        speech_PE = self._layers.hidden(self._head.of_units(projected, units, rows_K))[said_BN]
        return divergence(text_PE, speech_PE, self._layers.output_VE)


def by_position(projected: Projected, answers: Answers, table_VE: torch.Tensor) -> torch.Tensor:
    """The token of each position, (B, U), int64: token i at position i, -1 after the text."""
    size = projected.vectors_BUE.shape[1]
    position_1U = torch.arange(size, device=answers.tokens_B.device)[None, :]
    return torch.where(valid_positions(answers.tokens_B, size), position_1U, -1)


def by_best_path(projected: Projected, answers: Answers, table_VE: torch.Tensor) -> torch.Tensor:
    """The token of each position, (B, U), int64, by the best CTC path; -1 at blanks and beyond."""
    if projected.blank_E is None:
        raise ConfigError("objective kd: this projector has no blank; train stage 1 with ctc-embedding")
    with torch.no_grad():
        vectors_BUE, blank_E = projected.vectors_BUE.float(), projected.blank_E.float()
        rows_BNE = table_VE[answers.token_ids_BN]
        # -||v - e||^2 / 2 up to a constant of v
        scores_BUN = vectors_BUE @ rows_BNE.transpose(1, 2) - rows_BNE.square().sum(dim=2)[:, None, :] / 2
        blank_BU = vectors_BUE @ blank_E - blank_E.square().sum() / 2
    return forced_alignment(scores_BUN, blank_BU, answers.token_ids_BN, projected.vectors_B, answers.tokens_B)


def by_warping(projected: Projected, answers: Answers, table_VE: torch.Tensor) -> torch.Tensor:
    """The token of each position, (B, U), int64, by dynamic time warping; -1 beyond."""
    return warped(projected.vectors_BUE.float(), table_VE[answers.token_ids_BN], answers)


def units_of(projected: Projected, token_BU: torch.Tensor) -> Units:
    """The positions of each token, as units: equal weights, or by readout `cif` the firing weights over their sum."""
    units = run_units(token_BU)
    if projected.firing_BU is None:
        return units
    weights_BNU = (units.weights_BNU > 0) * projected.firing_BU[:, None, :]
    return Units(weights_BNU / weights_BNU.sum(dim=2, keepdim=True).clamp(min=1e-6), units.units_B)


Alignment = Callable[[Projected, Answers, torch.Tensor], torch.Tensor]
ALIGNMENTS: Mapping[str, Alignment] = {"nearest": by_position, "ctc": by_best_path, "cif": by_warping}  # by readout


def divergence(text_PE: torch.Tensor, speech_PE: torch.Tensor, output_VE: torch.Tensor) -> torch.Tensor:
    """Sum over positions of KL(softmax(text @ output) || softmax(speech @ output)): float32 scalar.

    Differentiable in `speech_PE` alone: the gradient at the logits is q - p, so it is computed here, and no scores are
    kept for the backward pass. At most CHUNK_SCORES of them are held at once.
    """
    total, gradients = torch.zeros((), device=speech_PE.device), []
    chunk = max(1, CHUNK_SCORES // len(output_VE))
    with torch.no_grad():
        for text_CE, speech_CE in zip(text_PE.split(chunk), speech_PE.split(chunk), strict=True):
            log_p_CV = (text_CE @ output_VE.T).float().log_softmax(dim=1)
            log_q_CV = (speech_CE @ output_VE.T).float().log_softmax(dim=1)
            p_CV = log_p_CV.exp()
            total = total + (p_CV * (log_p_CV - log_q_CV)).sum()
            gradients.append((log_q_CV.exp() - p_CV).to(output_VE.dtype) @ output_VE)
    linear = (speech_PE.float() * torch.cat(gradients).float()).sum()
    return total + (linear - linear.detach())
