"""What all corpora share: names of splits, and audio files in the best format."""

from __future__ import annotations

from sm_pipeline.corpora.found import AudioFiles, is_chosen, split_of, stem_of
from tests.pipeline.corpora.manifests import write_text


def test_names_of_splits():
    names = {
        "train": ("train", "train-clean-100", "asr_train", "LibriSQA-PartI-train", "cuts_train", "Training", "tr"),
        "dev": ("dev", "dev-other", "validation", "valid", "val_manifest"),
        "test": ("test", "test-clean", "spoken_test-v1.1"),
        None: ("validated", "other", "trained", "latest", "", "manifest"),
    }
    assert {name: split_of(name) for all_of in names.values() for name in all_of} == {
        name: split for split, all_of in names.items() for name in all_of
    }
    assert is_chosen("dev-other", None) and is_chosen("dev-other", "dev") and is_chosen("dev-other", "dev-other")
    assert not is_chosen("dev-other", "dev-clean")


def test_the_best_format_does_not_depend_on_the_order_of_a_folder(tmp_path, monkeypatch):
    names = ["a.mp3", "a.flac", "a.wav"]
    for order in (names, names[::-1]):
        monkeypatch.setattr("os.listdir", lambda _, order=order: list(order))
        assert AudioFiles().find([tmp_path], "a") == str(tmp_path / "a.flac")


def test_audio_files_are_found_in_the_best_format(tmp_path):
    for name in ("a.mp3", "a.flac", "a.m4a", "b.WAV", "en.1.2-3.ogg", "c.txt"):
        write_text(tmp_path / name, "")
    audio = AudioFiles()
    for stem, name in (("a", "a.flac"), ("b", "b.WAV"), ("en.1.2-3", "en.1.2-3.ogg"), ("c", None), ("en.1", None)):
        assert audio.find([tmp_path / "nowhere", tmp_path], stem) == (name and str(tmp_path / name))
    for name, stem in (("x/a.mp3", "a"), ("a", "a"), ("en.1.2-3", "en.1.2-3"), ("C:\\x\\a.wav", "a")):
        assert stem_of(name) == stem
