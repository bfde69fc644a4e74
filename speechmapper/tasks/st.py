"""Speech translation: the LLM is asked, in the target language, for the translation alone; BLEU and chrF.

Fields("The dog slept.", 1.2, translation={"de": "Der Hund schlief.", "fr": "Le chien dormait."})
  -> [Item("Der Hund schlief.", language="de"), Item("Le chien dormait.", language="fr")]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sm_store import Fields
from speechmapper.measure.text import translation_scores
from speechmapper.tasks.base import Item, Task


class SpeechTranslation(Task):
    """Translate the speech into one of the languages the manifest has a translation in."""

    name: str = "st"
    needs: tuple[str, ...] = ("translation",)

    def items(self, fields: Fields) -> list[Item]:
        """One per language asked for, sorted by its code."""
        return [
            Item(text, language)
            for language, text in sorted((fields.translation or {}).items())
            if self.wants(language)
        ]

    def score(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`bleu`, `chrf`, their signatures, and `utterances`; all predictions are in one language."""
        languages = sorted({str(line.get("language")) for line in predictions})
        return translation_scores(
            [line["reference"] for line in predictions],
            [line["output"] for line in predictions],
            languages[0] if len(languages) == 1 else None,
        )
