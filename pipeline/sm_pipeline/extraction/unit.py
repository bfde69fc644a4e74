"""Work units: read their audio, encode it, average the frames, tokenize the texts, commit a shard each.

    with closing(UnitWorker(setup)) as worker:              loads the encoder and opens the store, once per process
        worker.run_one(UnitWork(unit, utterances))          UnitResult(shard=3, written=510, rejects={"too_short": 2})

    Utterance --Decoders--> Waveform --BatchEncoder--> 25 Hz, float16 --commit--> shard
                 processes            this thread                     a thread

While a unit is encoded, the audio of its next batches, and then of the next unit, is read, and the previous unit is
written. Utterances that are the same part of the same file (questions about one document) are read and encoded once,
and each gets the features. A unit's bytes depend on its utterances and the setup alone. On a CPU every worker computes
with one thread, because the number of threads changes the last bits; more cores mean more workers. Any problem with a
single utterance sends it to the shard's reject ledger.
"""

from __future__ import annotations

import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from sm_pipeline.audio import Cut, Waveform, file_seconds, read_audio
from sm_pipeline.encoders import load_encoder
from sm_pipeline.encoders.base import Encoder
from sm_pipeline.extraction.decoders import Decoders
from sm_pipeline.extraction.encoding import BatchEncoder, Started, keep_memory, single_thread
from sm_pipeline.extraction.plan import WorkUnit, plan_batches, same_audio
from sm_pipeline.manifest import Utterance
from sm_pipeline.models.tokenizer import TextTokenizer
from sm_pipeline.text import normalise
from sm_store import Geometry, Record, Reject, Store
from sm_store.dtypes import is_finite
from sm_store.errors import SampleError, StoreBusy
from sm_store.identity import diff_json, require_same

DECODERS = {"cpu": 1, "cuda": 8}  # processes per worker; on a CPU the encoder needs the core itself
BATCHES_AHEAD = {"cpu": 2, "cuda": 8}  # whose audio is read while one is encoded


@dataclass(frozen=True, slots=True)
class UnitWork:
    """A work unit with its utterances: what a worker is given."""

    unit: WorkUnit
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """The settings of every worker of a run: plain values, so that they can be sent to another process.

    Attributes:
        store: path of the store. audio_root: folder of the manifest's audio paths.
        targets: name of the target set to write with the features, None for none.
        encoder, layer, device, compute_dtype: as `load_encoder` takes them.
        average: frames averaged into one. dtype: of the stored features.
        max_seconds: limit of an utterance. batch_seconds: padded seconds of audio encoded at once.
        keep_rejects: whether rejects are written to the ledger; False when they are there already, and then a unit
            of rejects alone makes no shard.
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
    keep_rejects: bool = True


@dataclass(frozen=True, slots=True)
class UnitResult:
    """The outcome of a unit.

    Attributes:
        busy: another process is working on it; nothing was done. skipped: it was committed meanwhile.
        utterances: in the unit. written: in the shard. rejects: the others, by reason.
        audio_seconds: of audio encoded; what utterances share counts once. padded_seconds: the same with padding.
        halved: batches that did not fit into the GPU's memory.
        seconds: spent, by part of the work (read = waiting for audio, encode, commit).
    """

    shard: int
    utterances: int
    written: int = 0
    rejects: Mapping[str, int] = field(default_factory=dict)
    audio_seconds: float = 0.0
    padded_seconds: float = 0.0
    halved: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    busy: bool = False
    skipped: bool = False


class UnitWorker:
    """Processes units one after another with one encoder; `close` ends its decoding processes."""

    def __init__(self, setup: WorkerSetup, encoder: Encoder | None = None) -> None:
        self._store = Store.open(setup.store)
        if encoder is None:
            encoder = load_encoder(setup.encoder, setup.layer, setup.device, setup.compute_dtype)
            same = diff_json(self._store.identity.encoder, encoder.identity())
            require_same(same, f"{setup.store}: the encoder that {socket.gethostname()} loads")
        kind = "cuda" if setup.device.startswith("cuda") else "cpu"
        if kind == "cpu":
            keep_memory()
        self._setup = setup
        self._ahead = BATCHES_AHEAD[kind]
        self._batches = BatchEncoder(encoder, setup.average, setup.dtype)
        self._tokenizer = None
        if setup.targets is not None:
            self._tokenizer = TextTokenizer.from_target_set(self._store.targets(setup.targets))
        self._decoders = Decoders(DECODERS[kind])

    def close(self) -> None:
        self._decoders.close()

    def run_one(self, work: UnitWork, advance: Callable[[int], object] = lambda count: None) -> UnitResult:
        """Extract a unit into its shard, unless the shard exists or another process is working on it.

        Args:
            advance: called with how many more utterances were processed.
        """
        queue = deque([work])
        (result,) = self.run(lambda _wait: queue.popleft() if queue else None, advance)
        return result

    def run(
        self, next_work: Callable[[bool], UnitWork | None], advance: Callable[[int], object] = lambda count: None
    ) -> Iterator[UnitResult]:
        """Process units as they come and yield a result for each, in order; a unit starts while the previous one is
        being written.

        Args:
            next_work: gives the next unit. Called with True it may wait for one, and None is the end; called with
                False it must not wait, and None means that there is none at the moment.
        """
        begun: list[_UnitInProgress] = []
        writing: deque[Future[UnitResult]] = deque()
        try:
            with ThreadPoolExecutor(1, "commit") as writer:
                while True:
                    if not begun:
                        self._begin(next_work(not writing), begun)
                    if not begun and not writing:
                        return
                    for all_read in self._encode(begun[0], advance) if begun else ():
                        if all_read and len(begun) == 1:
                            self._begin(next_work(False), begun)
                        if writing and writing[0].done():
                            yield writing.popleft().result()
                    if writing:
                        yield writing.popleft().result()
                    if begun:
                        writing.append(writer.submit(self._finish, begun.pop(0)))
        finally:
            for work in begun:
                work.claim.close()

    def _begin(self, given: UnitWork | None, begun: list[_UnitInProgress]) -> None:
        """Claim a unit and start reading its first audio; a unit that is claimed elsewhere or done has no batches."""
        if given is None:
            return
        work = _UnitInProgress(given)
        begun.append(work)
        try:
            work.skipped = not work.claim.enter_context(self._store.claim(given.unit.shard))
        except StoreBusy:
            work.busy = True
        if not work.skipped and not work.busy:
            groups = self._groups(given.utterances)
            lengths = self._lengths([given.utterances[group[0]] for group in groups])
            batches = plan_batches(lengths, self._setup.batch_seconds)
            work.unread.extend([groups[place] for place in batch] for batch in batches)
        for _ in range(self._ahead):
            self._read_on(work)

    def _groups(self, utterances: Sequence[Utterance]) -> list[list[int]]:
        """Positions of utterances with the same audio; one without text, which will be rejected, is by itself."""
        return same_audio(
            [each.segment if self._has_text(each) else position for position, each in enumerate(utterances)]
        )

    def _has_text(self, utterance: Utterance) -> bool:
        return bool(normalise(utterance.text, self._store.identity.normalizer))

    def _lengths(self, utterances: Sequence[Utterance]) -> list[float]:
        """Seconds of each utterance for batching: as the manifest says, else by the file's header."""
        root = self._setup.audio_root
        headers = [
            self._decoders.submit(file_seconds, root / each.audio) if each.duration is None else None
            for each in utterances
        ]
        lengths = []
        for utterance, header in zip(utterances, headers, strict=True):
            if header is None:
                lengths.append(utterance.duration or 0.0)
                continue
            try:
                whole = header.result() or 0.0
            except SampleError:  # it will be rejected when it is read
                whole = 0.0
            lengths.append(min(max(whole - (utterance.offset or 0.0), 0.0), self._setup.max_seconds))
        return lengths

    def _read_on(self, work: _UnitInProgress) -> None:
        """Start reading one more batch of a unit."""
        if work.unread:
            batch = work.unread.popleft()
            work.reading.append((batch, [self._read(work.utterances[group[0]]) for group in batch]))

    def _read(self, utterance: Utterance) -> Future[Waveform]:
        """Start reading an utterance; the future raises SampleError where it cannot be used."""
        if not self._has_text(utterance):
            empty: Future[Waveform] = Future()
            empty.set_exception(SampleError("text_empty", f"nothing is left of {utterance.text[:40]!r}"))
            return empty
        cut = Cut(utterance.offset, utterance.duration)
        path = self._setup.audio_root / utterance.audio
        return self._decoders.submit(read_audio, path, cut, self._setup.max_seconds, utterance.sha256)

    def _encode(self, work: _UnitInProgress, advance: Callable[[int], object]) -> Iterator[bool]:
        """Encode a unit batch by batch; the features of a batch are fetched while the next one is computed.

        Yields whether all of the unit's audio is being read, after each batch.
        """
        halved = self._batches.halved
        before: Callable[[], None] | None = None
        while work.reading:
            batch, futures = work.reading.popleft()
            self._read_on(work)
            began = time.monotonic()
            good = work.received(batch, futures)
            read = time.monotonic()
            if good:
                with single_thread(self._setup.device):
                    parts = self._batches.start([wave.samples for _, wave in good])
                if before is not None:
                    before()
                before = partial(work.encoded, [group for group, _ in good], parts)
            work.seconds["read"] += read - began
            work.seconds["encode"] += time.monotonic() - read
            advance(sum(map(len, batch)))
            yield not work.unread
        if before is not None:
            before()
        work.halved = self._batches.halved - halved

    def _finish(self, work: _UnitInProgress) -> UnitResult:
        """Write a unit's shard and release the claim."""
        unit, utterances = work.unit, work.utterances
        with work.claim:
            if work.skipped or work.busy:
                return UnitResult(unit.shard, len(utterances), busy=work.busy, skipped=work.skipped)
            began = time.monotonic()
            self._commit(work)
            work.seconds["commit"] += time.monotonic() - began
        reasons = Counter(reject.reason for reject in work.rejects if reject is not None)
        return UnitResult(
            unit.shard,
            len(utterances),
            len(utterances) - sum(reasons.values()),
            dict(reasons),
            work.audio_seconds,
            work.padded_seconds,
            work.halved,
            dict(work.seconds),
        )

    def _commit(self, work: _UnitInProgress) -> None:
        records: list[Record] = []
        token_ids: list[np.ndarray] = []
        for index, utterance in enumerate(work.utterances):
            features_TD = work.features[index]
            if features_TD is None:
                continue
            ids = self._tokenizer.token_ids(utterance.text) if self._tokenizer else None
            try:
                check_usable(features_TD, ids, self._tokenizer, self._setup.dtype)
            except SampleError as error:
                work.rejects[index] = Reject(utterance.id, error.reason, error.detail)
                continue
            records.append(Record(utterance.id, features_TD, utterance.fields(work.wave_seconds[index])))
            if ids is not None:
                token_ids.append(ids)
        if not self._setup.keep_rejects and not records:
            return
        rejects = [reject for reject in work.rejects if reject is not None and self._setup.keep_rejects]
        sets = {self._setup.targets: token_ids} if self._setup.targets is not None else {}
        self._store.commit(work.unit.shard, records, rejects, sets)


class _UnitInProgress:
    """A unit in progress: per utterance either features or a reject, and the time spent.

    A batch is a list of groups: the positions of the utterances that share one audio.
    """

    def __init__(self, given: UnitWork) -> None:
        utterances = len(given.utterances)
        self.unit, self.utterances = given.unit, given.utterances
        self.claim = ExitStack()
        self.busy = self.skipped = False
        self.unread: deque[list[list[int]]] = deque()
        self.reading: deque[tuple[list[list[int]], list[Future[Waveform]]]] = deque()
        self.features: list[np.ndarray | None] = [None] * utterances
        self.rejects: list[Reject | None] = [None] * utterances
        self.wave_seconds = [0.0] * utterances
        self.audio_seconds = 0.0
        self.padded_seconds = 0.0
        self.halved = 0
        self.seconds = dict.fromkeys(("read", "encode", "commit"), 0.0)

    def received(
        self, batch: Sequence[list[int]], futures: Sequence[Future[Waveform]]
    ) -> list[tuple[list[int], Waveform]]:
        """The waveforms of a batch with their groups; what cannot be used is rejected."""
        good: list[tuple[list[int], Waveform]] = []
        for group, future in zip(batch, futures, strict=True):
            try:
                good.append((group, future.result()))
            except SampleError as error:
                for index in group:
                    self.rejects[index] = Reject(self.utterances[index].id, error.reason, error.detail)
        for group, wave in good:
            for index in group:
                self.wave_seconds[index] = wave.seconds
            self.audio_seconds += wave.seconds
        self.padded_seconds += len(good) * max((wave.seconds for _, wave in good), default=0.0)
        return good

    def encoded(self, groups: Sequence[list[int]], parts: Sequence[Started]) -> None:
        """Keep the features of a batch."""
        rows = (features_TD for part in parts for features_TD in part.features())
        for group, features_TD in zip(groups, rows, strict=True):
            for index in group:
                self.features[index] = features_TD


def check_usable(features_TD: np.ndarray, ids: np.ndarray | None, tokenizer: TextTokenizer | None, dtype: str) -> None:
    """Check that a record can be stored, with its target if there is one.

    Raises:
        SampleError: too_short, features_not_finite or text_too_long.
    """
    geometry = tokenizer.geometry if tokenizer is not None else Geometry()
    num_vectors = geometry.num_vectors(len(features_TD))
    if num_vectors < 1:
        raise SampleError("too_short", f"{len(features_TD)} frames; one vector takes {geometry.min_frames()}")
    if not is_finite(features_TD, dtype):
        raise SampleError("features_not_finite", f"NaN, or beyond the range of {dtype}")
    if ids is not None and len(ids) + 1 > num_vectors:
        raise SampleError("text_too_long", f"{len(ids)} tokens + 1 pad > {num_vectors} vectors")
