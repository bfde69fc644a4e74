"""What an LLM can do of some tasks from the text itself: its own token embeddings in place of speech.

    python tests/bench/text_tasks.py --store demo/store --llm smollm2-135m [--split dev] [--utterances 48] TASK.yaml ...

A task that it cannot do from the text tells nothing about a projector. Prints each task's scores and two answers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sm_pipeline.models.source import resolve_model
from sm_store import Store
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.tasks import StoreFields, Task, task_of

BATCH = 24
LONGEST_ANSWER = 40  # tokens


def measure(llm: FrozenLLM, store: Store, indices: np.ndarray, task: Task) -> list[dict[str, str]]:
    """The LLM's answer to every item of the utterances (n,), with its reference."""
    fields = StoreFields(store)
    asked = [(index, item) for index in indices.tolist() for item in task.items(fields[index])]
    lines = []
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        read = store.read(np.array([index for index, _ in batch]), targets=store.target_names[0])
        rows = [llm.embed([int(token) for token in ids]) for ids in read.token_ids]
        prompts = [llm.prompter.write(task.instruction(item)) for _, item in batch]
        lengths = torch.tensor([len(row) for row in rows])
        answers = llm.generate(pad_sequence(rows, batch_first=True), lengths, prompts, LONGEST_ANSWER)
        lines += [
            {"reference": item.reference, "output": task.cleaned(answer)}
            for (_, item), answer in zip(batch, answers, strict=True)
        ]
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", metavar="TASK.yaml")
    parser.add_argument("--store", type=Path, default=Path("demo/store"))
    parser.add_argument("--llm", default="smollm2-135m")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--utterances", type=int, default=48)
    return parser.parse_args()


def main() -> None:
    given = parse()
    store = Store.open(given.store)
    indices = store.select(split=given.split)
    chosen = indices[np.linspace(0, len(indices) - 1, min(given.utterances, len(indices))).astype(np.int64)]
    llm = load_llm(resolve_model(given.llm, "llm"), torch.device("cpu"))
    for name in given.tasks:
        task = task_of(name)
        lines = measure(llm, store, chosen, task)
        sys.stdout.write(json.dumps({"task": task.name, **task.score(lines), "answers": lines[:2]}) + "\n")


if __name__ == "__main__":
    main()
