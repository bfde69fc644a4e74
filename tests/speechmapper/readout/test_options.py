"""What the options of a command mean together."""

from __future__ import annotations

import pytest

from sm_store.errors import ConfigError
from speechmapper.readout.beam import BeamSearch
from speechmapper.readout.options import search_of


def test_without_options_greedily(tmp_path):
    assert search_of(None, None, None) is None


def test_each_option_alone_has_the_defaults_of_the_others(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Toronto\n")
    assert search_of(5, None, None) == BeamSearch(5)
    found = search_of(None, path, None)
    assert (found.width, found.weight, found.hotwords.normalised()) == (16, 4.0, ["toronto"])
    assert search_of(3, path, 1.5).identity()["hotwords"]["weight"] == 1.5


def test_what_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--hotword-weight: there are no hotwords to weigh"):
        search_of(4, None, 2.0)
    with pytest.raises(ConfigError, match=r"names\.txt: cannot be read"):
        search_of(None, tmp_path / "names.txt", None)
