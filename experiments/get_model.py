"""Gets a whole model: fetched from the Hugging Face Hub, or in a folder or file; converts what is there, and verifies.

    python -m experiments.get_model Wan-AI/Wan2.2-TI2V-5B --out models/wan22
    python -m experiments.get_model OWNER/REPOSITORY/wan2.2_ti2v_5B_Q8_0.gguf --out models/wan22
    python -m experiments.get_model depth-anything/Depth-Anything-V2-Small-hf --out models/wan22     # one part more
    python -m experiments.get_model downloads/lora.safetensors --out models/wan22

Layouts are told by the names of the tensors, sizes by their shapes. What was stopped goes on when the same command is
given again. Torch files (.pth) and GGUF need the extra `convert`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from experiments.conversion import convert, gather
from experiments.shared import cli
from mirage_jax import weights
from mirage_jax.models import depth_anything
from mirage_jax.models.config import PRESETS

_OUT = flags.DEFINE_string("out", None, "Model folder to make, or to add parts to.", required=True)
_MODEL = flags.DEFINE_enum("model", None, tuple(PRESETS), "Family; default: of --out, or wan22_ti2v_5b.")
_DTYPE = flags.DEFINE_enum("dtype", None, tuple(convert.DTYPES), "To store in; default: as in the checkpoint.")
_ALPHA = flags.DEFINE_float("alpha", None, "Of a LoRA whose file does not tell it; default: its rank.")
_DEPTH = flags.DEFINE_enum(
    "depth", None, tuple(depth_anything.PRESETS), "Which depth network it is; default: told by names."
)
_MASK = flags.DEFINE_enum(
    "mask", None, ("hole", "visible"), "As in convert_weights; default: hole, as in the PyTorch release."
)


def main(argv: Sequence[str]) -> None:
    """Gets a model."""
    out = pathlib.Path(_OUT.value)
    options = {"dtype": _DTYPE.value, "alpha": _ALPHA.value, "depth": _DEPTH.value, "mask": _MASK.value}
    found = gather.get(argv[1], out, _MODEL.value, **options)
    missing = [part for part in ("vae", "dit") if part not in weights.parts_of(out)]
    print(f"wrote {out}: {', '.join(found)}" + (f"; still without {' and '.join(missing)}" if missing else ""))


if __name__ == "__main__":
    cli.run(main, words="NAME_OR_FOLDER")
