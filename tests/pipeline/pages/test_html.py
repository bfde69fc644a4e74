"""The base of every page: escaped values, nothing from outside, missing values refused, the same bytes again."""

from __future__ import annotations

import jinja2
import pytest

from sm_pipeline.pages.html import LONGEST_TEXT, brief, render_page

TEMPLATE = """{% extends "base.html.j2" %}
{% block title %}{{ name }}{% endblock %}
{% block style %}p { color: var(--mark); }{% endblock %}
{% block header %}<h1>{{ name|brief }}</h1>{% endblock %}
{% block main %}{% for each in rows %}<p>{{ each }}</p>{% endfor %}{% endblock %}
"""


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "some.html.j2"
    path.write_text(TEMPLATE)
    return path


def test_a_template_fills_the_base(template):
    page = render_page(template, name="a store", rows=[1, 2])
    assert page.startswith("<!doctype html>\n<html lang")
    assert "<title>a store</title>" in page and "<h1>a store</h1>" in page and "<p>1</p><p>2</p>" in page
    assert page.index("--mark: #") < page.index("p { color: var(--mark); }") < page.index("</style>")
    assert page == render_page(template, name="a store", rows=[1, 2])


def test_values_are_escaped(template):
    page = render_page(template, name='"><script>x</script>', rows=["<img src=x>", "{{ 7*7 }}"])
    assert "<script" not in page and "<img" not in page
    assert "&lt;img src=x&gt;" in page and "{{ 7*7 }}" in page


def test_a_value_that_is_not_given_is_an_error(template):
    with pytest.raises(jinja2.UndefinedError, match="rows"):
        render_page(template, name="x")


def test_the_base_has_no_script_and_no_address_and_forbids_them(template):
    page = render_page(template, name="x", rows=[])
    assert "script" not in page and "http:" not in page and "https:" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_long_texts_are_cut(template):
    assert brief("a" * LONGEST_TEXT) == "a" * LONGEST_TEXT
    assert brief("a" * 10_000_000) == "a" * LONGEST_TEXT + "…"
    assert f"<h1>{'b' * LONGEST_TEXT}…</h1>" in render_page(template, name="b" * 1000, rows=[])
