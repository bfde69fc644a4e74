"""From a projector's vectors to what an LLM is given for them, and to the tokens they say.

    head         the LLM is given                                          distance to the table's rows
    vectors      every vector, as it is (arXiv 2601.20417); with `trim`    as trained
                 those before the first that is nearest to the pad
    segments     the mean vector of each unit                              as trained
    rows         each unit as a mixture of the table's rows                none: inside their convex hull
    tokens       the nearest row of each unit                              none: a cascade of recogniser and LLM
    cif          each unit's vectors, pooled by firing weights             as trained

A unit is what the projector says one token with (`units.py`); the mixture's weights are a softmax of the distances to
all rows (`rows.py`), averaged over the unit. A projector has one head, recorded in its config. Nearest-token reading,
stage 2, evaluation and the model all take tokens and inputs from here; gradients flow through every head but `tokens`.

    head = Head(projector.config, table_VE, pad_id, device)
    head.token_ids(projected)      [[284, 1123], [51]]
    head.inputs(projected)         (B, N, E) and its lengths (B,): what to put between the two parts of a prompt

Shapes: B batch, U projector vectors, N units, P valid vectors of a batch, V vocabulary, E LLM width.
"""

from __future__ import annotations

import numpy as np
import torch

from speechmapper.heads.rows import TableRows, TopTokens
from speechmapper.heads.units import Units, fired_units, run_units, single_units, with_rest_first
from speechmapper.projector import Projected, ProjectorConfig, valid_positions

BLANK = -1  # the label of positions that say nothing


class Head:
    """Reads projected batches by the embedding table of their LLM.

    Args:
        config: of the projector: `head`, `readout` and the settings of `rows`.
        table_VE: the LLM's input embeddings, as its layers receive them; kept in float32.
        pad_id: the row that means "no more text"; -1: no row does.
    """

    def __init__(
        self, config: ProjectorConfig, table_VE: np.ndarray | torch.Tensor, pad_id: int, device: torch.device
    ) -> None:
        self._config, self._pad_id = config, pad_id
        self._rows = TableRows(table_VE, device)

    @property
    def table_VE(self) -> torch.Tensor:
        """The rows, float32, on the device."""
        return self._rows.table_VE

    def token_ids(self, projected: Projected) -> list[list[int]]:
        """The tokens each utterance says.

        By readout `nearest` the nearest row of each vector, pads included; by `ctc` and `cif` those of the units.
        """
        if self._config.readout == "nearest":
            ids_BN, counts_B = self._labels(projected), projected.vectors_B
        else:
            units, ids_BN = self._units(projected)
            counts_B = units.units_B
        return [ids_N[:count] for ids_N, count in zip(ids_BN.tolist(), counts_B.tolist(), strict=True)]

    def top_tokens(self, projected: Projected, count: int) -> list[TopTokens]:
        """The `count` most probable tokens of each vector and the blank, for each utterance, on the CPU.

        By the softmax of distances that `ctc-embedding` trains. Raises ValueError: not of readout `ctc`.
        """
        if projected.blank_E is None:
            raise ValueError(f"readout {self._config.readout}: only a projector of readout ctc has a blank")
        valid_BU = valid_positions(projected.vectors_B, projected.vectors_BUE.shape[1])
        found = self._rows.log_probs_top(
            projected.vectors_BUE[valid_BU], projected.blank_E, self._ctc_temperature(projected), count
        )
        sizes = projected.vectors_B.tolist()
        parts = (each.cpu().split(sizes) for each in (found.ids_PK, found.log_probs_PK, found.blank_P))
        return [TopTokens(*utterance) for utterance in zip(*parts, strict=True)]

    def inputs(self, projected: Projected) -> tuple[torch.Tensor, torch.Tensor]:
        """What the LLM is given: (B, N, E), zero beyond each utterance's length, and the lengths (B,), int64.

        An utterance that says nothing has the length 0, by head `vectors` at least 1.
        """
        if self._config.head == "vectors":
            if not self._trims:
                return projected.vectors_BUE, projected.vectors_B
            given_B = self._kept(projected)
            given_BU = valid_positions(given_B, projected.vectors_BUE.shape[1])
            return projected.vectors_BUE * given_BU[..., None], given_B
        units, ids_BN = self._units(projected)
        if self._config.head == "tokens":
            return self._rows_of(ids_BN), units.units_B
        if self._config.blanks == "first" and self._config.readout == "ctc":
            valid_BU = valid_positions(projected.vectors_B, projected.vectors_BUE.shape[1])
            units = with_rest_first(units, valid_BU & (units.weights_BNU.sum(dim=1) == 0))
        return self.of_units(projected, units), units.units_B

    def padded_inputs(self, projected: Projected) -> torch.Tensor:
        """The inputs of the units, then the pad token's row up to the number of vectors; (B, U, E), float32.

        For comparison with the target embeddings, so zero beyond each utterance's vectors. By head `vectors` these are
        the vectors, but for those that are trimmed.
        """
        size = projected.vectors_BUE.shape[1]
        if self._config.head == "vectors":
            if not self._trims:
                return projected.vectors_BUE.float()
            trimmed_BU = valid_positions(projected.vectors_B, size) & ~valid_positions(self._kept(projected), size)
            return torch.where(trimmed_BU[..., None], self.table_VE[self._pad_id], projected.vectors_BUE.float())
        units, ids_BN = self._units(projected)
        given_BNE = self._rows_of(ids_BN) if self._config.head == "tokens" else self.of_units(projected, units)
        given_BUE = torch.nn.functional.pad(given_BNE, (0, 0, 0, size - given_BNE.shape[1]))
        said_BU = valid_positions(units.units_B, size)
        padded_BUE = torch.where(said_BU[..., None], given_BUE, self.table_VE[self._pad_id])
        return padded_BUE * valid_positions(projected.vectors_B, size)[..., None]

    def of_units(self, projected: Projected, units: Units, rows_K: torch.Tensor | None = None) -> torch.Tensor:
        """What the LLM is given for units that are known: mixtures by head `rows`, else means; (B, N, E), float32.

        Args:
            rows_K: the rows that are mixed; None: all.
        """
        vectors_BUE = projected.vectors_BUE.float()
        if self._config.head != "rows":
            return units.weights_BNU @ vectors_BUE
        rows = self._rows if rows_K is None else self._rows.pick(rows_K)
        if projected.firing_BU is not None:  # trained so that the pooled vectors are near rows, not each of them
            said_BN = valid_positions(units.units_B, units.weights_BNU.shape[1])
            return self._mixed(projected, rows, units.weights_BNU @ vectors_BUE, said_BN)
        return units.weights_BNU @ self._mixed(projected, rows, vectors_BUE, units.weights_BNU.sum(dim=1) > 0)

    @property
    def _trims(self) -> bool:
        return bool(self._config.trim) and self._config.readout == "nearest"

    def _kept(self, projected: Projected) -> torch.Tensor:
        """How many vectors are left when they are trimmed, (B,), int64.

        Those before the first that is nearest to the pad's row. One is kept even so: a recording that is all
        pads would else get no gradient from the LLM, and would not be learned.
        """
        pad_BU = self._labels(projected) == self._pad_id
        position_U = torch.arange(pad_BU.shape[1], device=pad_BU.device)
        first_B = torch.where(pad_BU, position_U, pad_BU.shape[1]).amin(dim=1)
        return torch.minimum(first_B.clamp(min=1), projected.vectors_B)

    def _labels(self, projected: Projected) -> torch.Tensor:
        """The nearest row of each vector, (B, U), int64; BLANK where the blank is nearer, and beyond each length."""
        valid_BU = valid_positions(projected.vectors_B, projected.vectors_BUE.shape[1])
        nearest_P = self._rows.nearest(projected.vectors_BUE[valid_BU], projected.blank_E)
        return torch.full(valid_BU.shape, BLANK, device=nearest_P.device).masked_scatter(valid_BU, nearest_P)

    def _units(self, projected: Projected) -> tuple[Units, torch.Tensor]:
        """The units of a batch and the token that each says, (B, N), int64; BLANK beyond each utterance's units."""
        if projected.firing_BU is not None:
            units = fired_units(projected.firing_BU)
            said_BN = valid_positions(units.units_B, units.weights_BNU.shape[1])
            pooled_BNE = units.weights_BNU @ projected.vectors_BUE.float()
            nearest_P = self._rows.nearest(pooled_BNE[said_BN])
            return units, torch.full(said_BN.shape, BLANK, device=nearest_P.device).masked_scatter(said_BN, nearest_P)
        labels_BU = self._labels(projected)
        if projected.blank_E is None:
            labels_BU = labels_BU.masked_fill(labels_BU == self._pad_id, BLANK)
            units = single_units(labels_BU)
        else:
            units = run_units(labels_BU)
        members_BNU = torch.where(units.weights_BNU > 0, labels_BU[:, None, :], BLANK)
        return units, members_BNU.amax(dim=2)

    def _mixed(
        self, projected: Projected, rows: TableRows, vectors_BNE: torch.Tensor, chosen_BN: torch.Tensor
    ) -> torch.Tensor:
        """Mixtures of rows for the chosen vectors, zero for the others."""
        mixed_PE = rows.mixed(vectors_BNE[chosen_BN], self._rows_temperature(projected), self._config.rows_top_k)
        return torch.zeros_like(vectors_BNE).masked_scatter(chosen_BN[..., None], mixed_PE)

    def _rows_temperature(self, projected: Projected) -> float | torch.Tensor:
        """Of the mixtures' softmax."""
        config = self._config
        if projected.temperature is None:
            return config.rows_temperature
        return projected.temperature * (config.rows_temperature / config.ctc_temperature)

    def _ctc_temperature(self, projected: Projected) -> float | torch.Tensor:
        """Of the softmax of distances: the one learned, else the config's."""
        return self._config.ctc_temperature if projected.temperature is None else projected.temperature

    def _rows_of(self, ids_BN: torch.Tensor) -> torch.Tensor:
        """The table's row of each token, (B, N, E); zero for BLANK."""
        return self.table_VE[ids_BN.clamp(min=0)] * (ids_BN >= 0)[..., None]
