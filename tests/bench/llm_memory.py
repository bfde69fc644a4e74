"""Memory that processes of one machine take for the same LLM: what each has of its own, and what they share.

    python tests/bench/llm_memory.py LLM_FOLDER float32 4

Linux alone: PSS is a process's own memory plus its part of what it shares (/proc/PID/smaps_rollup).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def megabytes() -> dict[str, int]:
    """Of this process: own memory, and its part of the files it has mapped."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.partition(":")[0]: int(line.split()[1]) // 1024 for line in lines}
    return {"own": sizes["Pss_Anon"], "mapped": sizes["Pss_File"]}


def load(folder: str, dtype: str) -> None:
    """Load, run once, and report each time a line is read."""
    import torch

    from sm_pipeline.models.source import resolve_model
    from speechmapper.llm_loading import load_llm

    torch.set_num_threads(1)
    llm = load_llm(resolve_model(folder, "llm"), torch.device("cpu"), dtype)
    with torch.no_grad():
        llm.model(input_ids=torch.arange(64)[None], logits_to_keep=1)
    sys.stdout.write("loaded\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(f"{megabytes()}\n")
    sys.stdout.flush()
    sys.stdin.readline()


def main(folder: str, dtype: str, processes: str) -> None:
    """One line per process, measured while all of them have the LLM loaded."""
    command = [sys.executable, __file__, folder, dtype]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(int(processes))
    ]
    for _ in ("loaded", "measured"):
        lines = [process.stdout.readline().strip() for process in started]
        for process in started:
            process.stdin.write("\n")
            process.stdin.flush()
    sys.stdout.write("\n".join(lines) + "\n")
    for process in started:
        process.wait()


if __name__ == "__main__":
    run = load if len(sys.argv) == 3 else main
    run(*sys.argv[1:])
