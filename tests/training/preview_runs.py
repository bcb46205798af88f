"""One of two processes of a small run with previews; a program that `test_previews` starts.

python preview_runs.py FOLDER COORDINATOR PROCESS, which prints what every preview of this process was given.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
import test_loop
from jax.experimental import multihost_utils

from mirage_jax.training import loop


def main(folder, coordinator, process):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, process_id=int(process), num_processes=2)
    multihost_utils.sync_global_devices("start")
    seen = []

    @jax.jit
    def drawn(w):
        return (40 * w).clip(0, 255).astype(np.uint8)

    def preview(average, frozen, batch):
        saved = [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]
        found = {"saved": max(saved), "mesh": not jax.sharding.get_abstract_mesh().empty, "batch": len(batch["x"])}
        seen.append(found | {"w": np.asarray(average["w"]).tolist()})
        if len(seen) == 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: no room for pictures")
        return {"picture": np.broadcast_to(drawn(average["w"]), (4, 4, 3))}

    stage = dataclasses.replace(test_loop._stage(), preview=preview)
    config = test_loop._config(preview_every=4, batch_size=4)
    config.mesh = {"data": 2}
    loop.train(stage, config, folder)
    print("RESULT " + json.dumps(seen), flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
