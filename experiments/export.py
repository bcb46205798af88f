"""Writes a trained model for shipping: half-precision weights, as a model folder or as one file.

python -m experiments.export --model runs/memory/model --out mirage_jax/assets/default
python -m experiments.export --model runs/memory/model --out model.safetensors

The side branch of an RGB memory lies inside the model whose backbone it belongs to:

python -m experiments.export --model runs/memory_rgb/model --parts side,lora --out mirage_jax/assets/default/rgb
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from absl import flags

from experiments.shared import cli
from mirage_jax import weights
from mirage_jax.errors import UserError

_MODEL = flags.DEFINE_string("model", None, "Model folder that training wrote.", required=True)
_PARTS = flags.DEFINE_list("parts", None, "Parts to write, such as side,lora; default: all that are there.")
_OUT = flags.DEFINE_string("out", None, "Model folder, or file NAME.safetensors, to write.", required=True)


def main(_) -> None:
    """Exports."""
    there = weights.parts_of(_MODEL.value)
    parts = _PARTS.value or there
    if missing := sorted(set(parts) - set(there)):
        raise UserError(f"--parts: {_MODEL.value} has no {', '.join(missing)}, only {', '.join(there)}")
    config, params = weights.load(_MODEL.value, parts)
    # float16 keeps three decimals where bfloat16 keeps two; nothing here comes near its range.
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(params))
    assert largest < 1e4, f"weights up to {largest} do not fit float16"
    weights.save(_OUT.value, config, params, dtype=jnp.float16)
    counts = {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in params.items()}
    print(f"wrote {_OUT.value}: " + ", ".join(f"{part} {count:,}" for part, count in counts.items()))


if __name__ == "__main__":
    cli.run(main)
