"""One work unit: read its audio, encode it, average the frames, tokenise the texts, commit the shard.

    worker = UnitWorker(setup)            loads the encoder and opens the store, once a process
    worker.run(unit, utterances)          UnitResult(shard=3, written=510, rejects={"too_short": 2}, ...)

    Utterance --read_audio--> Waveform --encoder--> 50 Hz --average--> 25 Hz, float16 --commit--> shard

A unit's bytes depend on its utterances and the setup alone. On a CPU every worker computes with one thread,
because the number of threads changes the last bits; more cores mean more workers. Whatever is wrong with a
single utterance sends it to the shard's reject ledger.

Shapes: B batch, T encoder frames, D encoder width.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sm_pipeline.audio import Cut, Waveform, file_seconds, read_audio
from sm_pipeline.encoders import load_encoder
from sm_pipeline.encoders.base import Encoder
from sm_pipeline.manifest import Utterance
from sm_pipeline.plan import WorkUnit, plan_batches
from sm_pipeline.targets import Tokeniser
from sm_pipeline.text import normalise
from sm_store import Geometry, Record, Reject, Store
from sm_store.dtypes import is_finite
from sm_store.errors import SampleError, StoreBusy

STORE_TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
BATCHES_AHEAD = 2  # batches whose audio is read while one is encoded
READER_THREADS = {"cpu": 1, "cuda": 8}  # on a CPU the encoder needs the core itself


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What every worker of a run needs to know; plain values, so that it can be sent to another process.

    Attributes:
        store: path of the store. audio_root: folder of the manifest's audio paths.
        targets: name of the target set to write with the features, None for none.
        encoder, layer, device, compute_dtype: as `load_encoder` takes them.
        average: frames averaged into one. dtype: of the stored features.
        max_seconds: limit of an utterance. batch_seconds: padded seconds of audio encoded at once.
    """

    store: Path
    audio_root: Path
    targets: str | None
    encoder: str
    layer: int | None
    device: str
    compute_dtype: str
    average: int
    dtype: str
    max_seconds: float
    batch_seconds: float


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What became of a unit.

    Attributes:
        busy: another process is making it; nothing was done. skipped: it was committed meanwhile.
        utterances: in the unit. written: in the shard. rejects: the others, by reason.
        audio_seconds: of audio encoded. padded_seconds: what the encoder computed, padding included.
        seconds: spent, by part of the work (read = waiting for audio, encode, commit).
    """

    shard: int
    utterances: int
    written: int = 0
    rejects: Mapping[str, int] = field(default_factory=dict)
    audio_seconds: float = 0.0
    padded_seconds: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    busy: bool = False
    skipped: bool = False


class UnitWorker:
    """Runs units one after another with one encoder."""

    def __init__(self, setup: WorkerSetup, encoder: Encoder | None = None) -> None:
        self._setup = setup
        self._encoder = encoder or load_encoder(setup.encoder, setup.layer, setup.device, setup.compute_dtype)
        self._store = Store.open(setup.store)
        self._tokeniser = None
        if setup.targets is not None:
            self._tokeniser = Tokeniser.from_target_set(self._store.targets(setup.targets))

    def run(
        self,
        unit: WorkUnit,
        utterances: Sequence[Utterance],
        advance: Callable[[int], object] = lambda count: None,
    ) -> UnitResult:
        """Make the unit's shard, unless it exists or another process is making it.

        Args:
            advance: told how many more utterances were worked on.
        """
        try:
            with self._store.claim(unit.shard) as mine, single_thread(self._setup.device):
                if not mine:
                    return UnitResult(unit.shard, len(utterances), skipped=True)
                return self._make(unit, utterances, advance)
        except StoreBusy:
            return UnitResult(unit.shard, len(utterances), busy=True)

    def _make(self, unit: WorkUnit, utterances: Sequence[Utterance], advance: Callable[[int], object]) -> UnitResult:
        work = _Work(len(utterances))
        lengths = [self._seconds(utterance) for utterance in utterances]
        batches = plan_batches(lengths, self._setup.batch_seconds)
        for indices, waves in self._read_ahead(batches, utterances, work):
            began = time.monotonic()
            self._encode(indices, waves, work)
            work.seconds["encode"] += time.monotonic() - began
            advance(len(indices))
        began = time.monotonic()
        self._commit(unit.shard, utterances, work)
        work.seconds["commit"] += time.monotonic() - began
        reasons = Counter(reject.reason for reject in work.rejects if reject is not None)
        written = len(utterances) - sum(reasons.values())
        return UnitResult(
            unit.shard,
            len(utterances),
            written,
            dict(reasons),
            work.audio_seconds,
            work.padded_seconds,
            dict(work.seconds),
        )

    def _seconds(self, utterance: Utterance) -> float:
        """Length to batch by: as promised, else by the file's header."""
        if utterance.duration is not None:
            return utterance.duration
        whole = file_seconds(self._setup.audio_root / utterance.audio) or 0.0
        return min(max(whole - (utterance.offset or 0.0), 0.0), self._setup.max_seconds)

    def _read_ahead(
        self, batches: Sequence[Sequence[int]], utterances: Sequence[Utterance], work: _Work
    ) -> Iterator[tuple[list[int], list[Waveform]]]:
        """The batches' audio, read by threads ahead of the encoder; utterances that cannot be used are left
        out."""
        threads = READER_THREADS["cuda" if self._setup.device.startswith("cuda") else "cpu"]
        with ThreadPoolExecutor(threads) as pool:

            def submit(batch: Sequence[int]) -> list[Future[Waveform | Reject]]:
                return [pool.submit(self._read, utterances[index]) for index in batch]

            waiting = [submit(batch) for batch in batches[:BATCHES_AHEAD]]
            for number, batch in enumerate(batches):
                if number + BATCHES_AHEAD < len(batches):
                    waiting.append(submit(batches[number + BATCHES_AHEAD]))
                began = time.monotonic()
                read = [future.result() for future in waiting.pop(0)]
                work.seconds["read"] += time.monotonic() - began
                good: list[tuple[int, Waveform]] = []
                for index, result in zip(batch, read, strict=True):
                    if isinstance(result, Reject):
                        work.rejects[index] = result
                    else:
                        good.append((index, result))
                if good:
                    yield [index for index, _ in good], [wave for _, wave in good]

    def _read(self, utterance: Utterance) -> Waveform | Reject:
        try:
            if not normalise(utterance.text):
                raise SampleError("text_empty", f"nothing is left of {utterance.text[:40]!r}")
            cut = Cut(utterance.offset, utterance.duration)
            return read_audio(self._setup.audio_root / utterance.audio, cut, self._setup.max_seconds)
        except SampleError as error:
            return Reject(utterance.id, error.reason, error.detail)

    def _encode(self, indices: Sequence[int], waves: Sequence[Waveform], work: _Work) -> None:
        features_BTD, frames_B = self._encoder.encode([wave.samples for wave in waves])
        rows = store_features(features_BTD, frames_B, self._setup.average, self._setup.dtype)
        for index, wave, features_TD in zip(indices, waves, rows, strict=True):
            work.features[index] = features_TD
            work.wave_seconds[index] = wave.seconds
            work.audio_seconds += wave.seconds
        work.padded_seconds += len(waves) * max(wave.seconds for wave in waves)

    def _commit(self, shard: int, utterances: Sequence[Utterance], work: _Work) -> None:
        records: list[Record] = []
        token_ids: list[np.ndarray] = []
        for index, utterance in enumerate(utterances):
            features_TD = work.features[index]
            if features_TD is None:
                continue
            ids = self._tokeniser.token_ids(utterance.text) if self._tokeniser else None
            try:
                check_usable(features_TD, ids, self._tokeniser, self._setup.dtype)
            except SampleError as error:
                work.rejects[index] = Reject(utterance.id, error.reason, error.detail)
                continue
            records.append(Record(utterance.id, features_TD, utterance.fields(work.wave_seconds[index])))
            if ids is not None:
                token_ids.append(ids)
        rejects = [reject for reject in work.rejects if reject is not None]
        sets = {self._setup.targets: token_ids} if self._setup.targets is not None else {}
        self._store.commit(shard, records, rejects, sets)


class _Work:
    """A unit in the making: per utterance either features or a reject, and where the time went."""

    def __init__(self, utterances: int) -> None:
        self.features: list[np.ndarray | None] = [None] * utterances
        self.rejects: list[Reject | None] = [None] * utterances
        self.wave_seconds = [0.0] * utterances
        self.audio_seconds = 0.0
        self.padded_seconds = 0.0
        self.seconds = dict.fromkeys(("read", "encode", "commit"), 0.0)


@contextmanager
def single_thread(device: str) -> Iterator[None]:
    """On a CPU, compute with one thread while the block runs; a GPU does not mind."""
    before = torch.get_num_threads()
    if not device.startswith("cuda"):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def store_features(features_BTD: torch.Tensor, frames_B: Sequence[int], average: int, dtype: str) -> list[np.ndarray]:
    """Averaged features in the store's dtype, one contiguous (T, D) array an utterance.

    bfloat16 comes as its uint16 bits.
    """
    stored_BTD = average_frames(features_BTD, average).to(STORE_TORCH_DTYPES[dtype])
    if dtype == "bfloat16":
        stored_BTD = stored_BTD.view(torch.uint16)
    array_BTD = stored_BTD.cpu().numpy()
    return [array_BTD[row, : frames // average].copy() for row, frames in enumerate(frames_B)]


def average_frames(features_BTD: torch.Tensor, k: int) -> torch.Tensor:
    """Mean of each k consecutive frames, (..., T, D) to (..., T // k, D); what is left over is dropped."""
    kept = features_BTD.shape[-2] // k
    return features_BTD[..., : kept * k, :].unflatten(-2, (kept, k)).mean(dim=-2)


def check_usable(features_TD: np.ndarray, ids: np.ndarray | None, tokeniser: Tokeniser | None, dtype: str) -> None:
    """Whether a record can be stored, with its target if there is one.

    Raises:
        SampleError: too_short, features_not_finite or text_too_long.
    """
    geometry = tokeniser.geometry if tokeniser is not None else Geometry()
    num_vectors = geometry.num_vectors(len(features_TD))
    if num_vectors < 1:
        raise SampleError("too_short", f"{len(features_TD)} frames; one vector takes {geometry.min_frames()}")
    if not is_finite(features_TD, dtype):
        raise SampleError("features_not_finite", f"NaN, or beyond the range of {dtype}")
    if ids is not None and len(ids) + 1 > num_vectors:
        raise SampleError("text_too_long", f"{len(ids)} tokens + 1 pad > {num_vectors} vectors")
