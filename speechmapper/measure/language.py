"""Whether outputs are in the language that they should be in, by lingua.

    rates = LanguageRates.of(references, outputs, ["de", "de"], ["en"])
    rates.figures(rows)     {"target_language_rate": 0.5, "english_rate": 0.5, "language_detector_error": 0.0}

The detector chooses among the languages in play alone: those of the answers, those of the speech, and English. Where
these are English alone there is nothing to tell apart, and no figure. It errs on short texts and on names, so its error
on the references is given too; what it makes wrong there it will also make wrong on right outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sm_pipeline.languages import language_tag
from sm_store.extras import extra_module
from speechmapper.measure.sums import present, share_of

ENGLISH = "en"
LONG, LOOKED_AT = 80, 200  # characters
_TAGS_OF_LINGUA = {"no": "nb"}  # Norwegian is there as Bokmål and Nynorsk


@dataclass(frozen=True, slots=True)
class LanguageRates:
    """The detector's answers for N predictions.

    Attributes:
        known_N: whether the expected language is known, and one that the detector knows.
        english_N: whether that language is English.
        on_target_N, in_english_N: whether the output is in that language, or in English; neither where it is empty.
        reference_right_N: whether the detector finds that language in the reference.
        has_reference_N: whether there are letters in it.
    """

    known_N: np.ndarray
    english_N: np.ndarray
    on_target_N: np.ndarray
    in_english_N: np.ndarray
    reference_right_N: np.ndarray
    has_reference_N: np.ndarray

    @classmethod
    def of(
        cls,
        references: Sequence[str],
        outputs: Sequence[str],
        expected: Sequence[str | None],
        others: Iterable[str] = (),
    ) -> LanguageRates | None:
        """Detect the languages of references and outputs.

        Args:
            expected: language of each answer under any of its names; None: not known, left out.
            others: more languages in play, such as those of the speech.

        Returns:
            None where no expected language is known, or none but English is in play.
        """
        wanted = [lingua_tag(name) for name in expected]
        in_play = {tag for tag in (*wanted, *map(lingua_tag, others)) if tag is not None} | {ENGLISH}
        if in_play == {ENGLISH} or not any(wanted):
            return None
        tags = tuple(sorted(in_play))
        both = detect([*outputs, *references], tags)  # an output is often its reference
        found, right = both[: len(outputs)], both[len(outputs) :]
        pairs = list(zip(wanted, found, right, strict=True))
        return cls(
            known_N=np.array([tag is not None for tag in wanted]),
            english_N=np.array([tag == ENGLISH for tag in wanted]),
            on_target_N=np.array([tag is not None and tag == output for tag, output, _ in pairs]),
            in_english_N=np.array([output == ENGLISH for output in found]),
            reference_right_N=np.array([tag is not None and tag == reference for tag, _, reference in pairs]),
            has_reference_N=np.array([any(map(str.isalpha, text)) for text in references]),
        )

    def figures(self, rows: np.ndarray) -> dict[str, Any]:
        """`target_language_rate` and `language_detector_error`, and `english_rate` of what should not be English."""
        return present(
            {
                "target_language_rate": share_of(self.on_target_N, rows, self.known_N),
                "english_rate": share_of(self.in_english_N, rows, self.known_N & ~self.english_N),
                "language_detector_error": share_of(~self.reference_right_N, rows, self.known_N & self.has_reference_N),
            }
        )

    def off_target(self) -> np.ndarray:
        """Which outputs are surely in another language (N,): the detector is right about their references."""
        return self.known_N & self.reference_right_N & ~self.on_target_N


def lingua_tag(name: str | None) -> str | None:
    """The tag of a language under any of its names, where the detector knows it."""
    tag = language_tag(name) if name else None
    tag = _TAGS_OF_LINGUA.get(tag, tag) if tag else None
    return tag if tag in known_tags() else None


@lru_cache(1)
def known_tags() -> frozenset[str]:
    """The languages that the detector knows, as BCP-47 primary tags."""
    return frozenset(each.iso_code_639_1.name.lower() for each in extra_module("lingua").Language.all())


def detect(texts: Sequence[str], tags: Sequence[str]) -> list[str | None]:
    """The likeliest of these languages for each text; None for a text without letters.

    Only the first 200 characters are looked at, and in texts of 80 or more only trigrams (lingua itself does so from
    120): three times as fast, and with ten words as sure.
    """
    by_text: dict[str, str | None] = {}
    starts = [text[:LOOKED_AT] for text in texts]
    different = dict.fromkeys(starts)
    for is_long in (False, True):
        chosen = [text for text in different if (len(text) >= LONG) == is_long]
        found = _detector(tuple(tags), is_long).detect_languages_in_parallel_of(chosen)
        by_text |= {
            text: None if language is None else language.iso_code_639_1.name.lower()
            for text, language in zip(chosen, found, strict=True)
        }
    return [by_text[text] for text in starts]


@lru_cache(8)
def _detector(tags: tuple[str, ...], trigrams_alone: bool) -> Any:
    lingua = extra_module("lingua")
    codes = [lingua.IsoCode639_1.from_str(tag) for tag in tags]
    builder = lingua.LanguageDetectorBuilder.from_iso_codes_639_1(*codes)
    return (builder.with_low_accuracy_mode() if trigrams_alone else builder).build()
