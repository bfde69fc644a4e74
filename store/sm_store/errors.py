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
names the file, line or field and the remedy.
"""

from __future__ import annotations

RUN_VERIFY = "run `sm-pipeline verify`"  # the remedy where bytes are damaged


class SpeechMapperError(Exception):
    """Base of every error this project raises on purpose."""

    kind = "error"
    exit_code = 1


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
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class RunFailed(SpeechMapperError):
    """The work ran and failed."""

    kind = "run"
    exit_code = 1
