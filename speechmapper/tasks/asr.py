"""Speech recognition: the LLM repeats what is said; word and character error rate.

{"reference": "The dog ran.", "output": "the dog ran"}  ->  {"wer": 0.0, "cer": 0.0, "utterances": 1, ...}
"""

from __future__ import annotations

from sm_pipeline.text import NORMALIZER, normalise
from sm_store import Fields
from speechmapper.tasks.base import Item, Task


class SpeechRecognition(Task):
    """Repeat the speech; the answer to learn is the normalised transcript.

    Args:
        normalizer: name of the text normaliser of answers and scores.
    """

    name: str = "asr"
    transcript: bool = True
    scored_by: str = "wer"
    answers_in_language: bool = True

    def __init__(self, normalizer: str = NORMALIZER) -> None:
        self.normalizer = normalizer

    def items(self, fields: Fields) -> list[Item]:
        """The transcript; every utterance has one."""
        return [Item(fields.text)]

    def answer(self, item: Item) -> str:
        """The normalised transcript."""
        return normalise(item.reference, self.normalizer)

    def cleaned(self, output: str) -> str:
        """The transcript without one double quote at its start or end that has no partner: one of the prompt's."""
        text = output.strip()
        if text.count('"') % 2 == 0:
            return text
        return (text[1:] if text.startswith('"') else text.removesuffix('"')).strip()
