"""Stage 1 objectives: what the projector's vectors are measured against, one small module each."""

from speechmapper.objectives.base import Answers, Objective, Part

__all__ = ["Answers", "Objective", "Part"]
