"""Conditions of `--degrade`: what each step does to a wave, and that an utterance always sounds the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from sm_pipeline.audio import SAMPLE_RATE
from sm_pipeline.manifest import read_manifest
from sm_store import extras
from sm_store.errors import ConfigError
from speechmapper.eval.cli import app as eval_app
from speechmapper.eval.degrade import drawing, parse_condition, speech_power
from speechmapper.eval.sources import ManifestSource
from speechmapper.saved_projector import load_projector
from tests import speech

EVERYTHING = "reverb,babble=5dB,noise=10dB,speed=1.1,codec=opus8k"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight utterances of four speakers: each speaker is a pitch of its own, give or take 10 Hz."""
    folder = tmp_path_factory.mktemp("degrade")
    lines = []
    for number in range(8):
        pitch = 500 + 700 * (number % 4) + 10 * (number // 4)
        wave = 0.2 * np.sin(2 * np.pi * pitch * np.arange(SAMPLE_RATE + 800 * number) / SAMPLE_RATE)
        soundfile.write(folder / f"u{number}.wav", wave.astype(np.float32), SAMPLE_RATE, subtype="FLOAT")
        lines.append({"id": f"u{number}", "audio": f"u{number}.wav", "text": "a", "speaker": f"s{number % 4}"})
    return read_manifest(speech.write_lines(folder / "manifest.jsonl", lines))


def spoken_between_pauses() -> np.ndarray:
    """A second of speech-like tone between two of almost nothing, (samples,)."""
    quiet = 1e-4 * np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    return np.concatenate([quiet, speech.tone(1.0), quiet]).astype(np.float32)


def degrade(text: str, manifest, wave: np.ndarray, id_: str = "u0") -> np.ndarray:
    return parse_condition(text).degrade(manifest)(wave, id_)


def db(ratio: float) -> float:
    return float(10 * np.log10(ratio))


@pytest.mark.parametrize("step", ["noise", "babble"])
@pytest.mark.parametrize("snr", [-5, 0, 10, 20])
def test_the_ratio_to_the_speech_without_its_pauses_is_the_one_asked_for(corpus, step, snr):
    clean = spoken_between_pauses()
    worse = degrade(f"{step}={snr}dB", corpus, clean)
    assert worse.dtype == np.float32 and worse.shape == clean.shape
    spoken = np.square(clean[SAMPLE_RATE : 2 * SAMPLE_RATE]).mean()
    assert db(spoken / np.square(worse - clean).mean()) == pytest.approx(snr, abs=0.5)


def test_babble_is_of_other_speakers_alone(corpus):
    clean = np.zeros(SAMPLE_RATE, np.float32)
    clean[0] = 1e-3  # so little speech that what is added is all there is to hear
    for number in range(8):
        worse = degrade("babble=0dB", corpus, clean, f"u{number}")
        spectrum = np.abs(np.fft.rfft(worse - clean))
        heard = {
            pitch for pitch in (500, 1200, 1900, 2600) if spectrum[pitch : pitch + 20].max() > 0.1 * spectrum.max()
        }
        own = 500 + 700 * (number % 4)
        assert len(heard) == 3 and own not in heard


def test_babble_needs_a_second_speaker_and_audio(corpus, tmp_path):
    one = [{"id": f"u{n}", "audio": f"u{n}.wav", "text": "a", "speaker": "s"} for n in range(2)]
    manifest = read_manifest(speech.write_lines(tmp_path / "one.jsonl", one))
    with pytest.raises(ConfigError, match=r"one\.jsonl has no second speaker"):
        parse_condition("babble=5dB").degrade(manifest)
    two = [line | {"speaker": line["id"]} for line in one]
    degraded = parse_condition("babble=5dB").degrade(read_manifest(speech.write_lines(tmp_path / "two.jsonl", two)))
    with pytest.raises(ConfigError, match="no audio of other speakers than u0's is usable"):
        degraded(speech.tone(1.0), "u0")


def test_babble_without_named_speakers_is_of_other_recordings(corpus, tmp_path):
    speech.write_audio(tmp_path / "a.wav")
    same = [{"id": f"q{number}", "audio": "a.wav", "text": "a"} for number in range(2)]
    with pytest.raises(ConfigError, match="no second speaker"):
        parse_condition("babble=5dB").degrade(read_manifest(speech.write_lines(tmp_path / "m.jsonl", same)))
    speech.write_audio(tmp_path / "b.wav", seed=3)
    lines = [*same, {"id": "other", "audio": "b.wav", "text": "a"}]
    manifest = read_manifest(speech.write_lines(tmp_path / "m.jsonl", lines))
    assert not np.array_equal(degrade("babble=5dB", manifest, speech.tone(1.0), "q0"), speech.tone(1.0))


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_speed_changes_duration_and_pitch(corpus, factor):
    at = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    worse = degrade(f"speed={factor}", corpus, np.sin(2 * np.pi * 1000 * at).astype(np.float32))
    assert len(worse) == pytest.approx(SAMPLE_RATE / factor, abs=2)
    spectrum = np.abs(np.fft.rfft(worse * np.hanning(len(worse))))
    assert spectrum.argmax() * SAMPLE_RATE / len(worse) == pytest.approx(1000 * factor, rel=0.01)


def test_the_codec_keeps_length_and_level_and_loses_more_at_fewer_bits(corpus):
    clean = 3 * speech.tone(1.0)[: SAMPLE_RATE - 37]  # louder than a file may be
    error = {}
    for kbits in (6, 24, 128):
        worse = degrade(f"codec=opus{kbits}k", corpus, clean)
        assert worse.shape == clean.shape
        error[kbits] = np.square(worse - clean).mean() / np.square(clean).mean()
    assert error[6] > error[24] > error[128] > 0 and error[128] < 0.05


def test_a_room_smears_the_sound_and_keeps_length_level_and_beginning(corpus):
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[4000] = 1.0
    for id_ in ("u0", "u1", "u2"):
        worse = degrade("reverb", corpus, click, id_)
        assert worse.shape == click.shape
        begins = int((np.abs(worse) > 0.3 * np.abs(worse).max()).argmax())
        assert abs(begins - 4000) <= 3  # the direct sound is where it was
        assert np.square(worse[4080:]).sum() > 0.2 * np.square(worse).sum()
    clean = spoken_between_pauses()
    assert speech_power(degrade("reverb", corpus, clean)) == pytest.approx(speech_power(clean), rel=1e-3)


def test_an_utterance_sounds_the_same_in_whatever_order_and_each_differs(corpus):
    waves = {f"u{number}": speech.tone(1.0, seed=number) for number in range(3)}
    first = parse_condition(EVERYTHING).degrade(corpus)
    again = parse_condition(EVERYTHING).degrade(corpus)
    forward = {id_: first(wave, id_) for id_, wave in waves.items()}
    for id_ in reversed(waves):
        np.testing.assert_array_equal(again(waves[id_], id_), forward[id_])
    assert not np.array_equal(first(waves["u0"], "u1"), forward["u0"])
    other = parse_condition(f"{EVERYTHING},seed=1").degrade(corpus)
    assert not np.array_equal(other(waves["u0"], "u0"), forward["u0"])


def test_the_order_of_the_manifests_lines_does_not_matter(corpus):
    turned = read_manifest(
        speech.write_lines(
            corpus.root / "turned.jsonl", list(map(json.loads, corpus.path.read_text().splitlines()))[::-1]
        )
    )
    wave = speech.tone(1.0)
    np.testing.assert_array_equal(degrade("babble=5dB", corpus, wave), degrade("babble=5dB", turned, wave))


def test_the_noise_is_the_same_at_every_level_and_drawn_again_by_a_second_step(corpus):
    clean = speech.tone(1.0)
    loud, soft = (degrade(f"noise={snr}dB", corpus, clean) - clean for snr in (0, 20))
    np.testing.assert_allclose(loud, soft * 10, atol=1e-5)
    assert drawing(0, "u", "noise", 0).random() != drawing(0, "u", "noise", 1).random()
    assert drawing(0, "u", "noise", 0).random() != drawing(0, "u", "babble", 0).random()


@pytest.mark.parametrize("samples", [0, 1, 7, 319, 321])
def test_silence_and_the_shortest_waves_pass(corpus, samples):
    worse = degrade("babble=5dB,noise=10dB,speed=1.1,codec=opus8k,reverb", corpus, np.zeros(samples, np.float32))
    assert np.isfinite(worse).all() and worse.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("noize=10dB", "noize=10dB"),
        ("", ""),
        ("noise=10dB,,reverb", ""),
        ("noise", "noise"),
        ("noise=10", "noise=10"),
        ("noise=tendB", "noise=tendB"),
        ("noise=90dB", "noise=90dB"),
        ("noise=nandB", "noise=nandB"),
        ("speed=0", "speed=0"),
        ("speed=3", "speed=3"),
        ("codec=mp3", "codec=mp3"),
        ("codec=opus4k", "codec=opus4k"),
        ("reverb=2", "reverb=2"),
        ("reverb=", "reverb="),
        ("seed=1", "seed=1"),
        ("noise=10dB,seed=-1", "seed=-1"),
        ("noise=10dB,seed=" + "9" * 5000, "seed=9"),
    ],
)
def test_a_step_that_is_not_known_or_out_of_range_is_refused_with_the_known_ones(text, named):
    with pytest.raises(ConfigError) as refused:
        parse_condition(text)
    assert f"--degrade '{named}" in str(refused.value)
    for example in ("noise=10dB (-20 to 60 dB)", "babble=5dB", "speed=1.1 (0.5 to 2)", "codec=opus8k", "reverb"):
        assert example in str(refused.value)


def test_the_condition_is_recorded_as_given_with_seed_and_versions():
    made = parse_condition("noise=10dB, reverb,seed=3").identity()
    assert (made["degrade"], made["seed"]) == ("noise=10dB, reverb,seed=3", 3)
    assert made["steps"] == [{"step": "noise", "value": 10.0}, {"step": "reverb"}]
    assert {"numpy", "soxr", "soundfile", "libsndfile", "pyroomacoustics"} == made["versions"].keys()
    assert parse_condition("noise=0dB").identity()["steps"] == [{"step": "noise", "value": 0.0}]


def test_reverb_names_its_extra_where_it_is_missing(corpus, monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"speechmapper\[degrade\]"):
        parse_condition("reverb").degrade(corpus)
    parse_condition("noise=10dB").degrade(corpus)


def test_a_manifest_is_heard_through_the_condition(chain):
    projector, path = load_projector(chain / "stage1"), chain / "corpus" / "manifest.jsonl"
    heard = []
    for worse in (None, lambda wave, id_: wave[: len(wave) // 2] if id_ == "u0" else wave):
        source = ManifestSource(path, projector, "train", 4, worse)
        frames = {
            source.id(number): int(count)
            for batch in source.batches(source.numbers())
            for number, count in zip(batch.numbers, batch.frames_B.tolist(), strict=True)
        }
        heard.append(frames)
    clean, worse = heard
    assert worse["u1"] == clean["u1"] and worse["u0"] == pytest.approx(clean["u0"] / 2, abs=1)


def test_the_flag_reaches_the_audio_and_the_metrics(chain, tmp_path):
    spoken = ["asr", str(chain / "stage1"), "--split", "train", "--device", "cpu", "--json"]
    manifest = ["--manifest", str(chain / "corpus" / "manifest.jsonl")]
    run = CliRunner().invoke
    result = run(
        eval_app, [*spoken, *manifest, "--out", str(tmp_path), "--degrade", "speed=0.5"], catch_exceptions=False
    )
    assert json.loads(result.stdout)["condition"]["degrade"] == "speed=0.5"
    assert json.loads((tmp_path / "about.json").read_text())["condition"]["seed"] == 0
    for words, message in (
        (["--store", str(chain / "store"), "--degrade", "reverb"], "a store has features, not audio"),
        ([*manifest, "--degrade", "louder"], "--degrade 'louder': not a step"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(eval_app, [*spoken, "--out", str(tmp_path), *words], catch_exceptions=False)
