from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from sm_store import IdentityMismatch, Store, StoreCorrupt, StoreError, StoreFormatError, TargetSpec
from sm_store import targets as targets_module
from sm_store.dtypes import to_float32, to_storage
from sm_store.errors import ConfigError
from sm_store.targets import narrowest, table_rows, table_scale, table_sha256, tokenizer_sha256
from tests.store import building


@pytest.fixture
def bare(tmp_path):
    return Store.create(tmp_path / "s", building.identity())


def add(store, table=None, tokenizer=None, **changes):
    spec = building.target_spec(**changes)
    store.add_target_set(
        spec,
        building.table() if table is None else table,
        building.TOKENIZER if tokenizer is None else tokenizer,
    )
    return store.targets(spec.name)


def test_a_target_set_holds_table_and_tokenizer(bare):
    target = add(bare)
    assert target.table.dtype == np.float32 and np.array_equal(target.table, building.table())
    assert {path.name: path.read_bytes() for path in target.tokenizer_dir.iterdir()} == building.TOKENIZER
    assert target.spec == building.target_spec() and target.name == "llm"
    assert np.array_equal(target.pad_row, building.table()[building.PAD].astype(np.float16))
    target.check_tokenizer()
    assert Store.open(bare.root).targets("llm").spec == target.spec


def test_rows_are_tokens_then_pads(bare):
    target = add(bare)
    rows = target.rows(np.asarray([5, 9]), 4)
    table = building.table().astype(np.float16)
    assert np.array_equal(rows, table[[5, 9, building.PAD, building.PAD]])
    assert target.rows(np.asarray([], np.int64), 0).shape == (0, building.LLM_WIDTH)


def test_spec_json_round_trip():
    spec = building.target_spec("x", "table", dtype="bfloat16", revision=None)
    assert TargetSpec.from_json(spec.to_json()) == spec
    with pytest.raises(StoreFormatError, match=r"target set 'x': missing or unknown keys \['kind'\]"):
        TargetSpec.from_json({key: value for key, value in spec.to_json().items() if key != "kind"})


def test_fingerprints_by_their_definition():
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert table_sha256(table) == hashlib.sha256(b"4x3:" + table.tobytes()).hexdigest()
    assert table_sha256(table.astype(np.float16)) == table_sha256(table)
    assert table_scale(table) == np.mean(table.astype(float) ** 2)
    long = np.random.default_rng(0).standard_normal((9000, 3)).astype(np.float32)
    assert table_sha256(long) == hashlib.sha256(b"9000x3:" + long.tobytes()).hexdigest()
    assert table_scale(long) == pytest.approx(np.mean(long.astype(float) ** 2))
    expected = hashlib.sha256(b"a\x001\x00xb\x002\x00yz").hexdigest()
    assert tokenizer_sha256({"b": b"yz", "a": b"x"}) == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_table_is_stored_in_the_narrowest_exact_dtype(dtype):
    values = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
    exact = to_float32(to_storage(values, dtype), dtype)
    name = narrowest(exact)
    assert name == dtype and np.array_equal(to_float32(to_storage(exact, name), name), exact)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_table_of_several_pieces_is_the_same(bare, monkeypatch, dtype):
    """One piece alone may need the wider dtype."""
    values = to_float32(to_storage(np.random.default_rng(1).standard_normal((50, 4)), "bfloat16"), "bfloat16")
    values[-1] = to_float32(to_storage(np.float32([0.1, 0.2, 0.3, 70.1]), dtype), dtype)
    wanted = (narrowest(values), table_sha256(values))
    monkeypatch.setattr(targets_module, "PIECE_BYTES", 7 * 4 * 4)
    assert (narrowest(values), table_sha256(values)) == wanted
    assert [len(rows) for rows in table_rows(values)] == [7] * 7 + [1]
    add(bare, values, vocabulary=50, width=4, table_sha256=wanted[1], table_scale=table_scale(values))
    assert np.array_equal(bare.targets("llm").table, values)


def test_adding_the_same_again_is_nothing_and_another_is_refused(bare):
    add(bare)
    before = building.tree(bare.root)
    add(bare)
    assert building.tree(bare.root) == before
    with pytest.raises(IdentityMismatch, match=r"target set 'llm': made with other settings.*pad_id: 3 != 4"):
        add(bare, pad_id=4)
    with pytest.raises(IdentityMismatch, match="kind"):
        add(bare, kind="table")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 7}, r"table of shape \(40, 6\), spec says \(40, 7\)"),
        ({"vocabulary": 41}, "spec says"),
        ({"pad_id": 40}, "pad_id 40 is not a row"),
        ({"pad_id": -1}, "pad_id -1 is not a row"),
        ({"table_sha256": "00"}, "table_sha256"),
        ({"tokenizer_sha256": "00"}, "tokenizer_sha256"),
        ({"dtype": "float32"}, "dtype float32, the store's is float16"),
        ({"kind": "sparse"}, "choose dense or table"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(bare, changes, message):
    before = building.tree(bare.root)
    with pytest.raises((StoreError, ConfigError), match=message):
        add(bare, **changes)
    assert building.tree(bare.root) == before and bare.target_names == []


def test_a_table_with_nan_is_refused(bare):
    table = building.table()
    table[3, 2] = np.nan
    with pytest.raises(StoreError, match="NaN or infinite"):
        add(bare, table=table, table_sha256=table_sha256(table))


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", ""])
def test_tokenizer_files_are_plain_names(bare, name):
    files = {name: b"{}"}
    with pytest.raises(StoreError, match="plain names only"):
        add(bare, tokenizer=files, tokenizer_sha256=tokenizer_sha256(files))


@pytest.mark.parametrize("name", ["", "a b", "../x", ".x", "features", "json", "x.npy", "x.tokens", "x" * 65, "ü"])
def test_impossible_names(bare, name):
    with pytest.raises(ConfigError, match="target set name"):
        add(bare, name=name)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "A", "x_1.2", "7b"])
def test_possible_names(tmp_path, layout, name):
    store = Store.create(tmp_path / "s", building.identity(layout=layout))
    add(store, name=name)
    made = building.records(0)
    store.commit(0, made, [], {name: building.token_ids(0, made)})
    assert Store.open(store.root).read([0], name).tokens_B[0] == len(building.token_ids(0, made)[0])


@pytest.mark.parametrize("file", ["table.npy", "target.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("change", ["flip", "cut", "delete"])
def test_damaged_files_of_a_target_set(bare, file, change):
    path = add(bare).folder / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if change == "delete":
        path.unlink()
    else:
        path.write_bytes(data if change == "flip" else data[:-1])
    target = Store.open(bare.root).targets("llm")
    with pytest.raises(StoreError) as caught:
        target.check_tokenizer()
        _ = target.table
    assert str(path.name) in str(caught.value) or str(path.parent) in str(caught.value)


def test_target_json_of_another_set_is_noticed(bare):
    add(bare)
    add(bare, name="two", pad_id=9)
    one, two = (bare.targets(name).folder / "target.json" for name in ("llm", "two"))
    two.write_bytes(one.read_bytes())
    with pytest.raises(IdentityMismatch, match="pad_id: 9 != 3"):
        _ = Store.open(bare.root).targets("two").table


def test_target_json_naming_files_outside_is_refused(bare):
    from sm_store import document

    target = add(bare)
    data = document.read(target.folder / "target.json")
    data["files"]["../../secret"] = [1, 2]
    (target.folder / "target.json").write_bytes(document.encode(data))
    with pytest.raises(StoreCorrupt, match="names a file outside"):
        _ = Store.open(bare.root).targets("llm").files


def test_a_bfloat16_model_s_table_takes_half_the_disk(bare):
    table = to_float32(to_storage(building.table(), "bfloat16"), "bfloat16")
    spec = replace(building.target_spec(), table_sha256=table_sha256(table), table_scale=table_scale(table))
    bare.add_target_set(spec, table, building.TOKENIZER)
    target = bare.targets("llm")
    assert target.stored_table.dtype == np.uint16 and np.array_equal(target.table, table)
    assert np.array_equal(target.embed(np.asarray([1, 2])), table[[1, 2]].astype(np.float16))
