"""A whole model in numbers: the parts, how a segment is laid out, and its file form."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Any

from mirage_jax.errors import UserError
from mirage_jax.models.depth_anything import DepthAnythingConfig
from mirage_jax.models.dit import WAN22_TI2V_5B, DiTConfig
from mirage_jax.models.heads import LatentHeadsConfig
from mirage_jax.models.side_branch import SideBranchConfig
from mirage_jax.models.umt5 import UMT5_XXL, UMT5Config
from mirage_jax.models.vae import WAN22, VAEConfig

CONTROLS = {
    "readout": (0, 1),
    "ones": (0, 1),
    "visible": (1, 0),
    "hole": (1, 0),
    "depth": (1, 0),
    "moving": (1, 0),
    "age": (1, 0),
    "turned": (1, 0),
}
"""What control channels may be made of, and how many each takes: so many, and so many times the latent channels.

'ones' is the code of an all-ones video, which the public release gives its side branch in place of the visibility mask;
its 49-channel variant takes 'hole', 1 where nothing is seen, where the paper's takes 'visible', 1 where something is.
'moving', 'age' and 'turned' tell which cells show a thing that moves, how long ago it was seen, and from how far round.
"""


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Rank and strength of the low-rank updates of the DiT that go with a side branch.

    Attributes:
      rank: of every update.
      alpha: the update is `alpha / rank * A B`.
      cross_attention: adapt cross-attention too, as the public release does, not only self-attention and FFN.
      targets: further kernels that are adapted, as paths in the DiT, `blocks` for all blocks: head/linear/kernel.
      added: parameters that get a change of their own, as in community files: blocks/ffn/up/bias.
    """

    rank: int = 32
    alpha: float = 32.0
    cross_attention: bool = False
    targets: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SegmentConfig:
    """How one segment is laid out.

    Attributes:
      latents: new latent frames of a segment, after the one it overlaps with.
      preceding: clean latent frames given before the overlap.
      reference: clean reference frames from earlier views, at most.
      control: parts of the control channels, in order (see `CONTROLS`).
      lengths: what `latents` may be, where the model was trained for several (`ModelConfig.with_segments_of`).
    """

    latents: int = 8
    preceding: int = 2
    reference: int = 4
    control: tuple[str, ...] = ("readout", "visible")
    lengths: tuple[int, ...] = ()

    def __post_init__(self):
        unknown = set(self.control) - set(CONTROLS)
        if unknown:
            raise UserError(f"segment config: unknown control {sorted(unknown)}, known are {sorted(CONTROLS)}")

    def control_widths(self, latent_channels: int) -> list[int]:
        """Channels of each part of the control, in order."""
        return [fixed + times * latent_channels for fixed, times in (CONTROLS[part] for part in self.control)]

    def control_channels(self, latent_channels: int) -> int:
        """Channels `Cc` of the control latents."""
        return sum(self.control_widths(latent_channels))


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Every number of a model; parts that a training stage has not made yet are None.

    Attributes:
      name: of the model.
      height, width: pixels it was trained at.
      fps: frames per second its videos are written at.
      vae, dit, side, heads, lora, text, depth, segment: the parts; with `lora`, the DiT alone is the model without
        memory.
      recipe: name of the recipe that it was trained for (`world.recipe`).
    """

    name: str
    height: int
    width: int
    fps: int
    vae: VAEConfig
    dit: DiTConfig | None = None
    side: SideBranchConfig | None = None
    heads: LatentHeadsConfig | None = None
    lora: LoRAConfig | None = None
    text: UMT5Config | None = None
    depth: DepthAnythingConfig | None = None
    segment: SegmentConfig = SegmentConfig()
    recipe: str = "default"

    def __post_init__(self):
        if self.side is not None and self.side.refine and self.segment.control[:1] != ("readout",):
            raise UserError(
                f"model config: a side branch that refines needs 'readout' as its first control, found "
                f"{', '.join(self.segment.control)}"
            )
        if self.side is not None and self.side.identity and (self.dit is None or self.dit.prediction != "sample"):
            raise UserError("model config: a side branch with identity needs a DiT whose prediction is 'sample'")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the latent grid."""
        return self.height // self.vae.stride_space, self.width // self.vae.stride_space

    @property
    def segment_frames(self) -> int:
        """Pixel frames a segment adds, `F`."""
        return self.segment.latents * self.vae.stride_time

    def with_segments_of(self, latents: int) -> ModelConfig:
        """The same model with segments of so many latent frames.

        Raises `UserError` if it was not trained for that length.
        """
        trained = sorted({self.segment.latents, *self.segment.lengths})
        if latents not in trained:
            lengths = ", ".join(map(str, trained))
            raise UserError(f"model {self.name!r} makes segments of {lengths} latent frames, found {latents}")
        return dataclasses.replace(self, segment=dataclasses.replace(self.segment, latents=latents))

    def at_any_length(self) -> ModelConfig:
        """The same for every length of its segments: what tells one model from another."""
        return self.with_segments_of(min(self.segment.lengths)) if self.segment.lengths else self

    def to_json(self) -> str:
        """The config as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    def digest(self) -> str:
        """A short hash of every number, to recognise files that belong to another model."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def from_json(text: str, where: str) -> ModelConfig:
    """Reads `ModelConfig.to_json` back.

    Args:
      text: the JSON.
      where: file name for messages.

    Raises:
      UserError: if it is not JSON, or a field is missing, unknown, of another type or beyond all sense.
    """
    try:
        found = _build(ModelConfig, _of_this_version(json.loads(text)), "")
    except UserError as error:
        raise UserError(f"{where}: {str(error)[:300]}") from error
    # What configs compute of sound numbers can still fail, in as many ways: 3 heads for a width of 8.
    except (TypeError, KeyError, AttributeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise UserError(f"{where}: not a model config of this version ({str(error)[:200]})") from error
    patches = (found.dit.patch if found.dit else ()) + ((found.heads.patch,) if found.heads else ())
    step = found.vae.stride_space * math.lcm(*patches)
    if found.height % step or found.width % step:
        raise UserError(f"{where}: pictures of {found.height}x{found.width}, expected multiples of {step}")
    return found


def first_mismatch(found: ModelConfig, expected: ModelConfig) -> str | None:
    """The first field in which two configs differ, as a sentence, or None."""

    def walk(a: Any, b: Any, path: str) -> str | None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in [*a, *(k for k in b if k not in a)]:
                message = walk(a.get(key), b.get(key), f"{path}.{key}" if path else key)
                if message:
                    return message
            return None
        return None if a == b else f"{path} is {a}, expected {b}"

    return walk(dataclasses.asdict(found), dataclasses.asdict(expected), "")


def default() -> ModelConfig:
    """The model that ships: 128x128, one latent a frame of 32x32 cells, segments of 4, 8 or 16 frames, no text."""
    channels = 12
    segment = SegmentConfig(
        latents=8,
        preceding=1,
        reference=1,
        control=("readout", "visible", "depth", "moving", "age", "turned"),
        lengths=(4, 8, 16),
    )
    return ModelConfig(
        name="default",
        height=128,
        width=128,
        fps=15,
        vae=VAEConfig(
            latent_channels=channels,
            encoder_dim=96,
            decoder_dim=128,
            multipliers=(1,),
            blocks=2,
            time_downsample=(),
            time_kernels=(1,),
            patch=4,
        ),
        dit=DiTConfig(
            dim=256,
            ffn_dim=1024,
            heads=4,
            layers=6,
            in_channels=channels,
            patch=(1, 4, 4),
            prediction="sample",
            paint=64,
        ),
        side=SideBranchConfig(control_channels=segment.control_channels(channels), refine=64, identity=True),
        heads=LatentHeadsConfig(in_channels=channels, blocks=(1, 2, 2), canonical_focal=16.0, patch=2),
        segment=segment,
    )


def wan22_ti2v_5b(control: tuple[str, ...] = ("readout", "ones")) -> ModelConfig:
    """Wan2.2-TI2V-5B with a side branch (704x1280, 33-frame segments).

    Args:
      control: parts of the control channels: by default the 96 of the public release; ("readout", "visible") gives the
        49 of the paper, ("readout", "hole") those of the release's variant, whose mask says the opposite.
    """
    segment = SegmentConfig(control=control)
    return ModelConfig(
        name="wan22_ti2v_5b",
        height=704,
        width=1280,
        fps=24,
        vae=WAN22,
        dit=WAN22_TI2V_5B,
        side=SideBranchConfig(control_channels=segment.control_channels(WAN22.latent_channels)),
        lora=LoRAConfig(rank=32, alpha=32.0),
        text=UMT5_XXL,
        segment=segment,
        recipe="release",
    )


PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "default": default,
    "wan22_ti2v_5b": wan22_ti2v_5b,
    "wan22_ti2v_5b_visible": functools.partial(wan22_ti2v_5b, control=("readout", "visible")),
    "wan22_ti2v_5b_hole": functools.partial(wan22_ti2v_5b, control=("readout", "hole")),
}
"""Models by name, for commands."""


_RELEASE = {"footprint": 1, "steps": 20, "overlap": "reencode", "token": "clip", "write": "all"}
"""Files of the first version say how a model is run in `segment`, so for Wan's, and not by a name."""

_WITHOUT = {"output_hint": False}
"""Of `side` in files of older versions: what this one has no more, where the model does without."""


def _of_this_version(values: Any) -> Any:
    """The fields of a file, of this version or of one before, if it says the same."""
    if not isinstance(values, dict):
        return values
    found = dict(values)
    for part, known in (("side", _WITHOUT), ("segment", _RELEASE)):
        fields = values.get(part)
        if isinstance(fields, dict) and known.items() <= fields.items():
            found[part] = {name: value for name, value in fields.items() if name not in known}
            found |= {"recipe": "release"} if part == "segment" else {}
    return found


_MAY_BE_ZERO = ("text_dim", "refine", "paint", "preceding", "reference")
_GREATEST = {"height": 1 << 14, "width": 1 << 14, "layers": 1000, "blocks": 1000, "latents": 1000}


def _build(kind: Any, value: Any, path: str) -> Any:
    """A value of a type from plain JSON; dataclasses may be nested and optional.

    Raises `UserError` naming the field, if the value is of another type, or beyond all sense.
    """
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    found = f"{path or 'the whole'} is {str(value)[:60]!r}"
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{found}, expected fields by name")
        hints = typing.get_type_hints(kind)
        if unknown := [str(name) for name in value if name not in hints]:
            raise UserError(
                f"not a model config of this version: unknown field {path}{'.' * bool(path)}{unknown[0][:60]}"
            )
        inside = {name: _build(hints[name], x, f"{path}.{name}" if path else name) for name, x in value.items()}
        return kind(**inside)
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, list) or (kinds[-1] is not ... and len(value) != len(kinds)):
            raise UserError(f"{found}, expected a list{'' if kinds[-1] is ... else f' of {len(kinds)}'}")
        return tuple(_build(kinds[0] if kinds[-1] is ... else kinds[i], x, path) for i, x in enumerate(value))
    if kind is float and type(value) in (int, float):
        if not abs(value) < 1e9:  # NaN too
            raise UserError(f"{found}, expected a number below 1e9")
    elif type(value) is not kind:
        raise UserError(f"{found}, expected {kind.__name__}")
    name = path.rpartition(".")[2]
    least, greatest = 0 if name in _MAY_BE_ZERO else 1, _GREATEST.get(name, 1_000_000)
    if kind is int and not least <= value <= greatest:
        raise UserError(f"{found}, expected {least} to {greatest:,}")
    return value
