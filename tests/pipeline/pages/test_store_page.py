"""A store's page: what it says, that hostile text stays text, that it needs nothing else, that it is repeatable."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sm_pipeline import cli
from sm_pipeline.pages.inspection import status_lines
from sm_pipeline.pages.store_page import made_by, render, write_page
from sm_pipeline.pages.survey import take_survey
from sm_store import Fields, Record, Reject, Store
from sm_store.errors import ConfigError, StoreCorrupt, StoreMissing
from sm_store.status import status
from tests.store import building

VOID = {"meta", "br", "link", "img", "input", "base", "hr", "source", "embed", "area"}
EVIL = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>{{ 7*7 }}\u202e'


class Page(HTMLParser):
    """A page taken apart the way a browser does: elements with their attributes, text by the element it is in."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts.setdefault(tag, []).append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def text(self, tag: str = "body") -> str:
        return " ".join(" ".join(self.texts.get(tag, [])).split())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(store: Path, out: Path) -> Page:
    """The page, written and read again."""
    write_page(store, out)
    return Page(out.read_text(encoding="utf-8"))


def hostile_store(path: Path) -> Path:
    """Text that wants to be markup in every field there is."""
    identity = building.identity(
        encoder={**building.identity().encoder, "id": EVIL, EVIL: EVIL},
        front_end={EVIL: {"nested": EVIL}},
        packages={EVIL: EVIL},
        plan={"shards": 1},
    )
    store = Store.create(path, identity)
    spec = building.target_spec(llm=EVIL, revision=EVIL, pad_token=EVIL)
    store.add_target_set(spec, building.table(), building.TOKENIZER)
    features = np.ones((60, building.WIDTH), np.float16)
    fields = Fields(EVIL, 2.4, lang=EVIL, speaker=EVIL, split=EVIL, corpus=EVIL, question=EVIL)
    records = [Record(f"{EVIL}{number}", features, fields) for number in range(3)]
    store.commit(0, records, [Reject(EVIL, "audio_missing", EVIL)], {"llm": [np.ones(3, np.int32)] * 3})
    return path


# -- what it says --------------------------------------------------------------------------------------------


def test_what_a_page_says(tmp_path, layout, kind):
    building.build(tmp_path / "s.store", layout=layout, kind=kind)
    page = page_of(tmp_path / "s.store", tmp_path / "s.html")
    said = page.text()
    assert page.text("title") == f"{tmp_path / 's.store'}: feature store"
    assert (
        f"layer 24 ( norm ), width 12: float16, 25 frames per second (mean of 2), as {layout}, compression none" in said
    )
    assert "shards 3 of 3 utterances 15 hours 0.01 gigabytes" in said
    assert "It is finished." in said
    assert ["3", "audio_missing", "the audio file does not exist or is not a plain file"] in page.rows
    assert f"{kind.capitalize()} targets of tiny-llm at 000000000000 : a table of 40 tokens x 6" in said
    assert "pad token <pad> (3). 3 of 15 utterances have no target" in said
    assert ["not given", "9", f"{hours(tmp_path / 's.store', None):.2f}"] in page.rows
    assert ["train", "6"] in [row[:2] for row in page.rows]
    for setting in (
        ["weights sha256", "ab"],
        ["compression", "none"],
        ["mel bins", "80"],
        ["numpy", "2"],
        ["shards", "3"],
    ):
        assert setting in page.rows
    titles = [text for text in page.texts["strong"] if text.strip()]
    assert titles == [
        "Durations",
        "Frames",
        "Feature norms",
        "Tokens",
        "Tokens against output vectors",
        "Embedding table",
    ]


def test_a_page_says_what_int8_lost(tmp_path):
    store = building.build(tmp_path / "s.store", compression="int8")
    error = status(store)["error"]
    said = page_of(tmp_path / "s.store", tmp_path / "s.html").text()
    assert f"compression int8 (relative error of a record's features: {100 * error['median']:.2f} % at the" in said
    assert f"{100 * error['worst']:.2f} % at worst)." in said
    assert status_lines(status(store))[4] == (
        f"  int8      relative error of a record's features: median {error['median']:.2%}, worst {error['worst']:.2%}"
    )


def hours(store: Path, lang: str | None) -> float:
    return sum(record.duration for record in Store.open(store) if record.lang == lang) / 3600


def test_the_utterances_that_are_named(tmp_path):
    store = building.build(tmp_path / "s.store")
    page = page_of(tmp_path / "s.store", tmp_path / "s.html")
    by_id = {record.id: record for record in store}
    named = [row for row in page.rows if row and row[-1].startswith("utt-")]
    assert len(named) == 12
    counts = dict(zip(by_id, store.token_counts("llm").tolist(), strict=True))
    for rate, tokens, seconds, utterance in named:
        identifier = next(each for each in by_id if utterance.startswith(each))
        record = by_id[identifier]
        assert utterance == identifier + record.text
        assert (int(tokens), seconds) == (counts[identifier], f"{record.duration:.2f}")
        assert rate == f"{counts[identifier] / record.duration:.2f}"


def test_a_store_that_is_not_finished(tmp_path):
    building.build(tmp_path / "s.store", shards=2)
    said = page_of(tmp_path / "s.store", tmp_path / "s.html").text()
    assert "It is not finished: run the same sm-pipeline extract command again." in said
    assert "shards 2 of 3" in said


def test_an_empty_store(tmp_path):
    Store.create(tmp_path / "s.store", building.identity(plan={}))
    page = page_of(tmp_path / "s.store", tmp_path / "s.html")
    assert "shards 0 of ?" in page.text()
    assert "No utterances yet." in page.text()
    assert page.attributes("svg") == []
    assert "Languages, speakers, splits and corpora" not in page.text()


def test_a_store_without_targets(tmp_path):
    building.build(tmp_path / "s.store", kind=None)
    page = page_of(tmp_path / "s.store", tmp_path / "s.html")
    assert len(page.attributes("svg")) == 3
    assert "Needs utterances with targets: add them with sm-pipeline embed" in page.text()


def test_a_store_whose_target_set_is_not_complete(tmp_path):
    store = building.build(tmp_path / "s.store", kind=None)
    store.add_target_set(building.target_spec(), building.table(), building.TOKENIZER)
    store.commit_targets("llm", 0, building.token_ids(0, building.records(0)))
    page = page_of(tmp_path / "s.store", tmp_path / "s.html")
    assert "2 of 3 shards lack it: run sm-pipeline embed again." in page.text()
    assert len(page.attributes("svg")) == 4  # the table is there


def test_the_other_dtypes(tmp_path, layout):
    for dtype in ("bfloat16", "float32"):
        building.build(tmp_path / f"{dtype}.store", dtype=dtype, layout=layout)
        page = page_of(tmp_path / f"{dtype}.store", tmp_path / "s.html")
        assert f"width 12: {dtype}, 25 frames" in page.text()
        assert len(page.attributes("svg")) == 6


def test_every_setting_of_the_identity_is_shown():
    identity = building.identity(plan={"merged": ["a", "b"], "deep": {"x": None}}).to_json()
    groups = made_by(identity)
    assert list(groups)[:2] == ["encoder", "features"]
    assert list(groups["encoder"])[:4] == ["id", "revision", "layer", "tap"]
    assert groups["plan"] == {"merged": '["a", "b"]', "deep": '{"x": null}'}
    assert groups["features"]["split"] == "none"
    assert groups["features"]["frame_rate"] == "25.0"
    shown = {name for rows in groups.values() for name in rows}
    for key, value in identity.items():
        assert set(value) <= shown if isinstance(value, dict) else key in shown


# -- hostile text --------------------------------------------------------------------------------------------


def test_text_from_a_store_stays_text(tmp_path):
    page = page_of(hostile_store(tmp_path / "s.store"), tmp_path / "s.html")
    assert page.open == []
    assert not {"script", "img", "iframe", "object", "link", "base", "form", "a"} & {tag for tag, _ in page.elements}
    assert page.text("title") == f"{tmp_path / 's.store'}: feature store"
    rows = [cell for row in page.rows for cell in row]
    assert rows.count(EVIL) >= 4 + 2  # lang, speaker, split, corpus; encoder id and package
    assert [cell for cell in rows if cell.startswith(f"{EVIL}0") and cell.endswith(EVIL)]
    assert EVIL in page.text("code")  # the pad token
    assert "49" not in page.text("bdi")  # no template in a template
    handlers = [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert handlers == []


def test_text_that_turns_direction_is_kept_to_its_place(tmp_path):
    page = page_of(hostile_store(tmp_path / "s.store"), tmp_path / "s.html")
    turning = "\u202e"
    inside = "".join(page.texts["bdi"]).count(turning)
    elsewhere = "".join(page.texts["body"]).count(turning) - inside
    assert inside >= 15
    assert elsewhere == 0


def test_a_path_that_wants_to_be_markup(tmp_path):
    folder = tmp_path / "<script>alert(1)<"
    building.build(folder / "s.store")
    page = page_of(folder / "s.store", tmp_path / "s.html")
    assert page.text("h1") == str(folder / "s.store")
    assert page.attributes("script") == []


# -- self-contained, readable, repeatable --------------------------------------------------------------------


def test_a_page_needs_nothing_else(tmp_path):
    building.build(tmp_path / "s.store")
    page = page_of(tmp_path / "s.store", tmp_path / "s.html")
    html = (tmp_path / "s.html").read_text(encoding="utf-8")
    loading = {"src", "href", "xlink:href", "data", "action", "poster", "srcset", "background"}
    links = [value for _, found in page.elements for name, value in found.items() if name in loading]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "http" not in html.replace("http-equiv", "")
    assert "@import" not in html
    assert all(place.startswith("url(#") for place in html.split() if "url(" in place and place.startswith("url("))
    policy = [entry["content"] for entry in page.attributes("meta") if entry.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_a_page_is_accessible(tmp_path):
    building.build(tmp_path / "s.store")
    page = page_of(tmp_path / "s.store", tmp_path / "s.html")
    assert page.attributes("html") == [{"lang": "en"}]
    assert [entry.get("content") for entry in page.attributes("meta") if entry.get("name") == "viewport"]
    for svg in page.attributes("svg"):
        assert svg["role"] == "img"
        assert svg["aria-label"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(head.get("scope") in ("col", "row") for head in page.attributes("th"))
    tags = [tag for tag, _ in page.elements]
    assert (tags.count("h1"), tags.count("main"), tags.count("figure")) == (1, 1, tags.count("figcaption"))
    assert "prefers-color-scheme: dark" in page.text("style")


def test_every_colour_is_set_for_light_and_dark(tmp_path):
    building.build(tmp_path / "s.store")
    write_page(tmp_path / "s.store", tmp_path / "s.html")
    html = (tmp_path / "s.html").read_text(encoding="utf-8")
    light, dark = html.split("@media (prefers-color-scheme: dark)")
    used = {piece.split(")")[0] for piece in html.split("var(")[1:]}
    assert used >= {"--ink", "--rule", "--bar", "--mark"}
    for name in used:
        assert f"{name}: #" in light
        assert f"{name}: #" in dark.split("}")[0]


def test_the_same_store_gives_the_same_bytes(tmp_path, layout):
    building.build(tmp_path / "s.store", layout=layout)
    code = (
        "import sys; from pathlib import Path; from sm_pipeline.pages.store_page import write_page; "
        "write_page(*map(Path, sys.argv[1:]))"
    )
    pages = []
    for seed in ("0", "7"):
        out = tmp_path / f"{seed}.html"
        run = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "s.store"), str(out)]
        subprocess.run(run, check=True, env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed})
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]


def test_a_moved_store_differs_in_its_path_alone(tmp_path):
    building.build(tmp_path / "s.store")
    shutil.copytree(tmp_path / "s.store", tmp_path / "t.store")
    one, two = (render(take_survey(Store.open(tmp_path / name))) for name in ("s.store", "t.store"))
    assert one != two
    assert one.replace("s.store", "t.store") == two


# -- where it is written -------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `sm-pipeline` in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sm-pipeline", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return left.value.code or 0, out, err

    return run


def test_the_command_writes_a_page_and_prints(tmp_path, command):
    building.build(tmp_path / "s.store")
    code, out, err = command("inspect", tmp_path / "s.store", "--html", tmp_path / "s.html")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"  page      {tmp_path / 's.html'}"
    assert out.splitlines()[:-1] == command("inspect", tmp_path / "s.store")[1].splitlines()
    assert (tmp_path / "s.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_and_page_together(tmp_path, command):
    building.build(tmp_path / "s.store")
    plain = json.loads(command("inspect", tmp_path / "s.store", "--json")[1])
    code, out, err = command("inspect", tmp_path / "s.store", "--json", "--html", tmp_path / "s.html")
    assert (code, err) == (0, "")
    assert json.loads(out) == {**plain, "html": str(tmp_path / "s.html")}
    assert (tmp_path / "s.html").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("", "a folder; name a file in it, like"),
        ("no/such.html", "there is no folder"),
        ("s.store/page.html", "inside the store"),
        ("s.store/store.json", "inside the store"),
        ("link.html", "inside the store"),
        ("pipe", "not a plain file"),
    ],
)
def test_a_place_where_no_page_can_be(tmp_path, command, out, said):
    building.build(tmp_path / "s.store")
    before = building.tree(tmp_path / "s.store")
    (tmp_path / "link.html").symlink_to(tmp_path / "s.store" / "store.json")
    subprocess.run(["mkfifo", tmp_path / "pipe"], check=True)
    code, printed, err = command("inspect", tmp_path / "s.store", "--html", tmp_path / out)
    assert (code, printed) == (2, "")
    assert err.startswith(f"error: --html {tmp_path / out}: ")
    assert said in err
    assert err.count("\n") == 1
    assert building.tree(tmp_path / "s.store") == before


def test_no_store_no_page(tmp_path, command):
    code, out, err = command("inspect", tmp_path / "nothing", "--html", tmp_path / "s.html")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "s.html").exists()
    with pytest.raises(StoreMissing):
        write_page(tmp_path / "nothing", tmp_path / "s.html")


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path):
    building.build(tmp_path / "s.store")
    out = tmp_path / "s.html"
    out.write_text("an older page")
    data = next((tmp_path / "s.store" / "shards").rglob("c/0/0"))
    sound = data.read_bytes()
    data.write_bytes(sound[:100] + bytes([sound[100] ^ 1]) + sound[101:])
    with pytest.raises(StoreCorrupt, match="record"):
        write_page(tmp_path / "s.store", out)
    assert out.read_text() == "an older page"
    data.write_bytes(sound)
    write_page(tmp_path / "s.store", out)
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.html", "s.store"]


def test_a_name_in_the_present_folder(tmp_path, monkeypatch):
    building.build(tmp_path / "s.store")
    monkeypatch.chdir(tmp_path)
    assert write_page(Path("s.store"), Path("s.html"))["html"] == "s.html"
    with pytest.raises(ConfigError, match="a folder"):
        write_page(Path("s.store"), Path("."))


def test_without_a_page_nothing_is_drawn(tmp_path):
    building.build(tmp_path / "s.store")
    code = "import sys; sys.argv = ['sm-pipeline', 'inspect', sys.argv[1]]; from sm_pipeline import cli\n"
    code += "try: cli.main()\nexcept SystemExit: pass\nprint([n for n in ('matplotlib', 'jinja2') if n in sys.modules])"
    run = [sys.executable, "-c", code, str(tmp_path / "s.store")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
