"""The commands on stores, as a user types them: what they print, and how they end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sm_store import Store
from tests.store import building


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sm_pipeline.cli", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Three shards with a dense target set. Read only."""
    folder = tmp_path_factory.mktemp("cli")
    building.build(folder / "s")
    return folder / "s"


def test_export_there_and_back(store, tmp_path):
    done = run("export", store, tmp_path / "tars", "--format", "webdataset")
    assert "15 records, 3 rejects in 3 shards (webdataset, targets llm); 3 copied" in done.stdout
    summary = json.loads(run("export", tmp_path / "tars", tmp_path / "back", "--format", "zarr", "--json").stdout)
    assert (summary["records"], summary["copied"], summary["missing"]) == (15, 3, 0)
    assert building.tree(tmp_path / "back") == building.tree(store)


def test_a_url_is_read_and_never_written(store, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMAPPER_CACHE", str(tmp_path / "cache"))
    url = f"file://{store}"
    assert json.loads(run("status", url, "--json").stdout) == {
        **json.loads(run("status", store, "--json").stdout),
        "path": url,
    }
    assert run("inspect", url, "--html", tmp_path / "s.html").stdout.startswith(url)
    assert "15 records" in run("export", url, tmp_path / "out").stdout
    attempts = [("verify", url), ("repair", url), ("export", store, url + "2"), ("embed", "--store", url, "--llm", "x"),
                ("extract", tmp_path / "m.jsonl", "--store", url)]  # fmt: skip
    for attempt in attempts:
        refused = run(*attempt, code=2)
        assert len(refused.stderr.strip().splitlines()) == 1 and "a store at a URL is only read" in refused.stderr


def test_export_onto_itself_is_one_line(store):
    refused = run("export", store, store, code=2)
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "name another folder" in refused.stderr


def test_merge(store, tmp_path):
    other = Store.create(tmp_path / "other", building.identity(manifest_sha256="ef", plan={"shards": 1}))
    other.commit(0, building.records(9), [])
    refused = run("merge", tmp_path / "all", store, tmp_path / "other", code=2)
    assert "no target set 'llm', which another store has" in refused.stderr
    summary = json.loads(
        run("merge", tmp_path / "all", store, tmp_path / "other", "--features-only", "--format", "webdataset",
            "--json").stdout
    )  # fmt: skip
    assert (summary["records"], summary["shards"], summary["layout"], summary["targets"]) == (20, 4, "webdataset", [])
    assert len(Store.open(tmp_path / "all")) == 20


def test_a_merged_store_says_what_it_is_of_and_how_to_finish_it(store, tmp_path):
    changes = {"manifest_sha256": "ef" * 32, "plan": {"shards": 2}, "split": "dev"}
    other = Store.create(tmp_path / "other", building.identity(**changes))
    other.commit(0, building.records(9), [])
    run("merge", tmp_path / "all", store, tmp_path / "other", "--features-only")
    for command in ("status", "inspect"):
        shown = run(command, tmp_path / "all").stdout
        assert "not finished: run the same merge command again" in shown
        assert "merged    manifest cd, all splits, 3 shards" in shown
        assert "merged    manifest efefefefefef, dev, 2 shards" in shown
    merged = json.loads(run("status", tmp_path / "all", "--json").stdout)["merged"]
    assert [each["manifest_sha256"] for each in merged] == ["cd", "ef" * 32]


def test_an_unfinished_store_says_how_to_finish_it(tmp_path):
    building.build(tmp_path / "s", shards=2)
    assert "not finished: run the same extract or export command again" in run("status", tmp_path / "s").stdout
    (tmp_path / "s/extract.json").write_text("{}")
    assert "not finished: run the same extract command again" in run("status", tmp_path / "s").stdout
    assert "1 planned shards are not there yet (`status` names them)" in run("repair", tmp_path / "s").stdout


def test_verify_names_the_remedy_and_repair_what_it_lacks(store, tmp_path):
    copy = shutil.copytree(store, tmp_path / "copy")
    assert "nothing to repair" in run("repair", copy).stdout
    part = copy / "catalog/00001.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    found = run("verify", copy, code=1)
    assert "shard 1" in found.stdout and f"sm-pipeline repair {copy}" in found.stderr
    refused = run("repair", copy, code=2)
    assert "was not made by `sm-pipeline extract`" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["status", "inspect", "verify", "repair"])
def test_reports_as_one_json_object(store, command):
    assert isinstance(json.loads(run(command, store, "--json").stdout), dict)


@pytest.mark.parametrize("command", ["status", "inspect", "verify", "repair"])
def test_no_store_is_one_line(command, tmp_path):
    refused = run(command, tmp_path / "nothing", code=2)
    assert refused.stderr.strip().splitlines() == [
        f"error: {tmp_path / 'nothing'}: no store there (store.json is missing)"
    ]
