"""Entities from a file of tagged words, one word a line, as NEuRoparl-ST has them (Gaido et al. 2021).

    1  He    O
    2  met   O
    3  Anna  B-PERSON
    4  Berg  I-PERSON          columns separated by tabs: number (may be absent), word, tag
                               an empty line ends a sentence

    read_entities(path)        {"hemetannaberg": ["Anna Berg"]}: entities of a sentence, by its text without spaces

A sentence belongs to the prediction whose reference has the same text, apart from case and spaces, whatever the order.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from sm_store.errors import ConfigError, quoted

OUTSIDE, BEGIN, INSIDE = "O", "B", "I"


def read_entities(path: Path) -> dict[str, list[str]]:
    """The entities of each sentence, by `sentence_key` of its text.

    Raises:
        ConfigError: no such file, or a line that is no tagged word.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--entities {path}: cannot be read ({error}); give a file of tagged words") from error
    found: dict[str, list[str]] = {}
    words: list[str] = []
    entities: list[list[str]] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            word, tag = _tagged(line, f"{path}:{number}")
            _add(entities, word, tag)
            words.append(word)
        elif words:
            found[sentence_key("".join(words))] = [" ".join(each) for each in entities if each]
            words, entities = [], []
    if not found:
        raise ConfigError(
            f"--entities {path}: no sentence in it; give a file of tagged words (word, tab, B-PERSON or O)"
        )
    return found


def entities_of(references: Sequence[str], path: Path) -> tuple[list[list[str]], int]:
    """The entities of each reference, and how many references the file has no sentence for.

    Raises:
        ConfigError: as `read_entities`; the file has no sentence for any of them.
    """
    sentences = read_entities(path)
    found = [sentences.get(sentence_key(reference)) for reference in references]
    missing = sum(each is None for each in found)
    if missing == len(found):
        raise ConfigError(
            f"--entities {path}: none of its {len(sentences)} sentences is the text of a reference; it belongs to "
            "another corpus, split or language"
        )
    return [each or [] for each in found], missing


def sentence_key(text: str) -> str:
    """A text without case and spaces: what a sentence is recognised by, however it is cut into words."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _tagged(line: str, where: str) -> tuple[str, str]:
    columns = line.rstrip("\r").split("\t")
    tag = columns[-1].strip()
    kind, _, name = tag.partition("-")
    if not 2 <= len(columns) <= 3 or not (tag == OUTSIDE or (kind in (BEGIN, INSIDE) and name)):
        raise ConfigError(
            f"{where}: {quoted(line)} is not a word and its tag (B-PERSON, I-PERSON, O) with a tab between"
        )
    return columns[-2].strip(), kind


def _add(entities: list[list[str]], word: str, kind: str) -> None:
    """Begin, continue or end an entity; an empty list ends one, so that an I- behind it begins another."""
    if kind == OUTSIDE:
        entities.append([])
    elif kind == INSIDE and entities and entities[-1]:
        entities[-1].append(word)
    else:
        entities.append([word])
