"""Writes a trained model for shipping: half-precision weights, as one file or as a model folder.

python -m experiments.export --model runs/generator/model --out model.safetensors
"""

from __future__ import annotations

from absl import flags

from experiments.recipes import shipping
from experiments.shared import cli

_MODEL = flags.DEFINE_string("model", None, "Model folder that training wrote.", required=True)
_OUT = flags.DEFINE_string("out", None, "Model folder, or file NAME.safetensors, to write.", required=True)


def main(_) -> None:
    """Exports."""
    counts = shipping.export(_MODEL.value, _OUT.value)
    print(f"wrote {_OUT.value}: " + ", ".join(f"{part} {count:,}" for part, count in counts.items()))


if __name__ == "__main__":
    cli.run(main)
