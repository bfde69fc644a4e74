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
from pathlib import Path
from typing import Protocol

import torch

from sm_store.errors import ModelError
from sm_store.extras import extra_module

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
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
    index = fetch.find(INDEX_FILE)
    if index is not None:
        return SafeTensors(fetch, _read_index(index))
    single = fetch.find(SINGLE_FILE)
    if single is None:
        raise ModelError(
            f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE}; only safetensors and GGUF weights "
            "are read (save the model again with save_pretrained)"
        )
    return SafeTensors(fetch, dict.fromkeys(_names_in(single), SINGLE_FILE))


class HubFiles:
    """Files of a folder; those missing are fetched from the Hub where the folder is a Hub snapshot."""

    def __init__(self, folder: Path, repository: str | None, revision: str | None) -> None:
        self.folder = folder
        self._repository = repository
        self._revision = revision

    def find(self, name: str) -> Path | None:
        """The file's path, or None where it does not exist."""
        path = self.folder / name
        if path.is_file():
            return path
        if self._repository is None:
            return None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self._repository, name, revision=self._revision))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
            return None


class SafeTensors:
    """`TensorFiles` over one or several safetensors files."""

    def __init__(self, files: HubFiles, shard_of: dict[str, str]) -> None:
        self._files = files
        self._shard_of = shard_of

    def names(self) -> list[str]:
        return sorted(self._shard_of)

    def get(self, name: str) -> torch.Tensor:
        from safetensors import SafetensorError, safe_open

        if name not in self._shard_of:
            raise ModelError(f"{self._files.folder}: no tensor {name!r} in its weights; the checkpoint is incomplete")
        path = self._files.find(self._shard_of[name])
        if path is None:
            raise ModelError(
                f"{self._files.folder / self._shard_of[name]}: missing, and {name!r} is in it; complete the checkpoint"
            )
        try:
            with safe_open(path, framework="pt") as opened:
                return opened.get_tensor(name)
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
        return torch.from_numpy(extra_module("gguf.quants").dequantize(tensor.data, tensor.tensor_type).copy())


def _read_index(path: Path) -> dict[str, str]:
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
