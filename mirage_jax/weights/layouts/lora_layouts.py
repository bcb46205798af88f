"""LoRA of the Wan transformer in public files: names, and what the file says of ranks and strengths.

A file may adapt fewer matrices than a model's LoRA has room for, each with a rank and an alpha of its own, and others
outside the blocks; it may also hold changes of single parameters as they are (`.diff`, `.diff_b`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container
from typing import TYPE_CHECKING, Any

from mirage_jax.errors import UserError
from mirage_jax.models.config import LoRAConfig, ModelConfig
from mirage_jax.weights import layout as layouts
from mirage_jax.weights.layout import Layout, Rule
from mirage_jax.weights.layouts import wan_layouts
from mirage_jax.weights.sources import Source

if TYPE_CHECKING:
    from mirage_jax.weights.formats import Format

_ROOT = "pipe.dit."  # as the PyTorch release begins its names
_UNDERSCORES = re.compile(r"lora_unet_blocks_(\d+)_(self_attn|cross_attn|ffn)_")
_ALPHA = ".alpha"
_SPELLINGS = ((".default.", "."), (".lora_down.", ".lora_A."), (".lora_up.", ".lora_B."))


def _of(table: Layout, root: str = "") -> Layout:
    """The LoRA of a transformer whose names are `table`."""
    rules: list[Rule] = []
    for theirs, ours, storage in table:
        base, _, kind = theirs.rpartition(".")
        ours = ours.replace("dit/", "lora/", 1)
        if ours.endswith("/kernel") and storage == "linear":
            rules += [Rule(f"{root}{base}.lora_{x}.weight", f"{ours}/{x}", "linear") for x in "AB"]
        if kind in ("weight", "bias"):
            rules.append(Rule(f"{root}{base}.diff{'_b' if kind == 'bias' else ''}", ours, storage))
    return tuple(rules)


ORIGINAL_LORA = _of(wan_layouts.ORIGINAL_DIT, _ROOT)
DIFFUSERS_LORA = _of(wan_layouts.DIFFUSERS_DIT)


def canonical(name: str) -> str:
    """A name, prefixes dropped, in the spelling of the tables."""
    for theirs, ours in _SPELLINGS:
        name = name.replace(theirs, ours)
    return _UNDERSCORES.sub(r"blocks.\1.\2.", name)


def canonical_release(name: str) -> str:
    """The same for `ORIGINAL_LORA`."""
    return _ROOT + canonical(name)


def update_of(name: str) -> str:
    """The name of an update's `A` for that of its alpha; any other name as it is."""
    return name.removesuffix(_ALPHA) + ".lora_A.weight" if name.endswith(_ALPHA) else name


def fits(path: str, found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a public array is that of an update of a smaller rank, which zeros make a larger one."""
    axis = {"A": 0, "B": 1}.get(path.rsplit("/", 1)[-1])
    if axis is None or len(found) != 2:
        return False
    return found[1 - axis] == expected[1 - axis] and 0 < found[axis] < expected[axis]


def may_be_absent(path: str, found: Container[str]) -> bool:
    """Whether a file need not hold a parameter: half an update is a fault, none is not."""
    base, _, letter = path.rpartition("/")
    return letter not in ("A", "B") or f"{base}/{'BA'[letter == 'B']}" not in found


def config(source: Source, form: Format, model: ModelConfig, alpha: float | None) -> ModelConfig:
    """`model` with the LoRA of a file; `alpha` is for files that do not tell, None is their rank.

    Raises `UserError` if the file holds no LoRA, or tells alpha itself.
    """
    ranks, alphas, added = _told(source, form, model)
    if not ranks:
        raise UserError(f"{source.path}: found no tensor *.lora_A.weight and none of its kind, expected a LoRA")
    if alpha is not None and (alphas or len(set(ranks.values())) > 1):
        raise UserError(f"--alpha: {source.path} has an alpha or a rank for each update, leave the flag out")
    if twice := sorted(set(ranks) & set(added)):
        raise UserError(f"{source.path}: changes {twice[0]} both by an update of low rank and as it is")
    rank = max(ranks.values())
    strengths = {alphas.get(path, own) / own for path, own in ranks.items()}
    everywhere = strengths.pop() if len(strengths) == 1 else 1.0
    outside = {re.sub(r"blocks_\d+", "blocks", path.removeprefix("lora/")) for path in ranks}
    standard = re.compile(r"blocks/((self|cross)_attention/[qkvo]|ffn/(up|down))/kernel")
    lora = LoRAConfig(
        rank,
        float(everywhere * rank if alpha is None else alpha),
        cross_attention=any("/cross_attention/" in path for path in ranks),
        targets=tuple(sorted(path for path in outside if not standard.fullmatch(path))),
        added=tuple(sorted({re.sub(r"blocks_\d+", "blocks", path.removeprefix("lora/")) for path in added})),
    )
    return dataclasses.replace(model, lora=lora)


def factors(source: Source, form: Format, lora: LoRAConfig) -> dict[str, float]:
    """What a `B` is multiplied by, so that all updates have the strength of the config."""
    ranks, alphas, _ = _told(source, form, None)
    return {f"{path}/B": alphas[path] / ranks[path] / (lora.alpha / lora.rank) for path in alphas if path in ranks}


def _told(
    source: Source, form: Format, model: ModelConfig | None
) -> tuple[dict[str, int], dict[str, float], list[str]]:
    """Rank and alpha by the path of an adapted kernel, and paths of parameters with a change of their own."""
    table: Any = form.layout(model)
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    added: list[str] = []
    for name, entry in source.entries.items():
        known = form.canonical(name)
        try:
            path = layouts.to_ours(update_of(known), table)[0]
        except UserError:
            continue
        base, _, letter = path.rpartition("/")
        if known.endswith(_ALPHA):
            alphas[base] = float(source.read(name).reshape(-1)[0])
        elif letter not in "AB":
            added.append(path)
        elif len(entry.shape) == 2:
            rank = entry.shape[letter == "B"]
            if ranks.setdefault(base, rank) != rank:
                raise UserError(f"{entry.file}: tensor {name} has shape {entry.shape}, its other half has another rank")
    return ranks, alphas, added
