"""Converts public checkpoints to a model folder, a part a call, and parts of a model folder back to public files.

    python -m experiments.convert_weights --source Wan2.2-TI2V-5B --layout wan_original --out models/wan22
    python -m experiments.convert_weights --source Wan2.2_VAE.pth --layout vae_original --out models/wan22
    python -m experiments.convert_weights --source Wan2.2-TI2V-5B --layout wan_original --out models/wan22 --verify
    python -m experiments.convert_weights --source models/wan22 --layout lora_release --out lora.safetensors --reverse

A conversion that was stopped goes on when the same command is given again. Torch files (.pth) need the extra `convert`.
"""

from __future__ import annotations

import math

from absl import flags

from experiments.conversion import convert, export
from experiments.shared import cli
from mirage_jax.errors import UserError
from mirage_jax.models import depth_anything
from mirage_jax.models.config import PRESETS
from mirage_jax.weights import model_files
from mirage_jax.weights.formats import FORMATS

_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "Checkpoint: a .safetensors, .pth or .gguf file, an index of shards, or their folder.",
    required=True,
)
_LAYOUT = flags.DEFINE_enum("layout", None, tuple(FORMATS), "How the checkpoint names its tensors.", required=True)
_OUT = flags.DEFINE_string("out", None, "Model folder to add the part to; with --reverse the file.", required=True)
_MODEL = flags.DEFINE_enum("model", None, tuple(PRESETS), "Default: that of --out, or wan22_ti2v_5b for a new folder.")
_DTYPE = flags.DEFINE_enum("dtype", None, tuple(convert.DTYPES), "To store in; default: as in the checkpoint.")
_ALPHA = flags.DEFINE_float("alpha", None, "Of a LoRA whose file does not tell it; default: its rank.")
_MASK = flags.DEFINE_enum(
    "mask",
    None,
    ("hole", "visible"),
    "What a side branch's last control channel is 1 for, where it is a mask; default: hole, as in the PyTorch release.",
)
_DEPTH = flags.DEFINE_enum("depth", None, tuple(depth_anything.PRESETS), "Which depth network --source is.")
_VERIFY = flags.DEFINE_bool("verify", False, "Compare --out with --source, and its outputs with those at conversion.")
_REVERSE = flags.DEFINE_bool("reverse", False, "Write the part of the model folder --source as the file --out.")


def main(_) -> None:
    """Converts, verifies or writes back."""
    form = FORMATS[_LAYOUT.value]
    if _ALPHA.value is not None and not 0 < _ALPHA.value < math.inf:  # NaN is not
        raise UserError(f"--alpha {_ALPHA.value:g}: expected a number above 0")
    if _ALPHA.value is not None and form.part != "lora":
        raise UserError(f"--alpha: is of a LoRA, --layout {_LAYOUT.value} has none")
    if _MASK.value and (form.part != "side" or _REVERSE.value or _VERIFY.value):
        raise UserError("--mask: goes with the conversion of a side branch alone")
    if _DEPTH.value and (form.part != "depth" or _REVERSE.value or _VERIFY.value):
        raise UserError("--depth: goes with the conversion of a depth network alone")
    if _REVERSE.value:
        if _VERIFY.value or _DTYPE.value or _MODEL.value or _ALPHA.value is not None:
            raise UserError("--reverse: goes with --source, --layout and --out alone")
        count = export.export(_SOURCE.value, _LAYOUT.value, _OUT.value)
        print(f"wrote {_OUT.value}: {count} tensors")
        if form.part == "side" and "visible" in model_files.read_config(_SOURCE.value).segment.control:
            print("note: its mask is 1 where the memory shows something, that of the PyTorch release where it does not")
    elif _VERIFY.value:
        if _DTYPE.value or _MODEL.value or _ALPHA.value is not None:
            raise UserError("--verify: goes with --source, --layout and --out alone")
        found = convert.verify(_SOURCE.value, _LAYOUT.value, _OUT.value)
        print(
            f"{_OUT.value}: {form.part} is that of {_SOURCE.value}: {found['tensors']} tensors, "
            f"{found['parameters']:,} parameters, {', '.join(found['dtypes'])}"
        )
    else:
        record = convert.convert(
            _SOURCE.value,
            _LAYOUT.value,
            _OUT.value,
            _MODEL.value,
            dtype=_DTYPE.value,
            alpha=_ALPHA.value,
            depth=_DEPTH.value,
            mask=_MASK.value,
        )
        if record["note"]:
            print(f"note: {record['note']}")
        left = f"; {record['left_alone']} tensors of other parts were left alone" if record["left_alone"] else ""
        print(f"wrote {_OUT.value}: {form.part}, {record['tensors']} tensors, {', '.join(record['dtypes'])}{left}")


if __name__ == "__main__":
    cli.run(main)
