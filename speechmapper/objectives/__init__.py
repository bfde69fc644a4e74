"""Stage 1 objectives: what the projector's vectors are measured against, one small module each."""

from speechmapper.objectives.base import Objective, Terms
from speechmapper.objectives.mse import WeightedMSE

__all__ = ["Objective", "Terms", "WeightedMSE"]
