"""Greedy decoding: what transformers' `generate` costs against a loop written by hand.

    by hand    the shared start of the prompts runs once, and rows leave the batch as they end
    generate   `FrozenLLM.generate`: rows stay until the last one ends, but unfinished ones are continued apart

    python tests/bench/decoding.py [--batch 32] [--limit 45]

Both repeat the same texts from their true embeddings with a little noise, in batches by length, in turns; medians of
three rounds of CPU seconds on one thread, which other work on the machine disturbs less than elapsed time.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from sm_pipeline.models.source import resolve_model
from speechmapper.eval.eet.noise import gaussian
from speechmapper.eval.eet.texts import choose_texts
from speechmapper.llm import MAX_NEW_TOKENS, FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.prompting import Prompt
from speechmapper.tasks import ASR, Item

ROUNDS = 3
NOISE = 0.02  # relative MSE
SENTENCES = 3  # of the longest texts

Decode = Callable[[torch.Tensor, torch.Tensor, Sequence[Prompt], int], list[str]]


@dataclasses.dataclass(frozen=True)
class Options:
    llm: str = "smollm2-135m"
    texts: int = 64
    batch: int = 16
    limit: int = MAX_NEW_TOKENS


@torch.inference_mode()
def by_hand(
    llm: FrozenLLM, vectors_BUE: torch.Tensor, vectors_B: torch.Tensor, prompts: Sequence[Prompt], limit: int
) -> list[str]:
    """The loop: keys and values of the start are kept, rows that ended are dropped from the cache."""
    batch = llm.splice(vectors_BUE, vectors_B, prompts)
    valid_BK = F.pad(batch.valid_BS, (len(batch.start), 0), value=True)
    cache = llm._start_cache(batch)
    inputs = {"inputs_embeds": batch.inputs_BSE}
    positions_BS = (valid_BK.long().cumsum(dim=1) - 1)[:, len(batch.start) :].clamp(min=0)
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # those still being written
    for _ in range(limit):
        output = llm.model(
            **inputs,
            attention_mask=valid_BK.long(),
            position_ids=positions_BS,
            use_cache=True,
            logits_to_keep=1,
            **{llm.cache_argument: cache},
        )
        cache, next_B = output[llm.cache_argument], output.logits[:, -1].argmax(dim=-1)
        going = [place for place, token in enumerate(next_B.tolist()) if token not in llm.stop_ids]
        if not going:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going, device=llm.device)
            cache.batch_select_indices(kept)
            next_B, valid_BK, rows = next_B[kept], valid_BK[kept], [rows[place] for place in going]
        for row, token in zip(rows, next_B.tolist(), strict=True):
            written[row].append(token)
        inputs = {"input_ids": next_B[:, None]}
        valid_BK = F.pad(valid_BK, (0, 1), value=True)
        positions_BS = valid_BK.sum(dim=1, keepdim=True) - 1
    return [llm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]


def embedded_texts(llm: FrozenLLM, count: int) -> list[torch.Tensor]:
    """Noisy embeddings (N, E) of texts of one to three sentences, shortest first."""
    sentences = list(choose_texts(SENTENCES * count).texts)
    texts = [" ".join(sentences[SENTENCES * row : SENTENCES * row + 1 + row % SENTENCES]) for row in range(count)]
    table = llm.model.get_input_embeddings().weight.detach().float()
    generator = torch.Generator().manual_seed(0)
    size = NOISE * float(table.square().mean())
    ids = [llm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return sorted((gaussian(llm.embed(row).detach(), table, size, generator) for row in ids), key=len)


def decode_all(decode: Decode, llm: FrozenLLM, rows: list[torch.Tensor], options: Options) -> tuple[float, list[str]]:
    """CPU seconds and the answers."""
    answers: list[str] = []
    began = time.process_time()
    for start in range(0, len(rows), options.batch):
        batch = rows[start : start + options.batch]
        lengths = torch.tensor([len(row) for row in batch])
        prompts = [llm.prompter.write(ASR.instruction(Item()))] * len(batch)
        answers += decode(pad_sequence(batch, batch_first=True), lengths, prompts, options.limit)
    return time.process_time() - began, answers


def measure(options: Options) -> Table:
    """Both ways as a table: CPU seconds, their ratio, and how many texts differ."""
    llm = load_llm(resolve_model(options.llm, "llm"), torch.device("cpu"))
    rows = embedded_texts(llm, options.texts)
    ways: dict[str, Decode] = {"by hand": lambda *batch: by_hand(llm, *batch), "generate": llm.generate}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rounds = [{name: decode_all(way, llm, rows, options) for name, way in ways.items()} for _ in range(ROUNDS)]
    torch.set_num_threads(threads)
    expected = rounds[0]["by hand"][1]
    title = f"{options.texts} texts, batches of {options.batch}, at most {options.limit} new tokens"
    table = Table(title=title)
    for name in ("", "CPU s", "of by hand", "texts that differ"):
        table.add_column(name, justify="right" if name else "left")
    unit = statistics.median(turn["by hand"][0] for turn in rounds)
    for name in ways:
        seconds = statistics.median(turn[name][0] for turn in rounds)
        differ = sum(one != other for one, other in zip(rounds[-1][name][1], expected, strict=True))
        table.add_row(name, f"{seconds:.1f}", f"{seconds / unit:.2f}", str(differ))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for each in dataclasses.fields(Options):
        parser.add_argument(f"--{each.name}", type=type(each.default), default=each.default)
    Console(file=sys.stdout).print(measure(Options(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
