"""What a frozen LLM reads from projectors that stage 1 trained: the error rate of its transcripts, after the training.

    require_llm("smollm2-135m", targets)                        before: the LLM is there, and is the target set's
    reader = load_reader("smollm2-135m", targets, accelerator)  once, for all runs
    reader.wer(run, config.run, data)                           0.02: of the utterances that validation uses

The LLM gets what the projector's head makes of its vectors, with the ASR prompt, as from `sm-eval asr --llm`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from sm_pipeline.models.llm_table import load_llm_table
from sm_pipeline.models.source import resolve_model
from sm_pipeline.models.tokenizer import load_stored_tokenizer
from sm_store import TargetSet
from speechmapper.config import RunConfig
from speechmapper.heads import Head
from speechmapper.llm import FrozenLLM, require_same_table
from speechmapper.llm_loading import check_llm, load_llm
from speechmapper.loader.data import TrainingData
from speechmapper.readout.build import llm_readout
from speechmapper.saved_projector import load_projector
from speechmapper.train.llm_validation import LlmValidation, asr_probe
from speechmapper.train.validation import dev_set


@dataclass(frozen=True, slots=True)
class LlmReader:
    """A loaded LLM, and the device and precision that projectors run in."""

    llm: FrozenLLM
    accelerator: Accelerator

    def wer(self, out: Path, run: RunConfig, data: TrainingData) -> float | None:
        """Word error rate of the LLM's transcripts of `run.eval_utterances` of the dev split, by a run's projector;
        None where none of them has a text."""
        dev = dev_set(out, data, run)
        if dev is None:
            return None
        projector = load_projector(out).to(self.llm.device)
        head = Head(projector.config, data.targets.table, data.spec.pad_id, projector.device)
        dev = dataclasses.replace(dev, examples=0)
        validation = LlmValidation(dev, llm_readout(self.llm, head), [asr_probe(dev)], data.spec.table_scale)
        with torch.no_grad(), self.accelerator.autocast():
            return validation.run(projector, 0).figures.get("wer")


def require_llm(llm: str, targets: TargetSet) -> None:
    """Check that a model argument is the LLM a target set was made from, by its embedding table alone.

    Raises:
        ModelError: no such LLM, or another one.
    """
    check_llm(llm)
    resolve_model(llm, "llm")
    require_same_table(torch.from_numpy(load_llm_table(llm).table_VE), targets, llm)


def load_reader(llm: str, targets: TargetSet, accelerator: Accelerator) -> LlmReader:
    """Load the LLM on the accelerator's device; raises as `require_llm`."""
    frozen = load_llm(resolve_model(llm, "llm"), accelerator.device, tokenizer=load_stored_tokenizer(targets))
    frozen.require_table(targets)
    return LlmReader(frozen, accelerator)
