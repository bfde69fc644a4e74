"""The project's error tree, ordered by how a caller would handle each error.

    SpeechMapperError          base; never raised itself
    ├── InputError      2      the user gave something wrong: says what, where, and the remedy
    │   ├── ManifestError      a manifest line (file:line)
    │   ├── ConfigError        a flag or configuration key
    │   └── ModelError         an encoder, LLM or projector that cannot be found or used
    ├── StoreError      2      a store that cannot be used as requested
    │   ├── StoreMissing       nothing there, or not finished
    │   ├── StoreFormatError   not a store, or another format version
    │   ├── IdentityMismatch   made with other settings; carries the difference
    │   ├── StoreCorrupt       bytes that do not match their checksum, size or shape
    │   └── StoreBusy          another writer holds the shard
    ├── SampleError     -      one utterance cannot be used: goes to the ledger, the run continues
    └── RunFailed       1      the work ran and failed (every sample rejected, non-finite loss, ...)

`kind` is a stable code for scripts; `exit_code` is what a command line ends with. A message is one line that
names the file, line or field and the remedy. It may quote what the user gave, which can be of any size, so the text of
every error is bounded here: the beginning says what and where, the end says what to do, and both are kept.

    str(ConfigError(f"--set lr={'9' * 10**6}: give a number"))    --set lr=999… [998,029 characters] …999: give a number
    quoted(["x"] * 10**6)                                         ['x', 'x', 'x', 'x', 'x', 'x', ...]
"""

from __future__ import annotations

import reprlib

LONGEST_MESSAGE = 2000  # characters; room for two paths and a remedy, or for twenty settings that differ
_QUOTES = reprlib.Repr()
_QUOTES.maxlevel, _QUOTES.maxstring, _QUOTES.maxother = 1, 80, 80
RUN_VERIFY = "run `sm-pipeline verify`"  # the remedy where bytes are damaged


class SpeechMapperError(Exception):
    """Base of every error this project raises on purpose."""

    kind = "error"
    exit_code = 1

    def __str__(self) -> str:
        return bounded(super().__str__())


class InputError(SpeechMapperError):
    """Bad usage or bad input."""

    kind = "input"
    exit_code = 2


class ManifestError(InputError):
    """A manifest that is missing, empty or malformed."""

    kind = "input.manifest"


class ConfigError(InputError):
    """A flag or configuration key that is unknown or impossible."""

    kind = "input.config"


class ModelError(InputError):
    """An encoder, LLM or projector that is unknown, incomplete or unusable."""

    kind = "input.model"


class StoreError(SpeechMapperError):
    """A store that cannot be used as requested."""

    kind = "store"
    exit_code = 2


class StoreMissing(StoreError):
    """There is no store, shard or target set of that name."""

    kind = "store.missing"


class StoreFormatError(StoreError):
    """Not a store, or of a format version this release does not read."""

    kind = "store.format"


class IdentityMismatch(StoreError):
    """The store was made with other settings than the requested ones."""

    kind = "store.identity"


class StoreCorrupt(StoreError):
    """Bytes that do not match their checksum, size or shape; names shard and record."""

    kind = "store.corrupt"


class StoreBusy(StoreError):
    """Another process is writing the same shard."""

    kind = "store.busy"


class SampleError(SpeechMapperError):
    """One utterance that cannot be used.

    `reason` is one of the ledger's codes (`sm_store.ledger.REASONS`), `detail` one line of explanation.
    """

    kind = "sample"

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = bounded(detail)
        super().__init__(f"{reason}: {self.detail}")

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class RunFailed(SpeechMapperError):
    """The work ran and failed."""

    kind = "run"
    exit_code = 1


def bounded(text: str) -> str:
    """`text` with its middle left out where it is longer than `LONGEST_MESSAGE` characters."""
    if len(text) <= LONGEST_MESSAGE:
        return text
    start, end = LONGEST_MESSAGE * 2 // 3, LONGEST_MESSAGE // 4
    return f"{text[:start]}… [{len(text) - start - end:,} characters] …{text[-end:]}"


def one_line(message: object) -> str:
    """The text of an error as one line of bounded length."""
    return bounded(" ".join(str(message).split()))


def quoted(value: object) -> str:
    """`repr(value)` in about 80 characters, for a value of unknown type and size, as YAML and JSON give them.

    The whole `repr` is never built: 300 bytes of YAML aliases can stand for gigabytes of it.
    """
    try:
        return _QUOTES.repr(value)
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return f"<{type(value).__name__}>"
