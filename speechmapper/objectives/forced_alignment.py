"""Which position says which token, by the best CTC path through the true tokens (Viterbi).

    tokens     the  dog  dog
    path       -    the  the  -    dog  -    dog  -         of all paths that collapse to the tokens, the best
    labels     -1   0    0    -1   1    -1   2    -1        the token of each position, -1 for the blank

A path takes one label per position, so scores need not be normalised over the vocabulary: adding a constant to all
labels of a position changes no choice, and only the scores of an utterance's own tokens and of the blank are needed.

The path runs through states blank, token 0, blank, token 1, ..., blank. From one position to the next it stays, goes to
the next state, or from a token to another token, without the blank between them. Equal tokens need that blank.

Shapes: B batch, U positions, N tokens, S = 2 N + 1 states.
"""

from __future__ import annotations

import torch

NO_PATH = float("-inf")


@torch.no_grad()
def forced_alignment(
    scores_BUN: torch.Tensor,
    blank_BU: torch.Tensor,
    token_ids_BN: torch.Tensor,
    positions_B: torch.Tensor,
    tokens_B: torch.Tensor,
) -> torch.Tensor:
    """The number of the token that each position says, (B, U), int64.

    It is -1 where the position is a blank or beyond an utterance's length, and everywhere in an utterance that no path
    fits (more tokens, and blanks between equal ones, than positions). Every token of the others has a position.

    Args:
        scores_BUN: of each token at each position, up to a constant per position; blank_BU: of the blank.
        positions_B, tokens_B: lengths; what lies beyond them is not read.
    """
    emitted_BUS = _by_state(scores_BUN, blank_BU)
    may_skip_BS = _may_skip(token_ids_BN)
    best_BS = emitted_BUS[:, 0].clone()
    best_BS[:, 2:] = NO_PATH
    steps_UBS = [torch.zeros_like(best_BS, dtype=torch.long)]
    for position in range(1, emitted_BUS.shape[1]):
        skipped_BS = _shifted(best_BS, 2).masked_fill(~may_skip_BS, NO_PATH)
        reached_BS, step_BS = torch.stack([best_BS, _shifted(best_BS, 1), skipped_BS]).max(dim=0)
        inside_B1 = (position < positions_B)[:, None]
        best_BS = torch.where(inside_B1, reached_BS + emitted_BUS[:, position], best_BS)
        steps_UBS.append(torch.where(inside_B1, step_BS, 0))
    last_B = _last_state(best_BS, tokens_B)
    fits_B = (best_BS.gather(1, last_B[:, None])[:, 0] > NO_PATH) & (positions_B > 0)
    state_UB = [last_B]
    for step_BS in steps_UBS[:0:-1]:
        state_UB.append(state_UB[-1] - step_BS.gather(1, state_UB[-1][:, None])[:, 0])
    state_BU = torch.stack(state_UB[::-1], dim=1)
    valid_BU = torch.arange(state_BU.shape[1], device=state_BU.device)[None, :] < positions_B[:, None]
    says_BU = valid_BU & fits_B[:, None] & (state_BU % 2 == 1)
    return torch.where(says_BU, state_BU // 2, -1)


def _by_state(scores_BUN: torch.Tensor, blank_BU: torch.Tensor) -> torch.Tensor:
    """Scores of the states: blank, token 0, blank, token 1, ..., blank; (B, U, S), float32."""
    batch, size, tokens = scores_BUN.shape
    emitted_BUS = blank_BU[:, :, None].float().expand(batch, size, 2 * tokens + 1).clone()
    emitted_BUS[:, :, 1::2] = scores_BUN.float()
    return emitted_BUS


def _may_skip(token_ids_BN: torch.Tensor) -> torch.Tensor:
    """Whether a state can be reached from the last but one: tokens that differ from the token before; (B, S)."""
    batch, tokens = token_ids_BN.shape
    may_skip_BS = token_ids_BN.new_zeros((batch, 2 * tokens + 1), dtype=torch.bool)
    may_skip_BS[:, 3::2] = token_ids_BN[:, 1:] != token_ids_BN[:, :-1]
    return may_skip_BS


def _shifted(best_BS: torch.Tensor, by: int) -> torch.Tensor:
    """The value of the state `by` before each."""
    return torch.nn.functional.pad(best_BS, (by, 0), value=NO_PATH)[:, : best_BS.shape[1]]


def _last_state(best_BS: torch.Tensor, tokens_B: torch.Tensor) -> torch.Tensor:
    """Where each utterance's best path ends: in its last token or the blank after it; (B,)."""
    blank_B, token_B = 2 * tokens_B, (2 * tokens_B - 1).clamp(min=0)
    blank_is_better_B = best_BS.gather(1, blank_B[:, None]) > best_BS.gather(1, token_B[:, None])
    return torch.where(blank_is_better_B[:, 0], blank_B, token_B)
