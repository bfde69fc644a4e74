"""Which target set of each store a run trains on.

    choose_targets([a], None)           ["llm"]                 the only one a.store has
    choose_targets([a, b], None)        ["llm", "smollm2"]      of one content, whatever it is called in each
    choose_targets([a, b], "llm")       ["llm", "smollm2"]      named as one of the stores has it

Target sets of one content have the same embedding table, tokenizer, pad token and text normaliser. They may differ in
name, in kind (`dense` or `table`: a batch is the same to the bit) and in the geometry that they were padded for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sm_store import Store, TargetSpec
from sm_store.errors import ConfigError, IdentityMismatch, StoreMissing
from sm_store.identity import diff_json

CONTENT = ("table_sha256", "tokenizer_sha256", "pad_id", "normalizer")

Sets = Mapping[str, TargetSpec]


def choose_targets(
    stores: Sequence[Store], target: str | None, matching: Callable[[Store], str | None] | None = None
) -> list[str]:
    """Name of the target set in each store.

    Args:
        target: `--target`: a name in one of the stores at least.
        matching: of a store the target set to prefer where `target` is None, or None.

    Raises:
        StoreMissing: no such target set. ConfigError: several are possible. IdentityMismatch: no set of one store has
            the content of another's; names the two.
    """
    if target is None and matching is not None:
        target = matching(stores[0])
    if len(stores) == 1:
        return [choose_target(stores[0], target)]
    sets = [{name: store.targets(name).spec for name in store.target_names} for store in stores]
    for store, own in zip(stores, sets, strict=True):
        if not own:
            raise ConfigError(f"{store.path}: the store has no target set; add one with `sm-pipeline embed`")
    place, spec = _named(stores, sets, target) if target is not None else (0, _only_shared(stores, sets))
    return [_of_content(spec, stores[place], store, own) for store, own in zip(stores, sets, strict=True)]


def choose_target(store: Store, target: str | None) -> str:
    """The target set named by `--target`, or the only one. Raises StoreMissing or ConfigError."""
    names = store.target_names
    if target is not None and target not in names:
        raise StoreMissing(
            f"--target {target}: {store.path} has {', '.join(names) or 'no target set'}; "
            "add it with `sm-pipeline embed`"
        )
    if target is None and len(names) != 1:
        raise ConfigError(
            f"{store.path}: the store has {len(names)} target sets ({', '.join(names) or 'none'}); name one with "
            "--target, or add one with `sm-pipeline embed`"
        )
    return target or names[0]


def _named(stores: Sequence[Store], sets: Sequence[Sets], target: str) -> tuple[int, TargetSpec]:
    """The first store that has a target set of that name, by number, and the set."""
    for place, own in enumerate(sets):
        if target in own:
            return place, own[target]
    there = "; ".join(f"{store.path} has {', '.join(own)}" for store, own in zip(stores, sets, strict=True))
    raise StoreMissing(f"--target {target}: in none of the stores ({there}); add it with `sm-pipeline embed`")


def _only_shared(stores: Sequence[Store], sets: Sequence[Sets]) -> TargetSpec:
    """The only target set of the first store that every store has."""
    first = sets[0]
    shared = [name for name, spec in first.items() if all(_matches(spec, own) for own in sets[1:])]
    if len(shared) > 1:
        where = " and ".join(store.path for store in stores)
        raise ConfigError(f"{where}: share {len(shared)} target sets ({', '.join(shared)}); name one with --target")
    return first[shared[0] if shared else next(iter(first))]


def _of_content(spec: TargetSpec, owner: Store, store: Store, sets: Sets) -> str:
    """The store's set with the content of `spec`, which is `owner`'s. Raises IdentityMismatch."""
    matches = _matches(spec, sets)
    if matches:
        return spec.name if spec.name in matches else matches[0]
    other = sets.get(spec.name) or next(iter(sets.values()))
    raise IdentityMismatch(
        f"{owner.path} and {store.path} cannot be trained on together: target sets {spec.name!r} (of {spec.llm}) and "
        f"{other.name!r} (of {other.llm}) differ (first != second): "
        f"{'; '.join(diff_json(_content(spec), _content(other)))}; add the other's with `sm-pipeline embed`"
    )


def _matches(spec: TargetSpec, sets: Sets) -> list[str]:
    return [name for name, other in sets.items() if _content(other) == _content(spec)]


def _content(spec: TargetSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in CONTENT}
