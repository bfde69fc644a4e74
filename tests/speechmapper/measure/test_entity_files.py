"""Files of tagged words: NEuRoparl-ST's three columns, or two."""

from __future__ import annotations

import pytest

from sm_store.errors import ConfigError
from speechmapper.measure.entity_files import entities_of, read_entities

TAGGED = """1\tHe\tO
2\tmet\tO
3\tAnna\tB-PERSON
4\tBerg\tI-PERSON
5\tOslo\tB-GPE
6\t.\tO

1\tNobody\tO

1\tBob\tI-PERSON
2\tAnn\tB-PERSON
"""


@pytest.mark.parametrize("columns", [3, 2])
def test_sentences_by_their_text(tmp_path, columns):
    lines = [line.split("\t", 1)[1] if line and columns == 2 else line for line in TAGGED.split("\n")]
    path = tmp_path / "test.ne.en.iob"
    path.write_text("\r\n".join(lines), encoding="utf-8")
    assert read_entities(path) == {
        "hemetannabergoslo.": ["Anna Berg", "Oslo"],
        "nobody": [],
        "bobann": ["Bob", "Ann"],
    }
    references = ["Nobody", "he met Anna Berg Oslo.", "Somebody else", "Nobody"]
    assert entities_of(references, path) == ([[], ["Anna Berg", "Oslo"], [], []], 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tO\nb B-PER\n", r"f\.iob:2: 'b B-PER' is not a word and its tag"),
        ("a\tPERSON\n", r"f\.iob:1: "),
        ("a\tB-\n", r"f\.iob:1: "),
        ("1\t2\ta\tO\n", r"f\.iob:1: "),
        ("\n\n", "no sentence in it"),
        ("b\tO\n", "none of its 1 sentences is the text of a reference"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "f.iob"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        entities_of(["a"], path)


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"--entities .*: cannot be read"):
        read_entities(tmp_path / "none.iob")
    (tmp_path / "binary.iob").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_entities(tmp_path / "binary.iob")
