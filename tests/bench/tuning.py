"""Stage 2's cross-entropy: memory and time of `FrozenLLM.answer_loss`, against Hugging Face's own `labels=`.

    labels=           prompt, vectors and answer as one batch of embeddings, padded on the right, -100 outside answers
    answer_loss       the shared start of the prompts ran once before, logits at the answers alone
    checkpointing     the same, and layers run again for their gradient (llm.checkpointing)
    lora              with --lora RANK: answer_loss with adapters in every linear layer that take a gradient too
    both              the two together

    python tests/bench/tuning.py [--batch 12] [--llm smollm2-135m] [--device cuda] [--dtype bfloat16]
        [--lora 8]

A step is the loss of a batch of ASR prompts with answers and its gradient of the vectors; the LLM's own weights are
frozen in all of them. Texts are one to `--sentences` sentences, vectors their embeddings followed by as many pads, as
speech gives about two vectors per token. Memory is the most that a step has allocated at once, without the LLM's
weights: of the CPU as torch's profiler reports each allocation, of a GPU as its allocator counts. Time is the median of
rounds in turns: of the CPU its CPU seconds on one thread, which other work disturbs less; profiled steps are not timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.utils.rnn import pad_sequence
from torch.profiler import ProfilerActivity, profile

from sm_pipeline.models.source import resolve_model
from speechmapper.config import LlmConfig, LoraConfig
from speechmapper.eval.eet.texts import choose_texts
from speechmapper.llm import FrozenLLM
from speechmapper.llm_loading import load_llm
from speechmapper.lora import LoraAdapter
from speechmapper.prompting import Prompt
from speechmapper.tasks import ASR, Item

BARS = {"answer_loss": (0.6, 1.0), "checkpointing": (0.35, 1.4)}  # of memory and time, against labels=
LOSS_BAR = 1e-5

Batch = tuple[torch.Tensor, torch.Tensor, Sequence[Prompt]]


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    llm: str = "smollm2-135m"
    batch: int = 12  # paper
    sentences: int = 3  # of the longest texts: 1 to 3 are 9 to 28 tokens
    rounds: int = 5
    device: str = "cpu"
    dtype: str = "float32"
    lora: int = 0  # rank; 0: without those two


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Of one way: bytes and seconds of a step, and its loss per answer token."""

    memory: int
    seconds: float
    loss: float


def batch_of(llm: FrozenLLM, rows: int, longest: int) -> Batch:
    """Vectors of width E in float32, their counts, and prompts in wordings that differ, with answers."""
    sentences = list(choose_texts(longest * rows).texts)
    texts = [" ".join(sentences[longest * row : longest * row + 1 + row % longest]) for row in range(rows)]
    ids = [llm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    pad = llm.tokenizer.pad_token_id or 0
    vectors = [llm.embed([*row, *[pad] * len(row)]).detach().float() for row in ids]
    prompts = [llm.prompter.write(ASR.instruction(Item(text), row, learn=True)) for row, text in enumerate(texts)]
    lengths_B = torch.tensor([len(row) for row in vectors], device=llm.device)
    return pad_sequence(vectors, batch_first=True), lengths_B, prompts


def labels_loss(llm: FrozenLLM, vectors_BUE: torch.Tensor, lengths_B: torch.Tensor, prompts: Sequence[Prompt]):
    """Summed over the answer tokens, as `answer_loss` gives it."""
    rows, labels = [], []
    for vectors_UE, length, prompt in zip(vectors_BUE, lengths_B.tolist(), prompts, strict=True):
        before, rest = llm.embed(prompt.before), llm.embed((*prompt.after, *prompt.answer))
        rows.append(torch.cat([before, vectors_UE[:length].to(before.dtype), rest]))
        ignored = len(rows[-1]) - len(prompt.answer)
        labels.append(torch.tensor([-100] * ignored + list(prompt.answer), device=llm.device))
    inputs_BSE = pad_sequence(rows, batch_first=True)
    labels_BS = pad_sequence(labels, batch_first=True, padding_value=-100)
    lengths = torch.tensor([len(row) for row in rows], device=llm.device)
    mask_BS = (torch.arange(inputs_BSE.shape[1], device=llm.device) < lengths[:, None]).long()
    loss = llm.model(inputs_embeds=inputs_BSE, attention_mask=mask_BS, labels=labels_BS, use_cache=False).loss
    return loss * (labels_BS != -100).sum()


def step(loss_of: Callable[..., torch.Tensor], batch: Batch) -> float:
    """Forward, and backward to the vectors; the loss per answer token."""
    vectors_BUE, lengths_B, prompts = batch
    vectors_BUE = vectors_BUE.detach().requires_grad_()
    loss = loss_of(vectors_BUE, lengths_B, prompts)
    loss.backward()
    return float(loss.detach()) / sum(len(prompt.answer) for prompt in prompts)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most that `run` has allocated at once on the device, beyond what there was."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def timed(run: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        began = time.process_time()
        run()
        return time.process_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def costs(options: Options) -> dict[str, Cost]:
    """Of each way, on the same batch; the first is what the others are compared with."""
    device, source = torch.device(options.device), resolve_model(options.llm, "llm")
    llm, checkpointed = (
        load_llm(source, device, options.dtype, config=LlmConfig(checkpointing=each)) for each in (False, True)
    )
    ways: dict[str, Callable[..., torch.Tensor]] = {
        "labels=": lambda *batch: labels_loss(llm, *batch),
        "answer_loss": llm.answer_loss,
        "checkpointing": checkpointed.answer_loss,
    }
    for name, each in (("lora", False), ("both", True)) if options.lora else ():
        adapted = load_llm(source, device, options.dtype, config=LlmConfig(checkpointing=each))
        LoraAdapter(adapted, LoraConfig(rank=options.lora), seed=1)
        ways[name] = adapted.answer_loss
    batch, threads = batch_of(llm, options.batch, options.sentences), torch.get_num_threads()
    torch.set_num_threads(1)
    losses = {name: step(way, batch) for name, way in ways.items()}  # warms up, and computes the shared start
    memory = {name: peak_bytes(lambda way=way: step(way, batch), device) for name, way in ways.items()}
    rounds = [
        {name: timed(lambda way=way: step(way, batch), device) for name, way in ways.items()}
        for _ in range(options.rounds)
    ]
    torch.set_num_threads(threads)
    return {name: Cost(memory[name], statistics.median(each[name] for each in rounds), losses[name]) for name in ways}


def measure(options: Options) -> Table:
    """Every way with its ratios to `labels=`, and whether the bars are met."""
    found = costs(options)
    unit = found["labels="]
    title = f"Cross-entropy of {options.batch} ASR answers, {options.llm}, {options.device}, {options.dtype}"
    table = Table(title=title)
    for name in ("", "MB", "of labels=", "s", "of labels=", "loss differs by", "bars"):
        table.add_column(name, justify="right" if name else "left")
    for name, cost in found.items():
        memory, seconds = cost.memory / unit.memory, cost.seconds / unit.seconds
        differs = abs(cost.loss - unit.loss) / unit.loss
        bars = BARS.get(name)
        met = bars is None or (memory <= bars[0] and seconds <= bars[1] and differs <= LOSS_BAR)
        shown = "" if bars is None else f"{bars[0]}, {bars[1]}: {'met' if met else 'missed'}"
        sizes = (f"{cost.memory / 1e6:.0f}", f"{memory:.2f}", f"{cost.seconds:.3f}", f"{seconds:.2f}")
        table.add_row(name, *sizes, f"{differs:.1e}", shown)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for each in dataclasses.fields(Options):
        parser.add_argument(f"--{each.name}", type=type(each.default), default=each.default)
    Console(file=sys.stdout, width=120).print(measure(Options(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
