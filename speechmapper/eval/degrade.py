"""Worse recordings of the corpus that is there: `sm-eval asr RUN --manifest M --degrade noise=10dB,codec=opus8k`.

    condition = parse_condition("noise=10dB,speed=1.1")    ->  Condition((Step("noise", 10), Step("speed", 1.1)))
    degrade = condition.degrade(read_manifest(path))
    degrade(wave, "test-00007")                            ->  the same utterance, noisy, a tenth shorter

Waves are mono float32 at 16 kHz, (samples,). The steps are applied in the order given:

| step | what it does | library |
|---|---|---|
| `noise=10dB` | white Gaussian noise at this signal-to-noise ratio | numpy |
| `babble=5dB` | the sum of up to six other utterances of the manifest, none of the utterance's own speaker | numpy |
| `speed=1.1` | plays it so much faster, which raises the pitch too | soxr |
| `codec=opus8k` | encodes with Opus at 8 kbit/s and decodes again | libsndfile |
| `reverb` | the sound in a box-shaped room of random size, walls and places | pyroomacoustics |

What a step draws (noise, talkers, room) is a function of `seed` (0; `seed=3` in the list changes it), the utterance's
id and the step's name alone: an utterance sounds the same in whatever batch, order, split or process it comes, and at
10 dB in the same noise as at 5 dB. The signal-to-noise ratio is of the power of the speech without its pauses
(`speech_power`) to that of what is added. Ranges and what is drawn from are our own choices.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import soxr

from sm_pipeline.audio import SAMPLE_RATE, Cut
from sm_pipeline.manifest import Manifest, Utterance
from sm_store.errors import ConfigError, InputError
from sm_store.extras import extra_module
from speechmapper.audio_features import load_wave

Degrade = Callable[[np.ndarray, str], np.ndarray]  # (wave, id of the utterance) -> wave
Action = Callable[[np.ndarray, float, np.random.Generator, str], np.ndarray]  # (wave, number, draws, id) -> wave

WINDOW = SAMPLE_RATE // 50  # samples, 20 ms, over which the power of speech is measured
SPOKEN_WITHIN_DB = 30.0  # windows that are quieter than the loudest by more are pauses
TALKERS = 6  # of babble, at most
SEEDS = (0, 2**32 - 1)
ROOM_METRES = ((3.0, 8.0), (3.0, 6.0), (2.5, 3.5))  # length, width, height
REVERBERATION_SECONDS = (0.2, 0.6)  # until the sound has fallen by 60 dB
FROM_WALLS = 0.5  # metres, of speaker and microphone
OPUS_KBITS = (6.0, 256.0)  # what libsndfile offers per channel, linear in its `compression_level`


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of step: how it is written, as an example and a pattern, and the range of its number."""

    example: str
    pattern: str
    least: float = 0.0
    most: float = 0.0
    unit: str = ""

    @property
    def range(self) -> str:
        return f"{self.example} ({self.least:g} to {self.most:g}{self.unit})" if self.pattern else self.example


NUMBER = r"(-?[0-9]+(?:\.[0-9]+)?)"
KINDS = {
    "noise": Kind("noise=10dB", NUMBER + "dB", -20.0, 60.0, " dB"),
    "babble": Kind("babble=5dB", NUMBER + "dB", -20.0, 60.0, " dB"),
    "speed": Kind("speed=1.1", NUMBER, 0.5, 2.0),
    "codec": Kind("codec=opus8k", f"opus{NUMBER}k", *OPUS_KBITS, " kbit/s"),
    "reverb": Kind("reverb", ""),
}
SEED = Kind("seed=0", "([0-9]+)", *SEEDS)


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its kind, and its number in dB, in kbit/s or as a factor; 0.0 where it takes none."""

    name: str
    value: float = 0.0


@dataclass(frozen=True, slots=True)
class Condition:
    """A chain of steps, as given by `--degrade`."""

    given: str
    steps: tuple[Step, ...]
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """What about.json and metrics.json record as `condition`."""
        libraries = ["numpy", "soundfile", "soxr"]
        if any(step.name == "reverb" for step in self.steps):
            libraries.append("pyroomacoustics")
        versions = {name: importlib.metadata.version(name) for name in libraries}
        versions["libsndfile"] = soundfile.__libsndfile_version__
        steps = [
            {"step": step.name, **({"value": step.value} if KINDS[step.name].pattern else {})} for step in self.steps
        ]
        return {"degrade": self.given, "seed": self.seed, "steps": steps, "versions": versions}

    def degrade(self, manifest: Manifest) -> Degrade:
        """The function (wave, id) -> wave for the utterances of a manifest, whose audio is what babble is made of.

        Raises:
            ConfigError: babble, and no second speaker to take it from; reverb without its library.
        """
        makers: dict[str, Callable[[], Action]] = {
            "noise": lambda: add_noise,
            "babble": lambda: Babble(manifest).add,
            "speed": lambda: change_speed,
            "codec": lambda: code,
            "reverb": lambda: Rooms().reverberate,
        }
        actions = [(step, makers[step.name]()) for step in self.steps]

        def degraded(wave: np.ndarray, id_: str) -> np.ndarray:
            for number, (step, action) in enumerate(actions):
                if len(wave):
                    same_before = sum(step.name == other.name for other in self.steps[:number])
                    wave = action(wave, step.value, drawing(self.seed, id_, step.name, same_before), id_)
            return np.ascontiguousarray(wave, np.float32)

        return degraded


def parse_condition(text: str) -> Condition:
    """The chain that `--degrade` names: steps separated by commas.

    Raises:
        ConfigError: an unknown step, one that is not written as its example, or a number out of its range.
    """
    steps, seed = [], 0
    for part in (part.strip() for part in text.split(",")):
        name, _, value = part.partition("=")
        if name == "seed":
            seed = int(_number(part, value, SEED))
        elif name in KINDS:
            steps.append(Step(name, _number(part, value, KINDS[name])))
        else:
            raise _wrong(part)
    if not steps:
        raise _wrong(text)
    return Condition(text, tuple(steps), seed)


def _number(part: str, value: str, kind: Kind) -> float:
    """The number of a step, 0.0 where its kind takes none."""
    found = re.fullmatch(kind.pattern, value, re.IGNORECASE | re.ASCII)
    if found is None or (not kind.pattern and "=" in part):
        raise _wrong(part)
    number = float(found[1]) if kind.pattern else 0.0
    if not kind.least <= number <= kind.most:
        raise _wrong(part)
    return number


def _wrong(part: str) -> ConfigError:
    known = ", ".join(kind.range for kind in (*KINDS.values(), SEED))
    return ConfigError(f"--degrade {part!r}: not a step; give some of {known}, separated by commas")


def drawing(seed: int, id_: str, step: str, same_before: int) -> np.random.Generator:
    """The random numbers of a step of an utterance; `same_before`: steps of the same kind before it in the chain."""
    digest = hashlib.sha256(f"{seed}\0{step}\0{same_before}\0{id_}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def speech_power(wave: np.ndarray) -> float:
    """Mean square of the 20 ms windows in which someone speaks: at most 30 dB below the loudest. Silence: 0.0."""
    whole = wave[: len(wave) // WINDOW * WINDOW] if len(wave) >= WINDOW else wave
    powers = np.square(whole.reshape(-1, min(WINDOW, len(whole))), dtype=np.float64).mean(axis=1)
    spoken = powers >= powers.max() * 10 ** (-SPOKEN_WITHIN_DB / 10)
    return float(powers[spoken].mean())


def add_noise(wave: np.ndarray, snr_db: float, random: np.random.Generator, id_: str) -> np.ndarray:
    """The wave with white Gaussian noise."""
    return _add(wave, random.standard_normal(len(wave)), snr_db)


def _add(wave: np.ndarray, added: np.ndarray, snr_db: float) -> np.ndarray:
    """The wave and `added`, scaled so that its mean power is `snr_db` below that of the speech."""
    power = np.square(added, dtype=np.float64).mean()
    if not power:
        return wave
    return wave + added * np.sqrt(speech_power(wave) * 10 ** (-snr_db / 10) / power)


def change_speed(wave: np.ndarray, factor: float, random: np.random.Generator, id_: str) -> np.ndarray:
    """The wave played `factor` times as fast: its duration is divided by it, its pitch multiplied."""
    return soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE, quality="HQ")


def code(wave: np.ndarray, kbits: float, random: np.random.Generator, id_: str) -> np.ndarray:
    """The wave after Opus at so many kbit/s, of the same length; samples beyond -1..1 are scaled down for the codec."""
    loudest = max(1.0, float(np.abs(wave).max()))
    least, most = OPUS_KBITS
    ogg = io.BytesIO()
    settings = {"format": "OGG", "subtype": "OPUS", "compression_level": (most - kbits) / (most - least)}
    soundfile.write(ogg, wave / loudest, SAMPLE_RATE, **settings)
    ogg.seek(0)
    decoded, _ = soundfile.read(ogg, dtype="float32")
    return np.pad(decoded[: len(wave)], (0, max(0, len(wave) - len(decoded)))) * np.float32(loudest)


class Babble:
    """Other utterances of a manifest that speak at the same time.

    Raises:
        ConfigError: all utterances are of one speaker (where speakers are not named: of one recording).
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._voices = {utterance.id: _voice(utterance) for utterance in manifest.utterances}
        self._others = sorted(
            manifest.utterances, key=lambda utterance: utterance.id
        )  # in whatever order the lines are
        if len(set(self._voices.values())) < 2:
            raise ConfigError(
                f"--degrade babble: {manifest.path} has no second speaker to take it from; use a manifest of several "
                "speakers, or noise"
            )

    def add(self, wave: np.ndarray, snr_db: float, random: np.random.Generator, id_: str) -> np.ndarray:
        """The wave with others speaking, each equally loud, repeated from a random place on up to its end."""
        babble = np.zeros(len(wave))
        talkers = 0
        for number in random.permutation(len(self._others)):
            other = self._others[number]
            spoken = self._spoken(other) if self._voices[other.id] != self._voices[id_] else None
            if spoken is None:
                continue
            start = int(random.integers(len(spoken)))
            babble += np.resize(np.roll(spoken, -start), len(wave))
            talkers += 1
            if talkers == TALKERS:
                break
        if not talkers:
            raise ConfigError(
                f"--degrade babble: {self._manifest.path}: no audio of other speakers than {id_}'s is usable"
            )
        return _add(wave, babble, snr_db)

    def _spoken(self, utterance: Utterance) -> np.ndarray | None:
        """Its wave with a speech power of 1; None where the audio cannot be used or is silent."""
        try:
            wave = load_wave(self._manifest.audio_path(utterance), Cut(utterance.offset, utterance.duration))
        except InputError:
            return None
        power = speech_power(wave) if len(wave) else 0.0
        return wave / np.sqrt(power) if power else None


def _voice(utterance: Utterance) -> object:
    return utterance.segment if utterance.speaker is None else utterance.speaker


class Rooms:
    """Rooms in which a wave is heard again. Raises ConfigError: pyroomacoustics is not installed."""

    def __init__(self) -> None:
        self._library = extra_module("pyroomacoustics")

    def reverberate(self, wave: np.ndarray, value: float, random: np.random.Generator, id_: str) -> np.ndarray:
        """The wave in a room, as long, as loud and beginning at the same sample as before."""
        size = np.array([random.uniform(*metres) for metres in ROOM_METRES])
        seconds = random.uniform(*REVERBERATION_SECONDS)
        speaker, microphone = (random.uniform(FROM_WALLS, size - FROM_WALLS) for _ in range(2))
        absorption, order = self._library.inverse_sabine(seconds, size)
        room = self._library.ShoeBox(
            size, fs=SAMPLE_RATE, materials=self._library.Material(absorption), max_order=order
        )
        room.add_source(speaker, signal=wave)
        room.add_microphone(microphone)
        with _one_thread(self._library.constants):
            room.simulate()
        distance = float(np.linalg.norm(speaker - microphone))
        delay = round(distance / room.c * SAMPLE_RATE) + self._library.constants.get("frac_delay_length") // 2
        heard: np.ndarray = room.mic_array.signals[0][delay : delay + len(wave)]
        power = speech_power(heard)
        return heard * np.sqrt(speech_power(wave) / power) if power else wave


@contextmanager
def _one_thread(constants: Any) -> Iterator[None]:
    """The library on one thread: the last bits of its sums depend on how many there are."""
    before = constants.get("num_threads")
    constants.set("num_threads", 1)
    try:
        yield
    finally:
        constants.set("num_threads", before)
