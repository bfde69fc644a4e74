"""Long recordings in pieces: cut in silence, nothing lost, times kept, silence known as silence."""

from __future__ import annotations

import numpy as np
import pytest

from speechmapper.segmentation import FRAME, LONGEST_SECONDS, piece_ends, pieces, speech_frames, speech_probability
from tests import speech

RATE = 16_000


@pytest.fixture(scope="module")
def items():
    """Ninety spoken numbered items over ten minutes, and the first and last sample of each."""
    return speech.spoken_items(90, seconds_each=7.0)


@pytest.fixture(scope="module")
def made(items):
    """Their pieces."""
    return pieces(items[0])


def test_ninety_items_over_ten_minutes_all_come_back(items, made):
    """The times of speech miss at most the quiet end of an item: a twentieth of what is loud in it."""
    samples, places = items
    assert len(samples) / RATE > 600
    for first, last in places:
        [holding] = [piece for piece in made if piece.start <= first and last <= piece.start + len(piece.samples)]
        loud = first + np.flatnonzero(np.abs(samples[first:last]) > 0.05)
        covered = np.zeros(len(samples), bool)
        for low, high in holding.speech:
            covered[low:high] = True
        assert covered[loud].mean() > 0.95
    assert not any(piece.cut_in_speech for piece in made)


def test_every_sample_is_in_exactly_one_piece_of_at_most_25_seconds(items, made):
    samples, _ = items
    assert np.array_equal(np.concatenate([piece.samples for piece in made]), samples)
    assert [piece.start for piece in made] == np.cumsum([0, *(len(piece.samples) for piece in made[:-1])]).tolist()
    assert all(15 <= piece.seconds <= 20 for piece in made[:-1]) and made[-1].seconds <= LONGEST_SECONDS


def test_clicks_at_known_times_keep_them(items):
    clicked = items[0][: 150 * RATE].copy()
    times = np.arange(5.0, len(clicked) / RATE, 31.7)
    clicked[(times * RATE).astype(int)] = 1.0
    found = [
        (piece.start + place) / RATE for piece in pieces(clicked) for place in np.flatnonzero(piece.samples == 1.0)
    ]
    np.testing.assert_allclose(found, times, atol=0.2)


def test_speech_is_found_where_it_is(items, made):
    _, places = items
    begun = np.array([piece.spoken[0] for piece in made])
    firsts = np.array([first for first, _ in places]) / RATE
    assert np.abs(begun[:, None] - firsts).min(axis=1).max() < 0.2


def test_a_short_recording_is_one_piece():
    samples = np.concatenate([speech.spoken("the dog ran"), np.zeros(20 * RATE, np.float32)])
    [only] = pieces(samples)
    assert only.samples is not samples and np.array_equal(only.samples, samples) and len(only.speech) == 1
    assert only.spoken[1] < 2.0


@pytest.mark.parametrize("seconds", [0.01, 3.0, 61.0])
def test_silence_noise_and_clicks_are_no_speech(seconds):
    silent = np.zeros(int(seconds * RATE), np.float32)
    noise = np.random.default_rng(0).normal(0, 0.05, len(silent)).astype(np.float32)
    clicks = silent.copy()
    clicks[:: RATE // 2] = 1
    for samples in (silent, noise, clicks):
        made = pieces(samples)
        assert [piece.speech for piece in made] == [()] * len(made)
        assert sum(len(piece.samples) for piece in made) == len(samples)


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01, 0.002])
def test_quiet_speech_is_speech(gain):
    [only] = pieces(gain * speech.spoken("the old dog walked home"))
    assert only.speech


def test_the_last_frame_is_padded():
    samples = speech.spoken("one")
    assert len(samples) % FRAME
    assert len(speech_probability(samples)) == -(-len(samples) // FRAME)
    assert pieces(samples)[0].speech[-1][1] <= len(samples)


def test_speech_without_a_pause_is_cut_where_it_is_least_probable_and_says_so():
    probability = np.full(60 * RATE // FRAME, 0.9)
    probability[600], probability[620] = 0.6, 0.8  # 19.2 s, 19.8 s
    ends = piece_ends(speech_frames(probability), probability, 60 * RATE)
    assert ends[0] == (600 * FRAME, True)
    assert all(in_speech for _, in_speech in ends)
    assert np.diff([0, *(end for end, _ in ends), 60 * RATE]).max() <= LONGEST_SECONDS * RATE


@pytest.mark.parametrize("pauses", [[(3, 4), (17, 18)], [(3, 4), (14, 15), (22, 23)], [(3, 4), (8, 9), (11, 13)]])
def test_which_pause_is_taken(pauses):
    probability = np.ones(40 * RATE // FRAME)
    for low, high in pauses:
        probability[low * RATE // FRAME : high * RATE // FRAME] = 0
    (end, in_speech), *_ = piece_ends(speech_frames(probability), probability, 40 * RATE)
    assert not in_speech and pauses[-1][0] < end / RATE < pauses[-1][1]


def test_speech_goes_on_through_a_dip_and_has_a_margin():
    probability = np.array([0, 0, 0, 0.6, 0.4, 0.4, 0.2, 0.4, 0, 0, 0])
    assert speech_frames(probability).tolist() == [False, *[True] * 7, False, False, False]
