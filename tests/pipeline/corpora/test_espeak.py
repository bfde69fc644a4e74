"""espeak-ng: speech that is heard, voices that differ, and a voice it does not have."""

from __future__ import annotations

import numpy as np
import pytest

from sm_pipeline.corpora.demo import VOICES
from sm_pipeline.corpora.espeak import SAMPLE_RATE, EspeakVoice, synthesise
from sm_store.errors import RunFailed


def test_speech_is_neither_silent_nor_clipped():
    samples = synthesise("the old farmer found one red apple", EspeakVoice(VOICES[0]))
    assert samples.dtype == np.float32
    assert 1.0 < len(samples) / SAMPLE_RATE < 5.0
    assert 0.1 < np.abs(samples).max() < 1.0
    assert np.sqrt(np.mean(samples**2)) > 0.01


def test_voice_speed_and_pitch_are_heard():
    text = "our young teacher sold the heavy table"
    base = synthesise(text, EspeakVoice("en-us+m1", 160, 50))
    assert len(synthesise(text, EspeakVoice("en-us+m1", 120, 50))) > 1.1 * len(base)
    for other in (EspeakVoice("en-us+f2", 160, 50), EspeakVoice("en-us+m1", 160, 80)):
        spoken = synthesise(text, other)
        size = min(len(spoken), len(base))
        assert not np.allclose(spoken[:size], base[:size], atol=0.01)


def test_longer_text_takes_longer():
    voice = EspeakVoice(VOICES[1])
    assert len(synthesise("one two three four five six", voice)) > 2 * len(synthesise("one two", voice))


def test_no_such_voice():
    with pytest.raises(RunFailed, match="no voice 'xx-nowhere'"):
        synthesise("hello", EspeakVoice("xx-nowhere"))
