"""Writes a trained model for shipping: half-precision weights, as a model folder or as one file.

python -m experiments.export --model runs/memory/model --out mirage_jax/assets/default
python -m experiments.export --model runs/memory/model --out model.safetensors

The side branch of an RGB memory lies inside the model whose backbone it belongs to:

python -m experiments.export --model runs/memory_rgb/model --parts side,lora --out mirage_jax/assets/default/rgb
"""

from __future__ import annotations

from absl import flags

from experiments.recipes import shipping
from experiments.shared import cli

_MODEL = flags.DEFINE_string("model", None, "Model folder that training wrote.", required=True)
_PARTS = flags.DEFINE_list("parts", None, "Parts to write, such as side,lora; default: all that are there.")
_OUT = flags.DEFINE_string("out", None, "Model folder, or file NAME.safetensors, to write.", required=True)


def main(_) -> None:
    """Exports."""
    counts = shipping.export(_MODEL.value, _OUT.value, _PARTS.value)
    print(f"wrote {_OUT.value}: " + ", ".join(f"{part} {count:,}" for part, count in counts.items()))


if __name__ == "__main__":
    cli.run(main)
