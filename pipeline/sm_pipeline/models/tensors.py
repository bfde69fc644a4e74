"""Single tensors out of a checkpoint, without loading the model.

    tensors = open_checkpoint(folder, gguf_file=None)
    tensors.names()                          ["lm_head.weight", "model.embed_tokens.weight", ...]
    tensors.get("model.embed_tokens.weight")     reads that tensor's bytes in one of the shards, nothing else

Three kinds: one `model.safetensors`, shards listed by `model.safetensors.index.json`, or a GGUF file, whose
quantised tensors come back as float32. Pickled checkpoints (`pytorch_model.bin`) are refused: opening one
runs code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from sm_store.errors import ModelError
from sm_store.extras import extra_module

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PIECE_BYTES = 32 * 2**20  # of float32, converted at once
CONVERTER = "SFconvertbot"  # the Hub's account that opens pull requests with converted weights
MAX_INDEX_BYTES = 64 * 2**20  # the largest public indexes are a few MB


class TensorFiles(Protocol):
    """The tensors of one checkpoint."""

    def names(self) -> list[str]:
        """Every tensor's name, sorted."""

    def get(self, name: str) -> torch.Tensor:
        """One tensor, in the dtype it is stored in (float32 where it was quantised).

        Raises:
            ModelError: no tensor of that name, or a file that cannot be read.
        """

    def get_float32(self, name: str) -> torch.Tensor:
        """One tensor with rows as float32, without holding it in another dtype too. Raises as `get`."""

    def get_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows of one tensor, in the dtype of `get`; of safetensors no others are read. Raises as `get`."""


def open_checkpoint(
    folder: Path, gguf_file: str | None, repository: str | None = None, revision: str | None = None
) -> TensorFiles:
    """Open the checkpoint in `folder`.

    Args:
        gguf_file: name of the GGUF file, or None for safetensors.
        repository: Hub id and `revision` from which a missing weight file is fetched; None: it must be there.

    Raises:
        ModelError: no weights of a supported kind.
    """
    if gguf_file is not None:
        return GgufTensors(folder / gguf_file)
    fetch = HubFiles(folder, repository, revision)
    if (folder / INDEX_FILE).is_file():  # of a Hub snapshot, it was fetched with the configuration
        return SafeTensors(fetch, read_index(folder / INDEX_FILE))
    single = fetch.find(SINGLE_FILE)
    if single is None:
        raise ModelError(
            f"{repository or folder}: neither {SINGLE_FILE} nor {INDEX_FILE}; only safetensors and GGUF weights are "
            f"read, since opening others can run code; {_other_weights(folder, repository)}"
        )
    return SafeTensors(fetch, dict.fromkeys(_names_in(single), SINGLE_FILE))


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold a checkpoint's weights, by its index where it has one; not of its other variants."""
    index = folder / INDEX_FILE
    return sorted(set(read_index(index).values())) if index.is_file() else [SINGLE_FILE]


def _other_weights(folder: Path, repository: str | None) -> str:
    """What to do about a checkpoint without safetensors: a branch of the Hub that has them, and how to convert it."""
    branch = _converted_branch(repository) if repository is not None else None
    way = f"use {repository}@{branch}, where the Hub has converted them, or " if branch is not None else ""
    try:
        model = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        model = "AutoModel"
    if not model.isidentifier():
        model = "AutoModel"
    fetch, place = "", str(folder)
    if repository is not None:
        place = repository.partition("/")[2]
        fetch = f"from huggingface_hub import snapshot_download as d; d('{repository}', local_dir='{place}'); "
    code = f"{fetch}from transformers import {model} as M; M.from_pretrained('{place}').save_pretrained('{place}')"
    return f'{way}convert them once, if you trust them, and give the folder: python -c "{code}"'


def _converted_branch(repository: str) -> str | None:
    """The Hub's own open pull request that adds safetensors, as `refs/pr/N`; None where there is none, or where the
    Hub does not answer."""
    from huggingface_hub import get_repo_discussions

    try:
        for each in get_repo_discussions(repository, author=CONVERTER, discussion_type="pull_request"):
            if each.author == CONVERTER and each.status in ("open", "draft") and each.git_reference:
                return each.git_reference
    except Exception:  # its client passes on whatever the network raises; only a recommendation is lost
        return None
    return None


class HubFiles:
    """Files of a folder; those missing are fetched from the Hub where the folder is a Hub snapshot."""

    def __init__(self, folder: Path, repository: str | None, revision: str | None) -> None:
        self.folder = folder
        self._repository = repository
        self._revision = revision

    def find(self, name: str) -> Path | None:
        """The file's path, or None where it does not exist.

        Raises:
            ModelError: it may exist, but the Hub does not answer or there is no room for it.
        """
        path = self.folder / name
        if path.is_file():
            return path
        if self._repository is None:
            return None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self._repository, name, revision=self._revision))
        except (HfHubHTTPError, EntryNotFoundError, OSError, ValueError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise ModelError(
                f"{self._repository}: its {name} is not in the local cache and not fetched from the Hub ({reason}); "
                "check network and free space, and run the same command again"
            ) from error


class SafeTensors:
    """`TensorFiles` over one or several safetensors files."""

    def __init__(self, files: HubFiles, shard_of: dict[str, str]) -> None:
        self._files = files
        self._shard_of = shard_of

    def names(self) -> list[str]:
        return sorted(self._shard_of)

    def get(self, name: str) -> torch.Tensor:
        from safetensors import safe_open

        path = self._file_of(name)
        with self._reading(path, name), safe_open(path, framework="pt") as opened:
            return opened.get_tensor(name)

    def get_float32(self, name: str) -> torch.Tensor:
        from safetensors import safe_open

        path, start, whole = self._file_of(name), 0, torch.empty(0)
        with self._reading(path, name):
            while start == 0 or start < len(whole):
                # Opened anew for each piece: the file is mapped, and its pages stay in memory until it is closed.
                with safe_open(path, framework="pt") as opened:
                    stored = opened.get_slice(name)
                    if start == 0:
                        whole = torch.empty(stored.get_shape(), dtype=torch.float32)
                    stop = start + max(PIECE_BYTES // max(whole[:1].nbytes, 1), 1)
                    whole[start:stop] = stored[start:stop]
                start = stop
        return whole

    def get_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        from safetensors import safe_open

        path = self._file_of(name)
        with self._reading(path, name), safe_open(path, framework="pt") as opened:
            rows: torch.Tensor = opened.get_slice(name)[start:stop]
        return rows

    def _file_of(self, name: str) -> Path:
        if name not in self._shard_of:
            raise ModelError(f"{self._files.folder}: no tensor {name!r} in its weights; the checkpoint is incomplete")
        path = self._files.find(self._shard_of[name])
        if path is None:
            raise ModelError(
                f"{self._files.folder / self._shard_of[name]}: missing, and {name!r} is in it; complete the checkpoint"
            )
        return path

    @contextmanager
    def _reading(self, path: Path, name: str) -> Iterator[None]:
        from safetensors import SafetensorError

        try:
            yield
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot read {name!r} ({error}); fetch the file again") from error


class GgufTensors:
    """`TensorFiles` over a GGUF file, under llama.cpp's tensor names; `architecture` is llama.cpp's name
    too."""

    def __init__(self, path: Path) -> None:
        gguf = extra_module("gguf")
        try:
            reader = gguf.GGUFReader(path)
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
            self.architecture = str(reader.fields["general.architecture"].contents())
        except Exception as error:  # the reader raises whatever numpy meets in a broken file
            raise ModelError(f"{path}: not a readable GGUF file ({error}); fetch it again") from error
        self._path = path

    def names(self) -> list[str]:
        return sorted(self._tensors)

    def get(self, name: str) -> torch.Tensor:
        if name not in self._tensors:
            raise ModelError(f"{self._path}: no tensor {name!r}; the checkpoint is incomplete")
        tensor = self._tensors[name]
        values = extra_module("gguf.quants").dequantize(tensor.data, tensor.tensor_type)
        return torch.from_numpy(values if values.flags.writeable else values.copy())

    def get_float32(self, name: str) -> torch.Tensor:
        return self.get(name).to(torch.float32)

    def get_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.get(name)[start:stop]


def read_index(path: Path) -> dict[str, str]:
    """Shard file name by tensor name; only plain names inside the folder are allowed."""
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise ModelError(f"{path}: larger than {MAX_INDEX_BYTES // 2**20} MB; not a weight index")
    try:
        shard_of = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        valid = isinstance(shard_of, dict) and all(isinstance(name, str) for name in shard_of.values())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: not a weight index ({error}); fetch it again") from error
    outside = [name for name in shard_of.values() if Path(name).name != name] if valid else ["?"]
    if outside:
        raise ModelError(f"{path}: names {outside[0]!r}, which is not a file beside it; fetch it again")
    return shard_of


def _names_in(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file ({error}); fetch it again") from error
