"""Languages in the many forms in which corpora name them, as BCP-47 primary tags.

    language_tag("zh-CN"), language_tag("zh_cn"), language_tag("cmn_hans_cn"), language_tag("Chinese")      "zh"
    language_tag("en_accented"), language_tag("eng"), language_tag("English"), language_tag("en-US")        "en"
    language_tag("yue_hant_hk")      "yue": a language of its own, which `zh` is not used for
    language_tag("studio 3")         None

    tag_or_name("studio 3")          "studio 3": what is not known stays as the corpus has it

Importers write these tags into manifests, and prompts are looked up by them. The rules are those of the package
langcodes: the shortest code of a language, and the macrolanguage where it usually stands for this member (`cmn`, `zh`).
"""

from __future__ import annotations

import re
from functools import lru_cache

_NOT_ONE_LANGUAGE = frozenset({"mis", "mul", "und", "zxx"})
_PRIMARY = re.compile(r"[A-Za-z]{2,3}(?=$|[-_])")


@lru_cache(4096)
def language_tag(name: str) -> str | None:
    """The primary tag of a language; None where the name is not one of a language."""
    plain = name.strip().replace("_", "-")
    code = _PRIMARY.match(plain)
    return (_tag_of_code(plain) or _tag_of_code(code[0])) if code else _tag_of_name(plain.replace("-", " "))


def tag_or_name(name: str | None) -> str | None:
    """The primary tag of a language, or what a corpus calls it; None where it says nothing."""
    if name is None or not name.strip():
        return None
    return language_tag(name) or name.strip()


def _tag_of_code(code: str) -> str | None:
    from langcodes import Language, LanguageTagError  # here: it is not needed where no language is named

    try:
        found = Language.get(code)
    except LanguageTagError:
        return None
    known = found.language is not None and Language.get(found.language).is_valid()
    tag = found.prefer_macrolanguage().language if known else None
    return None if tag in _NOT_ONE_LANGUAGE else tag


def _tag_of_name(name: str) -> str | None:
    from langcodes import find

    try:
        return find(name).prefer_macrolanguage().language
    except LookupError:
        return None
