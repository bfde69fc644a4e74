"""A whole report: what is on the page, that it needs nothing else, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from sm_store.errors import ConfigError
from speechmapper.eval.report.page import ReportRequest, write_report
from tests.speechmapper.eval.report.made import LINES, line, write_corpus, write_evaluation

LOADING = ("src", "srcset", "href", "xlink:href", "data", "poster", "action", "formaction", "background", "ping")
VOID = {"meta", "br", "img", "input", "hr", "link"}


class Page(HTMLParser):
    """Tags with their attributes, texts by the tag around them, and whether every tag is closed by its own."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.open, self.crossed = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data):
        self.texts.append(((self.open or [""])[-1], data))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def said(self, tag=None):
        return " ".join(text for around, text in self.texts if tag in (None, around))


def report(tmp_path, *places, **options):
    written = write_report(ReportRequest([str(place) for place in places], tmp_path / "r.html", **options))
    return written, (tmp_path / "r.html").read_text(encoding="utf-8")


def requests(page):
    """Whatever a browser would fetch: addresses in attributes and styles that are neither in the page nor content."""
    found = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in LOADING and value and not value.startswith(("#", "data:"))
    ]
    styles = page.said("style") + " ".join(attributes.get("style") or "" for _, attributes in page.tags)
    return found + [part for part in ("@import", "http:", "https:", "//") if part in styles]


FULL = {
    "wer": 0.25,
    "wer_ci95": [0.2, 0.3],
    "cer": 0.1,
    "utterances": 3,
    "normalizer": "mms-2",
    "by": {"speaker": {"s1": {"wer": 0.2, "utterances": 3}}},
    "entities": {"0": {"entity_recall": 0.5}},
    "target_language_rate": 0.9,
    "comet": "not measured: no weights",
}
HEARD = [
    line("the dog ran home", "a dog ran", id="u0", lang="en", corpus="fleurs", prompt="Repeat.", stop="end"),
    line(
        "a cat slept", "a cat slept and slept and slept and slept", id="u1", lang="en", corpus="fleurs", stop="length"
    ),
    line("they met", "they met", id="u2", lang="en", corpus="fleurs", stop="end"),
]


def test_everything_is_on_the_page(tmp_path):
    source = str(write_corpus(tmp_path / "corpus", ["u0", "u1", "u2"]))
    about = {"task": "asr", "llm": "small", "head": "rows", "split": "test", "source": source}
    one = write_evaluation(tmp_path / "one", HEARD, {**about, "alpha": 5}, FULL)
    two = write_evaluation(tmp_path / "two", HEARD, {**about, "alpha": 7, "head": "cif"}, {**FULL, "wer": 0.5})
    written, text = report(tmp_path, one, two)
    page = Page(text)
    assert page.crossed == [] and page.open == [] and requests(page) == []
    said = page.said()
    for expected in ("25.00 [20.00, 30.00]", "not measured: no weights", "SpeechMapper Llama, stage 2", "this report",
                     "asr: alpha", "asr: WER % by speaker", "Entities by occurrences", "not in the target language",
                     "2 of 4 words wrong", "Repeat.", "What made them"):  # fmt: skip
        assert expected in said, expected
    assert "home" in page.said("del") and "and slept and slept" in page.said("ins")
    assert len(page.of("svg")) == 2
    players = page.of("audio")
    assert len(players) == 6 and all(
        "controls" in each and each["src"].startswith("data:audio/mpeg") for each in players
    )
    policy = next(each["content"] for each in page.of("meta") if "http-equiv" in each)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; media-src data:"
    assert [run["name"] for run in written["runs"]] == ["one", "two"] and written["runs"][1]["wer"] == 0.5
    assert written["html"] == {"path": str(tmp_path / "r.html"), "bytes": len(text.encode())}


def test_the_oldest_evaluations_have_a_page_too(tmp_path):
    place = write_evaluation(tmp_path / "old", [line("a b", "a c")], {}, {"wer": 0.5})
    (place / "about.json").unlink()
    page = Page(report(tmp_path, place)[1])
    assert page.crossed == [] and "Nothing is recorded." in page.said()
    assert "No audio: no source is recorded" in page.said()
    empty = write_evaluation(tmp_path / "empty", [line("", "")], {}, {})
    assert Page(report(tmp_path, empty)[1]).crossed == []


ATTACK = '</bdi></td></style><script>alert("1")</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\u2028\u2029\x00'


def test_what_users_wrote_stays_text(tmp_path):
    texts = [
        line(
            ATTACK, ATTACK + "!", id=ATTACK, speaker=ATTACK, lang=ATTACK, corpus=ATTACK, prompt=ATTACK, language=ATTACK
        ),
        line("a", "x" * 100_000, id="long"),
        line("b", "y " * 50_000, id="words"),
        line("c", "\ud800 half", id="half"),
    ]
    about = {"task": "asr", "llm": ATTACK, "head": ATTACK, "source": ATTACK, "condition": ATTACK, ATTACK: ATTACK}
    metrics = {"wer": 0.1, "comet": f"not measured: {ATTACK}", "by": {ATTACK: {ATTACK: {"wer": 0.5}}}}
    metrics["entities"] = {ATTACK: {ATTACK: 0.5}}
    runs = [
        write_evaluation(tmp_path / name, texts, {**about, **more}, metrics)
        for name, more in (("a", {}), ("b", {"head": "h", ATTACK: "1"}), ("c", {"seed": 1, "alpha": 2}))
    ]
    _, text = report(tmp_path, f"{ATTACK.replace('=', '')}={runs[0]}", *runs[1:])
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags} and not page.of("img")
    assert page.crossed == [] and page.open == [] and requests(page) == []
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert '<script>alert("1")</script>' in page.said()
    assert "49" not in page.said("bdi")
    assert len(text) < 600_000 and "x" * 401 not in text
    write_report(ReportRequest([str(runs[0])], markdown=tmp_path / "r.md", latex=tmp_path / "r.tex"))
    assert "<script>" not in (tmp_path / "r.md").read_text() and "<script>" not in (tmp_path / "r.tex").read_text()


def test_the_same_evaluations_give_the_same_bytes(tmp_path):
    places = [write_evaluation(tmp_path / name, about={"task": "asr", "alpha": at}) for at, name in enumerate("ab")]
    assert report(tmp_path, *places)[1] == report(tmp_path, *places)[1]


def test_tables_alone_need_neither_a_page_nor_audio(tmp_path):
    place = write_evaluation(tmp_path / "run", about={"task": "asr", "source": str(tmp_path)})
    files = {"markdown": tmp_path / "r.md", "latex": tmp_path / "r.tex"}
    written = write_report(ReportRequest([str(place)], **files))
    assert set(written) == {"runs", "markdown", "latex"}
    assert "## Runs" in files["markdown"].read_text() and "12.50" in files["markdown"].read_text()
    assert r"\begin{tabular}" in files["latex"].read_text()
    code = (
        "import sys; from pathlib import Path; from speechmapper.eval.report.page import ReportRequest, write_report\n"
        f"write_report(ReportRequest([{str(place)!r}], markdown=Path({str(tmp_path / 'x.md')!r})))\n"
        "print([name for name in ('torch', 'transformers', 'matplotlib.figure') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_how_many_utterances_are_shown(tmp_path):
    place = write_evaluation(tmp_path / "run", [line("a b", "a", id=str(number)) for number in range(9)])
    page = Page(report(tmp_path, place, worst=4, random=1)[1])
    assert len([each for each in page.of("li") if each.get("class") == "example"]) == 5
    assert not Page(report(tmp_path, place, worst=0, random=0)[1]).of("li")


def test_what_is_refused(tmp_path):
    place = str(write_evaluation(tmp_path / "run"))
    with pytest.raises(ConfigError, match="nothing to write; give --html, --markdown or --latex"):
        write_report(ReportRequest([place]))
    with pytest.raises(ConfigError, match=r"--html .*: a folder; name a file in it"):
        write_report(ReportRequest([place], tmp_path))
    with pytest.raises(ConfigError, match=r"--latex .*: there is no folder"):
        write_report(ReportRequest([place], latex=tmp_path / "none" / "r.tex"))
    with pytest.raises(ConfigError, match="two evaluations named 'run'"):
        write_report(ReportRequest([place, place], tmp_path / "r.html"))
    assert not (tmp_path / "r.html").exists()


def test_a_story_in_json(tmp_path):
    place = write_evaluation(tmp_path / "run", LINES)
    written = write_report(ReportRequest([str(place)], tmp_path / "r.html"))
    assert json.loads(json.dumps(written))["runs"] == [
        {"name": "run", "path": str(place), "task": "asr", "predictions": 3, "wer": 0.125, "cer": 0.1}
    ]
