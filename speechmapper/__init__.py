"""SpeechMapper: teach frozen LLMs to listen.

Public names are imported when first used, so `import speechmapper` is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sm_store import Store
    from speechmapper.model import SpeechMapper
    from speechmapper.projector import Projector, ProjectorConfig

__all__ = ["Projector", "ProjectorConfig", "SpeechMapper", "Store"]

_HOME = {
    "Projector": "speechmapper.projector",
    "ProjectorConfig": "speechmapper.projector",
    "SpeechMapper": "speechmapper.model",
    "Store": "sm_store",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'speechmapper' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
