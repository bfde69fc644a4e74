"""Learning rate as a pure function of the step: a resumed run needs no scheduler state.

    step      0 ........ warmup ..................... steps
    factor    linear to 1        cosine to 0, or constant 1

The paper: 100 K warm-up steps, then a cosine to step 2 M in stage 1; constant in stage 2.
"""

from __future__ import annotations

import math

from speechmapper.config import ScheduleConfig


def lr_factor(step: int, schedule: ScheduleConfig) -> float:
    """The factor on the peak learning rate for step `step`, counted from 0; above 0 for every step."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    if schedule.shape == "constant":
        return 1.0
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
