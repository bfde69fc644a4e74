"""Low-rank adapters (LoRA, arXiv 2106.09685) of an LLM, trained beside the projector; its own weights stay as they are.

    adapter = LoraAdapter(llm, config.lora, seed)     B is zero: the LLM answers as before
    adapter.use(training=True)                        its layers add the adapter; the weights take gradients
    adapter.save(run)                                 RUN/lora/: adapter_config.json, adapter_model.safetensors
    load_adapter(llm, projector)                      of the run that the projector is from, if it has one

The folder is peft's own format: `PeftModel.from_pretrained(llm, RUN/lora)` reads it. Weights are float32 whatever the
LLM's precision. One LLM may hold the adapters of several runs (`sm-train sweep`): each is used in its own steps alone.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sm_pipeline.models.quiet import quiet_transformers
from sm_store.durable import checksum, staged
from sm_store.errors import ConfigError, ModelError
from sm_store.extras import extra_module, not_installed
from speechmapper.config import LoraConfig
from speechmapper.llm import FrozenLLM
from speechmapper.projector import Projector

LORA_FOLDER = "lora"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"  # peft's names
EVERY_LINEAR = "all-linear"  # peft's word for every linear layer but the output rows
PREFIX = ".lora_"  # of the names of peft's modules
MOST_NAMES = 5  # tensors named in a message


def require_peft() -> None:
    """Check that adapters can be made. Raises ConfigError: peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise not_installed("peft")


class LoraAdapter(nn.Module):
    """The low-rank weights of one run; as a module it has them alone, not the LLM's.

    Args:
        llm: the LLM whose layers get them.
        seed: of the random halves.

    Attributes:
        weights: by peft's names, with `/` for `.`.

    Raises:
        ConfigError: peft is not installed, or the LLM has no such layers.
    """

    def __init__(self, llm: FrozenLLM, settings: LoraConfig, seed: int) -> None:
        super().__init__()
        self._llm, self._settings = llm, settings
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                self._name = _insert(llm, _peft_config(settings))
            except ValueError as error:
                raise ConfigError(
                    f"lora.targets {list(settings.targets)}: no layers of {llm.source.id} that can be adapted have "
                    f"such names ({_brief(error)}); leave it out for all of them"
                ) from error
        self.weights = nn.ParameterDict({_key(name): value for name, value in _weights(llm, self._name).items()})
        self.use(training=False)

    @property
    def parameter_count(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    def use(self, training: bool) -> None:
        """Let the LLM compute with these weights from now on.

        Args:
            training: with dropout; what the LLM has computed before is not used again in any case.
        """
        use_adapter(self._llm, self._name)
        for module in _layers(self._llm):
            if self._name in module.lora_dropout:
                module.lora_dropout[self._name].train(training)
        self._llm.layers_changed(self.parameter_count)

    def recorded(self) -> dict[str, Any]:
        """What a run says of its adapter (JSON values)."""
        return {**lora_identity(self._settings), "parameters": self.parameter_count}

    def save(self, run: Path) -> dict[str, Any]:
        """Write `RUN/lora`, replacing the one before as a whole; returns what the run records of it."""
        from safetensors.torch import save

        config = self._llm.adapters.peft_config[self._name].to_dict()
        config |= {
            "target_modules": sorted(config["target_modules"]),
            "base_model_name_or_path": self._llm.source.id,
            "revision": self._llm.source.revision,
            "inference_mode": True,
        }
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
        weights = {key.replace("/", "."): weight.detach().cpu().contiguous() for key, weight in self.weights.items()}
        with staged(run / LORA_FOLDER) as stage:
            stage.add(CONFIG_FILE, json.dumps(plain, indent=2, sort_keys=True).encode())
            stage.add(WEIGHTS_FILE, save(weights, metadata={"format": "pt"}))
        return {**self.recorded(), "crc32c": stage.files[WEIGHTS_FILE].crc32c}


def lora_identity(settings: LoraConfig) -> dict[str, Any]:
    """The settings that decide what is learned (JSON values)."""
    return {
        "rank": settings.rank,
        "alpha": settings.resolved_alpha,
        "dropout": settings.dropout,
        "targets": list(settings.targets),
        "lr": settings.lr,
    }


def use_adapter(llm: FrozenLLM, name: str | None) -> None:
    """Let the LLM compute with one of its adapters, or, with None, as it was loaded."""
    if llm.adapters is None:
        return
    tuner = llm.adapters.base_model
    enabled = not any(layer.disable_adapters for layer in _layers(llm))
    if name is None:
        if enabled:
            tuner.disable_adapter_layers()
        llm.layers_changed(0)
        return
    if not enabled:
        tuner.enable_adapter_layers()
    if llm.adapters.active_adapter != name:
        llm.adapters.set_adapter(name)


def load_adapter(llm: FrozenLLM, projector: Projector) -> None:
    """Put the adapter of a projector's run into the LLM, where it was trained with one.

    Raises:
        ModelError: it is not beside the projector, not the one saved with it, or made for another LLM. ConfigError:
            peft is not installed.
    """
    recorded = projector.config.trained_for.get("training", {}).get("lora")
    if recorded is None:
        return
    folder = Path(projector.name_or_path).parent / LORA_FOLDER
    weights = _read_weights(folder, recorded["crc32c"])
    try:
        config = _peft().LoraConfig.from_pretrained(str(folder))
        made_for = config.base_model_name_or_path
        name = _insert(llm, config)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{folder / CONFIG_FILE}: not a LoRA adapter of {llm.source.id} ({_brief(error)})") from error
    own = _weights(llm, name)
    wrong = sorted(key for key in own.keys() | weights.keys() if _shape(own.get(key)) != _shape(weights.get(key)))
    if wrong:
        raise ModelError(
            f"--llm {llm.source.id}: the adapter {folder} was trained with another LLM, "
            f"{made_for}: not fitting: {', '.join(wrong[:MOST_NAMES])}; name that LLM"
        )
    with torch.no_grad():
        for key, value in weights.items():
            own[key].copy_(value)
    use_adapter(llm, name)
    llm.adapters.requires_grad_(False)
    llm.layers_changed(0)


def base_parameters(llm: FrozenLLM) -> int:
    """Number of the LLM's own weights, without its adapters'."""
    adapters = sum(weight.numel() for name, weight in llm.model.named_parameters() if PREFIX in name)
    return int(llm.model.num_parameters()) - adapters  # two weights of 4 bits are one element


def _read_weights(folder: Path, crc32c: int) -> dict[str, torch.Tensor]:
    """The tensors of an adapter; raises ModelError where they are not those with this checksum."""
    from safetensors.torch import load

    path = folder / WEIGHTS_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: {error.strerror}; the LLM was trained with this adapter beside the projector: copy the run's "
            "folder as a whole"
        ) from error
    if checksum(data) != crc32c:
        raise ModelError(f"{path}: not the adapter that was saved with the projector; copy the run's folder again")
    return dict(load(data))


def _peft_config(settings: LoraConfig) -> Any:
    targets = EVERY_LINEAR if settings.targets == (EVERY_LINEAR,) else list(settings.targets)
    return _peft().LoraConfig(
        r=settings.rank,
        lora_alpha=settings.resolved_alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def _peft() -> Any:
    with quiet_transformers():  # it imports bitsandbytes, where that is installed, which tells what it cannot load
        return extra_module("peft")


def _insert(llm: FrozenLLM, config: Any) -> str:
    """Add an adapter to the LLM's layers; returns its name there."""
    name = f"adapter{len(llm.adapters.peft_config) if llm.adapters is not None else 0}"
    with warnings.catch_warnings():
        for about in ("`is_gradient_checkpointing` is deprecated", "fan_in_fan_out is set to"):
            warnings.filterwarnings("ignore", about)  # what peft asks transformers, and what it mends itself
        _wrap(llm, config, name)
    llm.model.eval()  # a new adapter's dropout is not
    return name


def _wrap(llm: FrozenLLM, config: Any, name: str) -> None:
    if llm.adapters is None:
        config.base_model_name_or_path = None  # else peft warns that the LLM is elsewhere now
        llm.adapters = _peft().get_peft_model(llm.model, config, name)
    else:
        llm.adapters.add_adapter(name, config)


def _layers(llm: FrozenLLM) -> list[Any]:
    """The layers with adapters."""
    from peft.tuners.lora import LoraLayer

    return [module for module in llm.model.modules() if isinstance(module, LoraLayer)]


def _weights(llm: FrozenLLM, name: str) -> dict[str, nn.Parameter]:
    """The weights of one adapter by the names of peft's files, which lack the adapter's."""
    own = f".{name}."
    return {key.replace(own, "."): value for key, value in llm.adapters.named_parameters() if own in key}


def _key(name: str) -> str:
    return name.replace(".", "/")  # a module's parameters have no dots in their names


def _shape(tensor: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
