"""The settings of a training run; `speechmapper/config_file.py` says where they come from.

One frozen dataclass per component, checked when it is made and never changed afterwards. Units are in the name or the
comment; numbers of the paper (arXiv 2601.20417) are marked `paper`, the others are our defaults.

    Stage1Config(data=DataConfig(frames=8192), optimizer=OptimizerConfig(lr=2e-4))        all else: defaults
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sm_pipeline.devices import PRECISIONS
from sm_store.errors import ConfigError

SCHEDULES = ("cosine", "constant")
ALL = "all"  # of a vocabulary
WEIGHTS = {
    "cosine": 1.0,
    "centered-cosine": 1.0,
    "contrastive": 0.1,
    "ctc": 0.1,
    "commitment": 1.0,
    "kd": 0.1,
}  # defaults for the parts of an objective
ATTENTIONS = ("auto", "sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
NONE = "none"
QUANTIZATIONS = (NONE, "4bit", "8bit")
LOSSES = ("ce", "kd")  # of stage 2, beside the objective
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
AUTO = "auto"  # stage 2's objective: that of how the projector is read (speechmapper/train/stage2.py)
LARGEST_SEED = 2**32 - 1


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_seed(seed: int) -> None:
    _require(0 <= seed <= LARGEST_SEED, f"seed {seed}: give 0 to {LARGEST_SEED}")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Projector sizes; the input width comes from the store, the output width from its target set."""

    block_sizes: tuple[int, ...] = (1024, 2048)  # width inside each block (paper)
    block_outputs: tuple[int, ...] = (2048, 4096)  # width that each block hands on (paper)
    num_layers: tuple[int, ...] = (6, 6)  # Transformer layers of each block (paper)
    num_heads: int = 8  # attention heads of each layer
    ffn_size: int = 2048  # width of the feed-forward layers; follows from the paper's 277 M parameters
    kernel_sizes: tuple[int, ...] = (6, 6)  # frames that each block's convolution sees (paper)
    strides: tuple[int, ...] = (2, 2)  # frames per output of each convolution: 25 Hz / 2 / 2 = 6.25 Hz (paper)
    paddings: tuple[int, ...] = (2, 2)  # zeros on either side of each convolution's input
    dropout: float = 0.1  # share of activations dropped in training
    attention_dropout: float = 0.0  # share of attention weights dropped in training
    norm_order: str = "pre"  # layer norm before (pre) or after (post) attention and feed-forward
    norm_before_linear: bool = False  # a final norm before each pre-norm block's linear (docs/objectives.md)
    dropout_after_positions: bool = False  # dropout on convolution + positions too (docs/objectives.md)
    scale_to_table: bool = False  # multiply the vectors by the embedding table's RMS
    head: str | None = None  # what an LLM is given: vectors, segments, rows, tokens, cif; null: the objective's own
    rows_temperature: float | None = None  # of head rows' softmax over rows; null: half of objective.ctc_temperature
    learn_temperature: bool = False  # train the temperature of ctc-embedding, and with it that of head rows
    rows_top_k: int = 0  # rows that head rows mixes, the nearest ones; 0: all of the table
    blanks: str = "drop"  # of CTC's blank positions for heads segments and rows: drop, or first (one vector of all)

    def __post_init__(self) -> None:
        _require(0 <= self.dropout < 1, f"model.dropout {self.dropout}: give 0 or more, below 1")
        _require(0 <= self.attention_dropout < 1, f"model.attention_dropout {self.attention_dropout}: give [0, 1)")
        _require(self.num_heads >= 1 and self.ffn_size >= 1, "model.num_heads and model.ffn_size: give 1 or more")
        _require(len(self.block_sizes) >= 1, "model.block_sizes: give at least one block")
        given = self.rows_temperature
        _require(given is None or 0 < given < math.inf, f"model.rows_temperature {given}: give a number above 0")


def weight_key(part: str) -> str:
    """The setting that holds the weight of a part."""
    return f"{part.replace('-', '_')}_weight"


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """The loss against the padded text embeddings: parts joined by `+`, such as `l1+cosine+contrastive`.

    A part's weight is used where the part is named; mse and l1 have the weight 1.
    """

    name: str = "mse"  # parts joined by +, such as mse+cosine (docs/objectives.md); in stage 2 auto: as in stage 1
    alpha: float = 5.0  # weight of word against pad positions in mse and l1; paper: 5, 7 and 9 tried, 5 kept
    reduction: str = "normalized"  # of mse and l1: normalized, mean_dim or sum_dim (docs/objectives.md)
    cosine_weight: float | None = None  # weight of cosine; null: 1; paper: 100 in one summary of it, absent in another
    contrastive_weight: float | None = None  # weight of contrastive; null: 0.1 (arXiv 2607.01960)
    contrastive_temperature: float = 0.1  # temperature of the cosines in contrastive
    ctc_weight: float | None = None  # weight of the auxiliary CTC after block 1; null: 0.1
    ctc_temperature: float = 0.1  # of ctc-embedding's squared distances over the table's mean squared row norm
    centered_cosine_weight: float | None = None  # weight of centered-cosine; null: 1
    commitment_weight: float | None = None  # weight of commitment beside ctc-embedding; null: 1
    vocabulary: int | str = "all"  # of ctc-embedding: all, or only tokens whose string occurs so often in the texts
    kd_weight: float | None = None  # weight of kd; null: 0.1, ours: 1 slows CTC down in the first steps
    kd_layers: int = 1  # layers of the LLM that kd uses (arXiv 2609.18516: 1; for translation a third of them)
    llm: str | None = None  # the LLM that kd takes its first layers from; null: that of the target set
    negatives: int = 0  # rows of the vocabulary drawn at random in contrastive, both CTCs and kd; 0: all of it

    def __post_init__(self) -> None:
        _require(self.negatives >= 0, f"objective.negatives {self.negatives}: give 0 or more")
        _require(self.kd_layers >= 1, f"objective.kd_layers {self.kd_layers}: give 1 or more")
        for name in ("contrastive_temperature", "ctc_temperature"):
            _require(0 < getattr(self, name) < math.inf, f"objective.{name} {getattr(self, name)}: give above 0")
        _require(
            self.vocabulary == ALL or (isinstance(self.vocabulary, int) and self.vocabulary >= 1),
            f"objective.vocabulary {self.vocabulary}: give {ALL}, or how often a token's string has to occur",
        )
        named = self.name.split("+")
        _require(
            self.vocabulary == ALL or "ctc-embedding" in named,
            f"objective.vocabulary {self.vocabulary}: only ctc-embedding has a restricted vocabulary; set it to {ALL}",
        )
        for part in WEIGHTS:
            key = weight_key(part)
            weight = getattr(self, key)
            _require(weight is None or weight >= 0, f"objective.{key} {weight}: give 0 or more")
            _require(
                not weight or part in named,
                f"objective.{key} {weight}: objective.name {self.name} has no {part}; add +{part} to it",
            )

    def weight(self, part: str) -> float:
        """Weight of one part in the sum."""
        given = getattr(self, weight_key(part), None)
        return WEIGHTS.get(part, 1.0) if given is None else given


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Batches. One optimizer step is `micro_batches` micro-batches, whatever the number of processes."""

    frames: int = 4096  # stored frames (25 Hz) of one micro-batch, counted after padding
    max_frames: int | None = None  # longest utterance used, in a batch of its own if over `frames`; null: `frames`
    max_utterances: int | None = None  # most utterances of one micro-batch; null: as many as `frames` allows
    micro_batches: int = 1  # micro-batches in one optimizer step, over all processes
    window: int = 32_768  # utterances shuffled, then bucketed by length, together
    bucket_utterances: int = 512  # utterances that a length bucket holds at least; 1: all buckets are 10 % wide
    prefetch: int = 4  # steps read ahead of training

    def __post_init__(self) -> None:
        for name in ("frames", "micro_batches", "window", "bucket_utterances", "prefetch"):
            _require(getattr(self, name) >= 1, f"data.{name} {getattr(self, name)}: give 1 or more")
        for name in ("max_frames", "max_utterances"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"data.{name} {value}: give 1 or more, or null")


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """AdamW (paper)."""

    lr: float = 1e-4  # largest learning rate (paper)
    betas: tuple[float, ...] = (0.9, 0.98)  # decay of AdamW's two moments
    weight_decay: float = 0.01  # AdamW's decay of weights towards 0
    clip: float = 1.0  # largest gradient norm; 0 switches clipping off
    ema: float = 0.0  # decay of a moving average of the weights, which is then validated and kept; 0: none

    def __post_init__(self) -> None:
        _require(0 < self.lr < math.inf, f"optimizer.lr {self.lr}: give a positive number")
        _require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"optimizer.betas {self.betas}: give two numbers in [0, 1)",
        )
        _require(self.weight_decay >= 0, f"optimizer.weight_decay {self.weight_decay}: give 0 or more")
        _require(0 <= self.ema < 1, f"optimizer.ema {self.ema}: give 0 or more, below 1")
        _require(self.clip >= 0, f"optimizer.clip {self.clip}: give 0 or more")


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """Learning rate over the steps."""

    steps: int = 2_000_000  # optimizer steps (paper); 0 writes the untrained projector
    warmup: int = 100_000  # steps in which the learning rate rises linearly from 0 (paper)
    shape: str = "cosine"  # after the warm-up: cosine to 0 (paper, stage 1) or constant (paper, stage 2)

    def __post_init__(self) -> None:
        _require(self.steps >= 0, f"schedule.steps {self.steps}: give 0 or more")
        _require(
            0 <= self.warmup <= self.steps or self.steps == 0,
            f"schedule.warmup {self.warmup}: give 0 to {self.steps} (schedule.steps)",
        )
        _require(self.shape in SCHEDULES, f"schedule.shape {self.shape!r}: use one of {', '.join(SCHEDULES)}")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How the run is executed; of these only `precision` and `stop_at_eet` change the result."""

    precision: str = "auto"  # auto: bf16 on a GPU that has it, else fp32
    device: str = "auto"  # auto (a GPU where there is one) or cpu
    log_every: int = 50  # steps between lines of metrics.jsonl
    eval_every: int = 5000  # steps between validations; 0: only at the end
    eval_utterances: int = 500  # utterances of the validation split that are used; 0 switches validation off
    save_every: int = 5000  # steps between checkpoints; 0: only at the end
    keep: int = 2  # newest checkpoints kept
    max_skipped: int = 20  # steps in a row with a non-finite gradient before the run stops
    examples: int = 5  # validation readouts written to examples.txt
    compile: bool = False  # torch.compile the projector's blocks; needs a C++ compiler
    eet: str | None = None  # eet.json of `sm-eval eet`: validation logs its distance to that threshold
    stop_at_eet: bool = False  # end once validation is below it
    trackers: tuple[str, ...] = ("tensorboard",)  # where metrics go too: tensorboard, wandb, mlflow, trackio

    def __post_init__(self) -> None:
        _require(self.precision in PRECISIONS, f"run.precision {self.precision!r}: use {', '.join(PRECISIONS)}")
        _require(self.device in ("auto", "cpu"), f"run.device {self.device!r}: use auto or cpu")
        for name in ("eval_every", "eval_utterances", "save_every", "examples"):
            _require(getattr(self, name) >= 0, f"run.{name} {getattr(self, name)}: give 0 or more")
        for name in ("log_every", "keep", "max_skipped"):
            _require(getattr(self, name) >= 1, f"run.{name} {getattr(self, name)}: give 1 or more")
        _require(not self.stop_at_eet or self.eet is not None, "run.stop_at_eet: set run.eet to the threshold's file")
        unknown = [name for name in self.trackers if name not in TRACKERS]
        _require(not unknown, f"run.trackers {unknown}: use {', '.join(TRACKERS)}")


@dataclass(frozen=True, slots=True)
class TuningConfig:
    """What stage 2 asks of the LLM."""

    task: str = "asr"  # a task, its YAML file, `mix`, or rates such as asr=0.5,sqa=0.5 (docs/adding-a-task.md)
    sigma: float = 0.9  # weight of the MSE term; paper: 0.9 for CE + MSE, 0 for CE alone
    asr_share: float = 0.0  # share of utterances trained as ASR in st and sqa; with task sqa 0.5 (paper)
    languages: tuple[str, ...] = ()  # of translations, such as [de, fr]; empty: every one the manifest has
    prompts: str | None = None  # YAML with your own wordings by task, instead of the shipped ones
    llm_dtype: str = "auto"  # auto: bfloat16 on a GPU that has it, else float32
    head: str | None = None  # what the LLM is given, in place of the projector's own head (docs/objectives.md)
    trim: bool | None = None  # give the LLM no vectors from the first pad on (head vectors); null: the projector's own
    loss: str = "ce"  # beside the objective: ce, or kd, the LLM's first objective.kd_layers layers alone (asr only)
    unseen_tasks: tuple[str, ...] = ()  # asked by validation, not trained: tasks or their YAML files; changes no weight

    def __post_init__(self) -> None:
        _require(0 <= self.sigma <= 1, f"tuning.sigma {self.sigma}: give a number from 0 to 1")
        _require(0 <= self.asr_share <= 1, f"tuning.asr_share {self.asr_share}: give a number from 0 to 1")
        _require(self.loss in LOSSES, f"tuning.loss {self.loss!r}: use {', '.join(LOSSES)}")
        _require(
            self.loss != "kd" or self.task == "asr",
            f"tuning.loss kd: it learns transcripts, not the answers of tuning.task {self.task}; set one of the two",
        )


@dataclass(frozen=True, slots=True)
class LlmConfig:
    """How the frozen LLM is loaded and executed (docs/training.md); its dtype is `tuning.llm_dtype`."""

    attention: str = "auto"  # attention kernels of transformers: sdpa, eager, flash_attention_2, ...; auto: its choice
    shard: bool = False  # divide its layers among the processes (FSDP); the projector is in each of them
    checkpointing: bool = False  # layers run again for their gradient: less memory, more time; results are the same
    quantize: str = NONE  # its layers' weights by bitsandbytes: 4bit (nf4), 8bit, or none (docs/stage2.md)

    def __post_init__(self) -> None:
        _require(self.attention in ATTENTIONS, f"llm.attention {self.attention!r}: use one of {', '.join(ATTENTIONS)}")
        _require(self.quantize in QUANTIZATIONS, f"llm.quantize {self.quantize!r}: use {', '.join(QUANTIZATIONS)}")
        whole = not (self.shard and self.quantize != NONE)
        _require(whole, f"llm.shard: it cannot be combined with llm.quantize={self.quantize}; leave one of the two out")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Low-rank adapters of the LLM (arXiv 2106.09685), trained beside the projector; numbers are our own."""

    rank: int = 0  # of each adapter; 0: none, the LLM is as it was loaded
    alpha: int | None = None  # an adapter's output is multiplied by alpha / rank; null: twice the rank
    dropout: float = 0.0  # share of an adapter's inputs dropped in training
    targets: tuple[str, ...] = ("all-linear",)  # layers with adapters, as peft names them: q_proj, v_proj, ...
    lr: float | None = None  # largest learning rate of the adapters; null: optimizer.lr

    def __post_init__(self) -> None:
        _require(self.rank >= 0, f"lora.rank {self.rank}: give 0 or more")
        _require(self.alpha is None or self.alpha >= 1, f"lora.alpha {self.alpha}: give 1 or more, or null")
        _require(0 <= self.dropout < 1, f"lora.dropout {self.dropout}: give 0 or more, below 1")
        _require(len(self.targets) >= 1, "lora.targets: name at least one layer, or all-linear")
        _require(self.lr is None or 0 < self.lr < math.inf, f"lora.lr {self.lr}: give a positive number, or null")

    @property
    def resolved_alpha(self) -> int:
        """`alpha`, or its default."""
        return 2 * self.rank if self.alpha is None else self.alpha


@dataclass(frozen=True, slots=True)
class Stage1Config:
    """`sm-train stage1`."""

    seed: int = 1  # of the weights, the order and the dropout
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        _require_seed(self.seed)


@dataclass(frozen=True, slots=True)
class Stage2Config:
    """`sm-train stage2`; the projector's sizes come from its stage 1 run."""

    seed: int = 1  # of the weights, the order and the dropout
    tuning: TuningConfig = field(default_factory=TuningConfig)
    llm: LlmConfig = field(default_factory=LlmConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    objective: ObjectiveConfig = field(default_factory=lambda: ObjectiveConfig(AUTO))
    # batch 12, accumulation 8, 1 K steps, constant 5e-5 (paper, CE + MSE)
    data: DataConfig = field(default_factory=lambda: DataConfig(frames=10_500, max_utterances=12, micro_batches=8))
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=5e-5))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(1000, 0, "constant"))
    run: RunConfig = field(default_factory=lambda: RunConfig(log_every=10, eval_every=250, save_every=250))

    def __post_init__(self) -> None:
        _require_seed(self.seed)
        if self.lora.rank:
            given = f"lora.rank {self.lora.rank}"
            trained = self.tuning.sigma < 1 and self.tuning.loss == "ce"
            _require(trained, f"{given}: cross-entropy alone trains adapters; set tuning.loss=ce and tuning.sigma < 1")
            _require(self.optimizer.ema == 0, f"{given}: the moving average has no adapters; set optimizer.ema=0")
