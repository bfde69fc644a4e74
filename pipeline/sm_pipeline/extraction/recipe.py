"""How to extract a store again: `extract.json`, which `extract` writes beside the identity.

    extract.json     {"manifest": "/data/corpus/manifest.jsonl", "audio_root": null, "encoder": "tiny-seamless", ...}

The identity holds what decides the bytes; the recipe holds where things are on this machine. It is never compared.
A store that was exported or merged has none: extract its source again instead.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from sm_pipeline.config import ExtractConfig
from sm_store import Identity, document
from sm_store.durable import locked, write_file
from sm_store.errors import StoreFormatError, StoreMissing
from sm_store.paths import RECIPE


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of an extraction that its store's identity does not hold.

    Attributes:
        manifest, audio_root: absolute paths. encoder: as named; a folder as an absolute path.
        batch_seconds: of audio encoded at once.
        targets: the target set that the last extraction wrote with the features, None: none.
    """

    manifest: str
    audio_root: str | None
    encoder: str
    batch_seconds: float
    targets: str | None

    @classmethod
    def of(cls, config: ExtractConfig, targets: str | None, batch_seconds: float) -> Recipe:
        """The recipe of an extraction."""
        place, mark, options = config.encoder.partition("?")
        return cls(
            manifest=str(config.manifest.resolve()),
            audio_root=str(config.audio_root.resolve()) if config.audio_root is not None else None,
            encoder=f"{Path(place).resolve()}{mark}{options}" if Path(place).is_dir() else config.encoder,
            batch_seconds=batch_seconds,
            targets=targets,
        )

    def save(self, store: Path) -> None:
        """Write it into a store, unless the same is there already; several processes may do so at once."""
        data = document.encode(asdict(self))
        path = store / RECIPE
        with locked(store, "recipe", wait=True):
            if not path.is_file() or path.read_bytes() != data:
                write_file(path, data)

    def config(
        self,
        store: Path,
        identity: Identity,
        device: str,
        manifest: Path | None = None,
        audio_root: Path | None = None,
    ) -> ExtractConfig:
        """The settings that made a store of this identity.

        Args:
            manifest, audio_root: where they are now, if they were moved or named wrongly; without both, as they were.
        """
        if audio_root is None and manifest is None and self.audio_root is not None:
            audio_root = Path(self.audio_root)
        encoder, plan = identity.encoder, identity.plan
        return ExtractConfig(
            manifest=manifest or Path(self.manifest),
            store=store,
            encoder=self.encoder,
            layer=encoder.get("layer"),
            average=identity.average,
            layout=identity.layout,  # type: ignore[arg-type]  # checked by ExtractConfig
            dtype=identity.dtype,  # type: ignore[arg-type]
            compression=identity.compression or "none",
            device=device,
            compute_dtype=encoder.get("compute_dtype", "auto"),
            split=identity.split,
            audio_root=audio_root,
            max_seconds=identity.front_end["max_seconds"],
            batch_seconds=self.batch_seconds,
            shard_utterances=plan["max_utterances"],
        )


def load_recipe(store: Path) -> Recipe:
    """The recipe of a store.

    Raises:
        StoreMissing: it has none. StoreFormatError, StoreCorrupt: it cannot be read.
    """
    if not (store / RECIPE).is_file():
        raise StoreMissing(
            f"{store}: has no {RECIPE}, so it was not made by `sm-pipeline extract`; do this to what it was "
            "exported or merged from, remove this one, and export or merge again"
        )
    try:
        return Recipe(**document.read(store / RECIPE))
    except TypeError as error:
        raise StoreFormatError(f"{store / RECIPE}: missing or unknown keys ({error})") from None
