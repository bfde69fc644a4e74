"""The mutants: each one place of training or evaluation code, broken in a way that would go unseen in a log.

    Mutant("cosine-sign", "the cosine is minimised", "objectives/cosine.py", "return -mean(", "return mean(", (...,))

`before` occurs once in the file. `tests` are what is run against the mutant, most telling first.
"""

from __future__ import annotations

from dataclasses import dataclass

UNIT = "tests/speechmapper"


@dataclass(frozen=True)
class Mutant:
    """One deliberate fault."""

    name: str
    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def applied(self, sound: str) -> str:
        """The source with the fault in it."""
        if sound.count(self.before) != 1:
            raise ValueError(f"{self.name}: {self.before!r} occurs {sound.count(self.before)} times in {self.file}")
        return sound.replace(self.before, self.after)


MUTANTS = (
    Mutant(
        "first-pad",
        "the first pad is no word position",
        "speechmapper/objectives/base.py",
        "valid_BU & (position_1U <= tokens_B[:, None])",
        "valid_BU & (position_1U < tokens_B[:, None])",
        (f"{UNIT}/objectives",),
    ),
    Mutant(
        "batch-padding",
        "one position beyond each utterance counts",
        "speechmapper/objectives/base.py",
        "valid_BU = position_1U < vectors_B[:, None]",
        "valid_BU = position_1U <= vectors_B[:, None]",
        (f"{UNIT}/objectives",),
    ),
    Mutant(
        "alpha-swapped",
        "alpha weighs pads, 10 - alpha words",
        "speechmapper/objectives/distance.py",
        'return self.alpha * mean(sums, counts, "word") + (ALPHA_TOTAL - self.alpha) * mean(sums, counts, "pad")',
        'return self.alpha * mean(sums, counts, "pad") + (ALPHA_TOTAL - self.alpha) * mean(sums, counts, "word")',
        (f"{UNIT}/objectives",),
    ),
    Mutant(
        "not-normalized",
        "`normalized` does not divide by the table's scale",
        "speechmapper/objectives/distance.py",
        "return mean_BU / self._unit if",
        "return mean_BU if",
        (f"{UNIT}/objectives",),
    ),
    Mutant(
        "cosine-sign",
        "the cosine is minimised",
        "speechmapper/objectives/cosine.py",
        "return -mean(",
        "return mean(",
        (f"{UNIT}/objectives",),
    ),
    Mutant(
        "mean-of-means",
        "a part divides by one more than it counted",
        "speechmapper/objectives/base.py",
        "return sums[name] / counts[name].clamp(min=1)",
        "return sums[name] / (counts[name] + 1)",
        (f"{UNIT}/objectives",),
    ),
    Mutant(
        "label-of-the-first-pad",
        "the position behind the text has token 0 as its label, not the pad token",
        "speechmapper/objectives/contrastive.py",
        "is_token_BN = position_1N < answers.tokens_B[:, None]",
        "is_token_BN = position_1N <= answers.tokens_B[:, None]",
        (f"{UNIT}/objectives",),
    ),
    Mutant(
        "repeated-tokens",
        "CTC does not ask for a blank between equal tokens",
        "speechmapper/objectives/ctc.py",
        "return answers.tokens_B + repeated_BN.sum(dim=1)",
        "return answers.tokens_B",
        (f"{UNIT}/objectives",),
    ),
    Mutant(
        "longest-row-wins",
        "the nearest row by dot product alone",
        "speechmapper/heads/rows.py",
        "vectors_PE @ self.table_VE.T - self._half_norm_V",
        "vectors_PE @ self.table_VE.T",
        (f"{UNIT}/heads",),
    ),
    Mutant(
        "collapsed-readout",
        "repeated tokens are merged without a blank",
        "speechmapper/heads/head.py",
        "units = single_units(labels_BU)",
        "units = run_units(labels_BU)",
        (f"{UNIT}/heads",),
    ),
    Mutant(
        "blank-is-no-border",
        "a token said again after a blank is the same unit",
        "speechmapper/heads/units.py",
        "(labels_BU >= 0) & (labels_BU != before_BU)",
        "(labels_BU >= 0) & (labels_BU != before_BU) & (before_BU != -1)",
        (f"{UNIT}/heads",),
    ),
    Mutant(
        "unlimited-commitment",
        "the commitment may exceed the CTC loss",
        "speechmapper/objectives/commitment.py",
        ".clamp(max=1)",
        "",
        (f"{UNIT}/objectives",),
    ),
    Mutant(
        "absolute-mse",
        "relative MSE is not relative",
        "speechmapper/measure/vectors.py",
        '"relative_mse": mse / self.table_scale',
        '"relative_mse": mse',
        (f"{UNIT}/measure",),
    ),
    Mutant(
        "raw-outputs",
        "outputs are scored without normalisation",
        "speechmapper/measure/text.py",
        "(plain(reference), plain(output))",
        "(plain(reference), output)",
        (f"{UNIT}/measure",),
    ),
    Mutant(
        "same-epochs",
        "every epoch has the order of the first",
        "speechmapper/loader/epoch.py",
        "self.budget, (self.seed, epoch))",
        "self.budget, (self.seed, 0))",
        (f"{UNIT}/loader/test_epoch.py",),
    ),
    Mutant(
        "no-room-for-a-pad",
        "a text may fill all vectors",
        "speechmapper/loader/epoch.py",
        "(tokens + 1 <= vectors)",
        "(tokens <= vectors)",
        (f"{UNIT}/loader/test_epoch.py",),
    ),
    Mutant(
        "budget-before-padding",
        "a batch's frames are counted by its last utterance, not its longest",
        "speechmapper/loader/epoch.py",
        "longest = max(longest, length)",
        "longest = length",
        (f"{UNIT}/loader/test_epoch.py",),
    ),
    Mutant(
        "same-noise-per-process",
        "processes number their micro-batches alike",
        "speechmapper/loader/prefetch.py",
        "range(first + self._rank,",
        "range(first,",
        (f"{UNIT}/loader/test_prefetch.py",),
    ),
    Mutant(
        "geometry",
        "padding counts on one side only",
        "store/sm_store/geometry.py",
        "grown = (count + 2 * padding - kernel) // stride + 1",
        "grown = (count + padding - kernel) // stride + 1",
        ("tests/store/test_geometry.py", f"{UNIT}/test_projector.py"),
    ),
    Mutant(
        "conv-sees-padding",
        "frames beyond an utterance's end reach the convolutions",
        "speechmapper/projector.py",
        "hidden_BTC = hidden_BTC * valid_positions(lengths_B, hidden_BTC.shape[1]).unsqueeze(-1)\n",
        "hidden_BTC = hidden_BTC\n",
        (f"{UNIT}/test_projector.py",),
    ),
    Mutant(
        "attention-sees-padding",
        "attention looks beyond an utterance's end",
        "speechmapper/projector.py",
        "attn_mask=attend_B11T,",
        "attn_mask=None,",
        (f"{UNIT}/test_projector.py",),
    ),
    Mutant(
        "answer-shift",
        "the LLM reads the answer it is to predict, shifted by one",
        "speechmapper/llm.py",
        "self.embed((*prompt.after, *prompt.answer[:-1]))",
        "self.embed((*prompt.after, *prompt.answer[1:]))",
        (f"{UNIT}/test_llm.py",),
    ),
    Mutant(
        "pads-are-answers",
        "shorter answers are filled with token 0 and learned",
        "speechmapper/llm.py",
        "[[IGNORED] * (longest - len(prompt.answer))",
        "[[0] * (longest - len(prompt.answer))",
        (f"{UNIT}/test_llm.py",),
    ),
    Mutant(
        "positions-with-pads",
        "positions in the prompt count the pads before it",
        "speechmapper/llm.py",
        "positions_BS = (valid_BK.long().cumsum(dim=1) - 1)",
        "positions_BS = (torch.ones_like(valid_BK).long().cumsum(dim=1) - 1)",
        (f"{UNIT}/test_llm.py",),
    ),
    Mutant(
        "any-llm",
        "an LLM with another table is accepted",
        "speechmapper/llm.py",
        "same = error <= TABLE_TOLERANCE * spec.table_scale",
        "same = True",
        (f"{UNIT}/test_llm.py",),
    ),
    Mutant(
        "sigma-swapped",
        "sigma weighs the cross-entropy",
        "speechmapper/train/tuning_stage.py",
        "loss = loss + (1 - sigma) * sums[CROSS_ENTROPY]",
        "loss = loss + sigma * sums[CROSS_ENTROPY]",
        (f"{UNIT}/train/test_tuning_stage.py",),
    ),
    Mutant(
        "per-utterance",
        "cross-entropy is averaged over utterances",
        "speechmapper/train/tuning_stage.py",
        "answers = sum(len(prompt.answer) for prompt in self.prompts(batch))",
        "answers = len(self.prompts(batch))",
        (f"{UNIT}/train/test_tuning_stage.py",),
    ),
    Mutant(
        "asr-share",
        "the share of asr is that of the other task",
        "speechmapper/tasks/__init__.py",
        "{ASR.name: asr_share, text: 1 - asr_share}",
        "{ASR.name: 1 - asr_share, text: asr_share}",
        (f"{UNIT}/tasks",),
    ),
    Mutant(
        "warmup-off-by-one",
        "the first step has a learning rate of 0",
        "speechmapper/train/optimizer.py",
        "return (step + 1) / schedule.warmup",
        "return step / schedule.warmup",
        (f"{UNIT}/train/test_optimizer.py",),
    ),
    Mutant(
        "one-noise",
        "every micro-batch draws the same dropout and wordings",
        "speechmapper/train/run.py",
        "np.random.SeedSequence((seed, micro))",
        "np.random.SeedSequence((seed, 0))",
        (f"{UNIT}/train/test_loop.py", f"{UNIT}/train/test_tuning_stage.py"),
    ),
    Mutant(
        "dropout-in-validation",
        "validation runs in training mode",
        "speechmapper/train/run.py",
        "projector = self.projector.eval()",
        "projector = self.projector",
        (f"{UNIT}/train/test_loop.py", f"{UNIT}/train/test_run.py", f"{UNIT}/train/test_stage1.py"),
    ),
    Mutant(
        "gradients-divided-twice",
        "gradients of several processes are averaged once too often",
        "speechmapper/train/run.py",
        "self._stage.combine(sums, counts) * self._accelerator.num_processes)",
        "self._stage.combine(sums, counts))",
        (f"{UNIT}/train/test_worlds.py",),
    ),
    Mutant(
        "newest-checkpoint-removed",
        "the newest checkpoints are removed, not the oldest",
        "speechmapper/train/checkpoint.py",
        "for old in list_checkpoints(run)[:-keep]:",
        "for old in list_checkpoints(run)[keep:]:",
        (f"{UNIT}/train/test_checkpoint.py",),
    ),
    Mutant(
        "tokenizer-unchecked",
        "a damaged tokenizer of a target set is used",
        "pipeline/sm_pipeline/models/tokenizer.py",
        "    targets.check_tokenizer()\n",
        "",
        ("tests/pipeline/models/test_tokenizer.py",),
    ),
    Mutant(
        "test-on-dev",
        "evaluation measures the validation split",
        "speechmapper/loader/data.py",
        'TRAIN_SPLIT, DEV_SPLIT, TEST_SPLIT = "train", "dev", "test"',
        'TRAIN_SPLIT, DEV_SPLIT, TEST_SPLIT = "train", "dev", "dev"',
        (f"{UNIT}/eval",),
    ),
)
