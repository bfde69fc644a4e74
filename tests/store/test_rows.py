"""What each record has rows of, against what the catalog's schemas and the shards say."""

from __future__ import annotations

import numpy as np
import pytest

from sm_store import catalog
from sm_store.document import check_target_name
from sm_store.errors import ConfigError
from sm_store.rows import extent_columns, feature_rows, target_rows
from tests.store import building


def test_features_are_rows_of_the_stores_dtype():
    (kind,) = feature_rows(building.identity(dtype="bfloat16"))
    assert (kind.array, kind.member, kind.counts) == ("features", "features.npy", "frames")
    assert kind.numpy_dtype == np.dtype("<u2") and kind.row_bytes == 2 * building.WIDTH
    assert kind.row_shape == (building.WIDTH,) and kind.codec is None
    assert kind.columns == ["offset", "stored", "crc32c"]


def test_int8_features_are_codes_and_scales():
    codes, scales = feature_rows(building.identity(compression="int8"))
    assert codes.numpy_dtype == np.dtype("i1") and codes.row_bytes == building.WIDTH
    assert scales.numpy_dtype == np.dtype("<f4") and scales.row_shape == () and scales.row_bytes == 4
    assert scales.columns == ["scales_offset", "scales_crc32c"]


@pytest.mark.parametrize("compression", [None, "zstd:1", "int8"])
def test_targets_are_token_ids_and_for_dense_sets_embeddings(compression):
    (only,) = target_rows(building.target_spec(kind="table"), compression)
    dense, tokens = target_rows(building.target_spec(kind="dense"), compression)
    assert only == tokens and tokens.row_bytes == 4 and tokens.codec is None
    assert (tokens.member, dense.member) == ("llm.tokens.npy", "llm.npy")
    assert dense.row_bytes == 2 * building.LLM_WIDTH and dense.counts == "vectors"
    assert (dense.codec is not None) == (compression == "zstd:1")


@pytest.mark.parametrize("compression", [None, "zstd:1", "int8"])
@pytest.mark.parametrize("kind", ["dense", "table"])
def test_the_schemas_have_their_columns_and_no_others_of_that_sort(compression, kind):
    identity = building.identity(compression=compression)
    targets = target_rows(building.target_spec(kind=kind), compression)
    suffixes = extent_columns("")
    for schema, rows in (
        (catalog.schema_of(identity), feature_rows(identity)),
        (catalog.TARGET_SCHEMAS[kind], targets),
    ):
        extents = [name for name in schema.names if name.rsplit("_")[-1] in suffixes]
        assert sorted(extents) == sorted(name for each in rows for name in each.columns)
        assert {each.counts for each in rows} <= set(schema.names)


def test_no_target_set_can_have_the_name_of_a_feature_member():
    for kind in feature_rows(building.identity(compression="int8")):
        with pytest.raises(ConfigError, match="target set name"):
            check_target_name(kind.member.removesuffix(".npy"))
