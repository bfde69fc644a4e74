"""Stage 1 objectives: losses between the projector's vectors and the text, one module for each part."""

from speechmapper.objectives.base import Answers, Objective, Part

__all__ = ["Answers", "Objective", "Part"]
