"""What `test_placement` checks on two devices of which the second is the default: prints a JSON object.

python -m tests.weights.placement FOLDER
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np

from experiments.shared import loading, ones
from mirage_jax import weights, world
from mirage_jax.models import config as model_config
from mirage_jax.models import vae
from mirage_jax.world import conditioning
from tests.weights.tiny_wan import tiny_wan

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world


def where(tree):
    """Devices of all arrays, and whether any is committed."""
    leaves = jax.tree.leaves(tree)
    return [sorted({str(d) for x in leaves for d in x.devices()}), any(x.committed for x in leaves)]


def wan():
    """One whose side branch is given the code of ones, without the parts a world does not run."""
    tiny = tiny_wan()
    return dataclasses.replace(tiny, text=None, depth=None, lora=model_config.LoRAConfig(2, 2.0))


def main(folder):
    host, accelerator = jax.devices()
    jax.config.update("jax_default_device", accelerator)
    model = tiny_world.model()
    found = {"names": [str(host), str(accelerator)]}
    for name in ("m", "m.safetensors"):
        weights.save(folder / name, model, jax.tree.map(np.asarray, tiny_world.parameters(model)))
        params = weights.load(folder / name)[1]
        with weights.on_host():
            kept = weights.load(folder / name, ("vae",))[1]
        frames = np.zeros((5, model.height, model.width, 3), np.float32)
        code = jax.jit(vae.encode, static_argnums=0)(model.vae, params["vae"], frames)
        found[name] = {"loaded": where(params), "host": where(kept), "computed": where(code)}
        found[name]["asked"] = where(weights.load(folder / name, ("vae",), shardings=lambda t: _all_on(host, t))[1])

    model = wan()
    weights.save(folder / "wan", model, jax.tree.map(np.asarray, tiny_world.random_parameters(model)))
    config = world.WorldConfig(model, memory="latent", capacity=4096, depth_source="given")
    calls = []
    compute = conditioning.ones_code
    conditioning.ones_code = lambda *a, **k: calls.append(1) or compute(*a, **k)
    for name in ("first", "second"):
        params = loading.prepared(config, folder / "wan", None, None)
        found[name] = {"prepared": where(params), "calls": len(calls), "sum": float(np.asarray(params["ones"]).sum())}
        calls.clear()
    shape = params["ones"].shape
    file = folder / "wan" / "ones.safetensors"
    found["kept"] = [ones.load(folder / "wan", shape) is not None, ones.load(folder / "wan", (1, *shape)) is not None]
    data = bytearray(file.read_bytes())
    data[-3] ^= 4
    file.write_bytes(data)
    found["kept"].append(ones.load(folder / "wan", shape) is not None)
    assert ones.save(folder / "wan", np.asarray(params["ones"]))
    other = jax.tree.map(lambda x: np.asarray(x) + 1, tiny_world.random_parameters(model))
    weights.save(folder / "other", model, other)
    file.rename(folder / "other" / "ones.safetensors")
    found["kept"].append(ones.load(folder / "other", shape) is not None)
    print("RESULT " + json.dumps(found))


def _all_on(device, tree):
    return jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(device), tree)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
