from __future__ import annotations

import json

import pytest

from sm_store import Identity, IdentityMismatch, StoreFormatError
from sm_store.errors import ConfigError
from sm_store.identity import canonical, diff_json, feature_meaning
from tests.store import building


def test_json_round_trip():
    ours = building.identity(split="train", dtype="bfloat16")
    assert Identity.from_json(json.loads(json.dumps(ours.to_json()))) == ours


def test_diff_names_each_field():
    ours, theirs = building.identity(), building.identity(average=4, dtype="float32")
    assert ours.diff(theirs) == ["average: 2 != 4", 'dtype: "float16" != "float32"']
    assert ours.diff(building.identity()) == []


def test_diff_goes_into_nested_fields():
    encoder = {**building.identity().encoder, "layer": 18, "family": "x"}
    lines = building.identity().diff(building.identity(encoder=encoder))
    assert lines == ['encoder.family: (absent) != "x"', "encoder.layer: 24 != 18"]


def test_empty_and_absent_mappings_differ():
    assert diff_json({"a": {}}, {"a": {"b": 1}}) == ["a: {} != (absent)", "a.b: (absent) != 1"]


def test_packages_are_information():
    ours = building.identity(packages={"numpy": "1"})
    assert ours.diff(building.identity()) == [] and ours.sha256() == building.identity().sha256()
    assert ours.to_json()["packages"] == {"numpy": "1"}


@pytest.mark.parametrize(
    "change",
    [
        {"average": 1},
        {"frame_rate": 50.0},
        {"dtype": "float32"},
        {"layout": "webdataset"},
        {"normalizer": "mms-2"},
        {"manifest_sha256": "ee"},
        {"split": "train"},
        {"plan": {"shards": 4}},
        {"front_end": {}},
        {"encoder": {"width": 12}},
    ],
)
def test_everything_else_decides(change):
    other = building.identity(**change)
    assert other.sha256() != building.identity().sha256()
    with pytest.raises(IdentityMismatch, match=r"^corpus\.store: made with other settings") as caught:
        building.identity().require_same(other, "corpus.store")
    assert next(iter(change)) in str(caught.value) and "\n" not in str(caught.value)


def test_long_values_are_cut_in_the_message():
    line = building.identity().diff(building.identity(normalizer="x" * 500))[0]
    assert len(line) < 120 and line.endswith("...")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "hdf5"}, "choose zarr or webdataset"),
        ({"dtype": "int8"}, "choose one of float16, bfloat16, float32"),
        ({"encoder": {"id": "x"}}, r"encoder\.width must be a positive integer, not None"),
        ({"encoder": {"width": 0}}, "not 0"),
        ({"encoder": {"width": "12"}}, "not '12'"),
    ],
)
def test_impossible_identities(change, message):
    with pytest.raises(ConfigError, match=message):
        building.identity(**change)
    with pytest.raises(StoreFormatError, match=message):
        Identity.from_json({**building.identity().to_json(), **change})


def test_missing_and_unknown_keys():
    data = building.identity().to_json()
    data["colour"] = data.pop("dtype")
    with pytest.raises(StoreFormatError, match=r"missing or unknown keys \['colour', 'dtype'\]"):
        Identity.from_json(data)


def test_what_features_mean_is_not_how_they_were_computed_or_kept():
    ours = building.identity()
    encoder = {**ours.encoder, "compute_dtype": "bfloat16"}
    same = building.identity(encoder=encoder, layout="webdataset", manifest_sha256="ef")
    assert feature_meaning(same.to_json()) == feature_meaning(ours.to_json())
    for change in ({"average": 4}, {"frame_rate": 50.0}, {"front_end": {}}, {"encoder": {**encoder, "layer": 1}}):
        assert feature_meaning(building.identity(**change).to_json()) != feature_meaning(ours.to_json())


def test_canonical_is_one_form():
    assert canonical({"b": [1, "ü"], "a": None}) == '{"a":null,"b":[1,"ü"]}'.encode()
    with pytest.raises(ValueError, match="Out of range float"):
        canonical(float("nan"))
