"""Speech translation: the LLM is asked, in the target language, for the translation alone; BLEU and chrF.

Fields("The dog slept.", 1.2, translation={"de": "Der Hund schlief.", "fr": "Le chien dormait."})
  -> [Item("Der Hund schlief.", language="de"), Item("Le chien dormait.", language="fr")]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sm_store import Fields
from speechmapper.measure.instructions import copies_source
from speechmapper.tasks.base import Item, Task


class SpeechTranslation(Task):
    """Translate the speech into one of the languages the manifest has a translation in."""

    name: str = "st"
    scored_by: str = "bleu"
    answers_in_language: bool = True
    needs: tuple[str, ...] = ("translation",)

    def items(self, fields: Fields) -> list[Item]:
        """One per language asked for, sorted by its code."""
        return [
            Item(text, language)
            for language, text in sorted((fields.translation or {}).items())
            if self.wants(language)
        ]

    def follows(self, line: Mapping[str, Any]) -> bool:
        """Not empty, and no copy of what was said, where the translation is none."""
        return super().follows(line) and not copies_source(line)
