"""Recordings read and cut, and pieces batched by length."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store.errors import InputError
from speechmapper.model.recordings import LONGEST_RECORDING, batches, hear
from tests import speech


def test_a_recording_has_its_pieces_with_speech():
    samples, _ = speech.spoken_items(6, 7.0)
    silence = np.zeros(30 * 16_000, np.float32)
    heard = hear(np.concatenate([silence, samples, silence]), 16_000)
    assert heard.seconds == 102.0
    assert all(piece.speech for piece in heard.spoken) and 2 < len(heard.spoken) < 6


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_a_recording_without_room_for_a_vector_is_refused(seconds):
    with pytest.raises(InputError, match=r"^the samples: too short to transcribe; give at least 0\.2 s of audio$"):
        hear(np.zeros(int(seconds * 16_000), np.float32), 16_000)


def test_silence_has_no_pieces():
    assert hear(np.zeros(16_000, np.float32), 8_000).spoken == ()


def test_a_recording_of_a_day_is_refused():
    samples = np.broadcast_to(np.zeros(1, np.float32), (int(LONGEST_RECORDING) * 1000 + 1,))
    with pytest.raises(InputError, match="longer than 21600 s"):
        hear(samples, 1000)


def test_batches_hold_pieces_of_similar_length():
    rng = np.random.default_rng(0)
    seconds = rng.uniform(0.2, 25, 200).tolist()
    made = batches(seconds)
    assert sorted(number for batch in made for number in batch) == list(range(200))
    assert [max(seconds[number] for number in batch) for batch in made] == sorted(
        (max(seconds[number] for number in batch) for batch in made), reverse=True
    )
    for batch in made:
        longest = max(seconds[number] for number in batch)
        assert len(batch) <= 16 and longest * 25 * len(batch) <= 4096 + 25
    assert batches([]) == []
