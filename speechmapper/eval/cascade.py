"""Cascades: the LLM is given text in place of speech, for rows that speech is compared with.

    --cascade reference        the transcripts themselves: the best that this LLM can do with these prompts
    --cascade OUT              the outputs of another evaluation, or of a recogniser: a file, or OUT/predictions.jsonl,
                               with a line {"id": "u7", "output": "the dog"} for each utterance

Prompts, tasks and scores are those of speech; the embeddings of the text's tokens stand where its vectors would.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sm_pipeline.manifest import read_manifest
from sm_store import Fields, Store
from sm_store.errors import ConfigError
from sm_store.records import Reject
from speechmapper.eval.predictions import PREDICTIONS_FILE
from speechmapper.eval.sources import ALL, Heard
from speechmapper.llm import Output
from speechmapper.loader.data import TEST_SPLIT, choose_split, split_of
from speechmapper.prompting import Instruction
from speechmapper.readout.build import Readout
from speechmapper.tasks import StoreFields

REFERENCE = "reference"
NO_TEXT = "no_text"  # reason of an utterance that the texts lack


class TextSource:
    """Utterances of a store or a manifest, as texts: a `Source`, without audio and encoder.

    Args:
        utterances: id and fields of each.
        texts: by id; None: the transcripts.
    """

    def __init__(
        self, split: str | None, utterances: Sequence[tuple[str, Fields]], texts: Mapping[str, str] | None, most: int
    ) -> None:
        self.split, self._most, self._utterances = split, most, utterances
        self._texts = {name: fields.text for name, fields in utterances} if texts is None else texts

    def __len__(self) -> int:
        return len(self._utterances)

    def numbers(self) -> Sequence[int]:
        """See `Source`."""
        return range(len(self))

    def batches(self, numbers: Sequence[int], share: slice = ALL) -> Iterator[Heard]:
        """See `Source`; utterances without a text are left out and listed."""
        there = [number for number in numbers if self.id(number) in self._texts]
        ordered = sorted(there, key=lambda number: -len(self._texts[self.id(number)]))
        for chosen in [ordered[start : start + self._most] for start in range(0, len(ordered), self._most)][share]:
            texts = [self._texts[self.id(number)] for number in chosen]
            rows = len(chosen)
            yield Heard(chosen, torch.zeros(rows, 0, 0), torch.zeros(rows, dtype=torch.long), texts=texts)

    def id(self, number: int) -> str:
        """See `Source`."""
        return self._utterances[number][0]

    def fields(self, number: int) -> Fields:
        """See `Source`."""
        return self._utterances[number][1]

    def rejects(self) -> Sequence[Reject]:
        """See `Source`: those without a text."""
        return [
            Reject(name, NO_TEXT, "no such id among the texts")
            for name, _ in self._utterances
            if name not in self._texts
        ]

    def sha256(self) -> str:
        """Fingerprint of the texts that the LLM is given."""
        given = {name: self._texts.get(name) for name, _ in self._utterances}
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def open_texts(where: str, store: Path | None, manifest: Path | None, split: str | None, most: int) -> TextSource:
    """The utterances of a store or manifest with the texts of `--cascade`.

    Args:
        where: `reference`, or a file or folder of predictions. most: texts run together.

    Raises:
        ConfigError: no such split or texts, neither store nor manifest. ManifestError: a bad line.
    """
    texts = None if where == REFERENCE else read_texts(Path(where))
    if store is not None and manifest is None:
        opened = Store.open(store)
        chosen = choose_split(opened, split, TEST_SPLIT)
        indices = opened.select(split=chosen) if chosen else np.arange(len(opened))
        ids, fields = opened.columns(["id"])["id"], StoreFields(opened)
        return TextSource(chosen, [(str(ids[at].as_py()), fields[at]) for at in indices.tolist()], texts, most)
    if manifest is not None and store is None:
        read = read_manifest(manifest)
        present = {each.split for each in read.utterances if each.split is not None}
        chosen = split_of(sorted(present), split, TEST_SPLIT, str(manifest))
        found = [(each.id, each.fields(each.duration or 0.0)) for each in read.select(chosen)]
        return TextSource(chosen, found, texts, most)
    raise ConfigError("--store, --manifest: give one of the two")


def read_texts(path: Path) -> dict[str, str]:
    """Outputs by id. Raises ConfigError: no such file, or a line without id and output (file:line)."""
    path = path / PREDICTIONS_FILE if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--cascade {path}: no predictions there; give `{REFERENCE}`, a folder of sm-eval, or a file of "
            '{"id": ..., "output": ...} lines'
        ) from error
    texts = {}
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            name, output = found["id"], found["output"]
        except (ValueError, KeyError, TypeError):
            name = output = None
        if not isinstance(name, str) or not isinstance(output, str):
            raise ConfigError(f"--cascade {path}:{number}: not an id with its output; predict again, or mend the line")
        texts[name] = output
    return texts


def answers_about(texts: Sequence[str], readout: Readout, instructions: Sequence[Instruction]) -> list[Output]:
    """The LLM's answer to each instruction about a text."""
    llm = readout.llm
    if llm is None:
        raise ConfigError("--cascade: it gives text to an LLM; name one with --llm")
    rows = [llm.embed(llm.tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    lengths_B = torch.tensor([len(row) for row in rows], device=llm.device)
    prompts = [llm.prompter.write(instruction) for instruction in instructions]
    return llm.answers(pad_sequence(rows, batch_first=True), lengths_B, prompts, readout.max_new_tokens)
