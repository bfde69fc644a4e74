"""Audio files to 16 kHz mono: decode, cut, mix, resample, and check the file against its manifest line.

    read_audio(Path("talk.mp3"), Cut(offset=12.5, duration=1.2))  ->  Waveform of 19200 samples

    file --magic bytes--> soundfile --blocks, channels averaged--> cut --soxr--> float32 at 16 kHz

Any problem with a file is a `SampleError` with a reason of `sm_store.ledger.REASONS`: one utterance is rejected
and the run continues. No memory is allocated by what a header claims: samples are read block by block until
the file ends or the limit is reached. A truncated file looks whole to libsndfile, so the size in its header is
checked here (`audio_headers`).

Without an offset the file is the utterance: one whose length is not what the manifest says is rejected, since the text
would belong to other audio. Channels of opposite phase cancel in their average: where it loses more than nine tenths of
the energy that independent channels would keep, the loudest channel is taken instead.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from sm_pipeline import audio_headers
from sm_pipeline.config import MAX_SECONDS
from sm_store.errors import InputError, SampleError

SAMPLE_RATE = 16_000  # Hz, of every waveform
PROMISE_TOLERANCE = 0.1  # seconds a file may be shorter than its manifest line or header says
LONGER_TOLERANCE = 0.25  # seconds it may be longer: MP3 encoders pad, manifests round
CANCELLED = 0.1  # share of the energy that independent channels keep in their average, under which they cancel
BLOCK_FRAMES = 1 << 18
RATES = (1_000, 768_000)  # Hz, of plausible files
MAX_CHANNELS = 64
RESAMPLER = "soxr-hq"
HEADER_BYTES = 44  # of a plain WAV
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)


@dataclass(frozen=True, slots=True)
class Waveform:
    """Mono audio: float32 samples, (samples,), at `rate` Hz."""

    samples: np.ndarray
    rate: int = SAMPLE_RATE

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a file that is the utterance.

    Attributes:
        offset: its start in seconds; None: the file is the utterance.
        duration: its length in seconds as the manifest promises; None: to the end of the file.
    """

    offset: float | None = None
    duration: float | None = None


def read_audio(
    path: Path, cut: Cut | None = None, max_seconds: float = MAX_SECONDS, sha256: str | None = None
) -> Waveform:
    """Read one utterance as 16 kHz mono float32.

    Args:
        sha256: of the whole file's bytes, where the manifest gives it.

    Raises:
        SampleError: missing, not a plain file, of an unknown format, of another checksum, damaged, shorter or (without
            an offset) longer than the manifest says, too long, or with samples that are not finite.
    """
    part = cut or Cut()
    if part.duration is not None and part.duration > max_seconds:
        raise SampleError("too_long", f"{part.duration:.1f} s, and --max-seconds is {max_seconds:g}")
    head = _check_kind(path)
    if sha256 is not None:
        _check_bytes(path, sha256)
    try:
        with soundfile.SoundFile(os.fsencode(path)) as file:
            _check_layout(file, path)
            promised = part.duration if part.duration is not None else _claimed_seconds(file, head, path)
            samples = _read_part(file, part, max_seconds, path)
            rate = file.samplerate
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise SampleError("audio_unreadable", f"{path.name}: damaged ({_reason(error)})") from error
    if part.duration is None:
        promised -= part.offset or 0.0
    if len(samples) / rate < promised - PROMISE_TOLERANCE:
        raise SampleError("shorter_than_promised", f"{path.name}: {len(samples) / rate:.2f} s of {promised:.2f} s")
    if not np.isfinite(samples).all():
        raise SampleError("audio_not_finite", f"{path.name}: NaN or infinite samples")
    return Waveform(resampled(samples, rate))


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples (n,) at `rate` Hz as contiguous float32 at 16 kHz."""
    if rate != SAMPLE_RATE and len(samples):
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    return np.ascontiguousarray(samples, np.float32)


def as_float_samples(samples: np.ndarray) -> np.ndarray:
    """Samples as contiguous float32 of the same shape; integers as WAV files hold them are scaled to -1..1.

    Raises:
        InputError: neither floats nor uint8, int16 or int32.
    """
    if samples.dtype.kind == "f":
        return np.ascontiguousarray(samples, np.float32)
    if samples.dtype not in (np.uint8, np.int16, np.int32):
        raise InputError(f"audio array of type {samples.dtype}: give float32 in -1..1, int16, int32 or uint8")
    full = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return np.ascontiguousarray((samples - (full if samples.dtype == np.uint8 else 0.0)) / full, np.float32)


def file_seconds(path: Path) -> float | None:
    """Length of a file in seconds by its header, None where that is unknown. For planning only: reading decides."""
    try:
        _check_kind(path)
        with soundfile.SoundFile(os.fsencode(path)) as file:
            return float(file.frames / file.samplerate) if file.samplerate else None
    except (SampleError, soundfile.SoundFileError, OSError, RuntimeError):
        return None


def promised_seconds(path: Path) -> float | None:
    """Length of a file by the size in its header, more than there is where it was truncated; None where unknown."""
    try:
        head = _check_kind(path)
        with soundfile.SoundFile(os.fsencode(path)) as file:
            return _claimed_seconds(file, head, path) if file.samplerate else None
    except (SampleError, soundfile.SoundFileError, OSError, RuntimeError):
        return None


def _check_kind(path: Path) -> bytes:
    """The first bytes of a plain file of a known format; never waits on a FIFO or device."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "audio_missing" if error.errno in _NOT_THERE else "audio_unreadable"
        raise SampleError(reason, f"{path.name}: {os.strerror(error.errno or 0).lower()}") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise SampleError("audio_missing", f"{path.name}: not a plain file")
        head = os.read(handle, audio_headers.HEAD_BYTES)
    except OSError as error:
        raise SampleError("audio_unreadable", f"{path.name}: {os.strerror(error.errno or 0).lower()}") from error
    finally:
        os.close(handle)
    if not head:
        raise SampleError("audio_unreadable", f"{path.name}: an empty file")
    if audio_headers.format_of(head) is None:
        raise SampleError("audio_format", f"{path.name}: not {audio_headers.NAMES} by its first bytes")
    return head


def _check_bytes(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SampleError("audio_unreadable", f"{path.name}: {os.strerror(error.errno or 0).lower()}") from error
    if found != sha256:
        raise SampleError("checksum_mismatch", f"{path.name}: its sha256 is {found}, the manifest says {sha256}")


def _check_layout(file: soundfile.SoundFile, path: Path) -> None:
    if not RATES[0] <= file.samplerate <= RATES[1] or not 1 <= file.channels <= MAX_CHANNELS:
        detail = f"{path.name}: {file.samplerate} Hz, {file.channels} channels is not plausible"
        raise SampleError("audio_unreadable", detail)


def _claimed_seconds(file: soundfile.SoundFile, head: bytes, path: Path) -> float:
    """Seconds of audio by the size in the file's header, since libsndfile trims `frames` to the data present."""
    frames = float(file.frames)
    promised = audio_headers.promised_bytes(head)
    if promised is not None:
        there = path.stat().st_size
        frames += max(promised - there, 0) * frames / max(there - HEADER_BYTES, 1)
    return frames / float(file.samplerate)


def _read_part(file: soundfile.SoundFile, part: Cut, max_seconds: float, path: Path) -> np.ndarray:
    """Mono samples of the cut at the file's own rate, (samples,) float32."""
    rate = file.samplerate
    start = round((part.offset or 0.0) * rate)
    if start > file.frames:
        detail = f"{path.name}: begins at {part.offset:g} s of {file.frames / rate:.2f} s"
        raise SampleError("shorter_than_promised", detail)
    limit = int(max_seconds * rate)
    if part.duration is None:
        samples = _read_mono(file, start, limit + 1)
        if len(samples) > limit:
            raise SampleError("too_long", f"{path.name}: longer than --max-seconds {max_seconds:g}")
        return samples
    wanted = round(part.duration * rate)
    if part.offset is not None:
        return _read_mono(file, start, wanted)
    most = wanted + int(LONGER_TOLERANCE * rate)
    samples = _read_mono(file, start, most + 1)
    if len(samples) > most:
        detail = f"{path.name}: {max(file.frames, len(samples)) / rate:.2f} s, the manifest says {part.duration:.2f} s"
        raise SampleError("longer_than_promised", f"{detail}; give an offset if the text is of a part")
    return samples


def _read_mono(file: soundfile.SoundFile, start: int, at_most: int) -> np.ndarray:
    """Up to `at_most` frames from frame `start` on: the average of the channels, or where they cancel the loudest."""
    blocks: list[np.ndarray] = []
    energies_C = np.zeros(file.channels)
    for block in _blocks(file, start, at_most):
        if file.channels > 1:
            energies_C += np.square(block, dtype=np.float64).sum(axis=0)
        blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1, dtype=np.float32))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    independent = energies_C.sum() / file.channels**2  # energy of the average of channels that are independent
    if independent > 0 and np.square(samples, dtype=np.float64).sum() < CANCELLED * independent:
        loudest = int(energies_C.argmax())
        return np.concatenate([block[:, loudest] for block in _blocks(file, start, at_most)])
    return samples


def _blocks(file: soundfile.SoundFile, start: int, at_most: int) -> Iterator[np.ndarray]:
    """(frames, channels) float32 blocks of up to `at_most` frames from frame `start` on."""
    if start != file.tell():
        file.seek(start)
    left = at_most
    while left > 0:
        block = file.read(min(left, BLOCK_FRAMES), dtype="float32", always_2d=True)
        if not len(block):
            break
        yield block
        left -= len(block)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
