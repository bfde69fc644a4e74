"""Flags of several commands: `--beam`, `--hotwords` and `--hotword-weight` where speech is transcribed, `--quantize`
where an LLM is loaded.

search_of(None, None, None)              None: greedily
search_of(None, Path("names.txt"), None)       BeamSearch(16, Hotwords(["Toronto"], ...), 4.0)
llm_config_of("4bit")                    LlmConfig(quantize="4bit")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sm_store.errors import ConfigError
from speechmapper.config import QUANTIZATIONS, LlmConfig

if TYPE_CHECKING:
    from speechmapper.readout.beam import BeamSearch

QuantizeOption = Annotated[
    str, typer.Option(metavar="|".join(QUANTIZATIONS), help="Layers of the LLM quantised by bitsandbytes.")
]
BeamOption = Annotated[
    int | None,
    typer.Option(
        "--beam",
        min=1,
        help="Read a projector of ctc-embedding by beam search, keeping so many texts [default: greedily; with "
        "--hotwords 16].",
    ),
]
HotwordsOption = Annotated[
    Path | None,
    typer.Option(
        "--hotwords",
        metavar="FILE",
        help="Words and phrases that the speech may hold, like names: a text file, one per line. Beam search prefers "
        "texts with them.",
    ),
]
HotwordWeightOption = Annotated[
    float | None,
    typer.Option(
        "--hotword-weight",
        help="What each token of a hotword adds to a text's natural log-probability [default: 4].",
    ),
]


def search_of(beam: int | None, hotwords: Path | None, weight: float | None) -> BeamSearch | None:
    """The beam search that the options name, None where they name none.

    Raises:
        ConfigError: hotwords that cannot be used (`read_hotwords`), or a weight without any.
    """
    if hotwords is None and weight is not None:
        raise ConfigError("--hotword-weight: there are no hotwords to weigh; name a file of them with --hotwords")
    if beam is None and hotwords is None:
        return None
    from speechmapper.readout.hotwords import read_hotwords

    words = None if hotwords is None else read_hotwords(hotwords)
    from speechmapper.readout.beam import WEIGHT, WIDTH, BeamSearch

    return BeamSearch(WIDTH if beam is None else beam, words, WEIGHT if weight is None else weight)


def llm_config_of(quantize: str) -> LlmConfig:
    """How the LLM is loaded, from the flag. Raises ConfigError: an unknown quantisation."""
    if quantize not in QUANTIZATIONS:
        raise ConfigError(f"--quantize {quantize}: use {', '.join(QUANTIZATIONS)}")
    return LlmConfig(quantize=quantize)
