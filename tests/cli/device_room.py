"""What `test_device_room` checks, with `generate` on devices that say how much memory they have: prints a JSON object.

python tests/cli/device_room.py FOLDER, whose `model` and `room.png` it runs on one device and on a mesh of four.
"""

import importlib
import json
import pathlib
import sys
from unittest import mock

import run_command

from mirage_jax import weights
from mirage_jax.world import device_memory

LARGE, SMALL = 10**12, 10**3


def main(folder):
    program, measured = run_command.load("generate"), {}
    importlib.import_module("array_record.python.array_record_data_source")
    of_segment = device_memory.of_segment

    def call(name, frames, room, *more):
        """What the shell sees of a run, the programs of a world that it compiled, and how often weights were read."""
        path = ["--trajectory=yaw 10", f"--image={folder}/room.png", f"--checkpoint={folder}/model"]
        read = mock.patch.object(weights, "load", wraps=weights.load)
        told = mock.patch.object(device_memory, "limit", lambda devices: room)

        def noted(config, params, state, *given):
            # A CPU's programs are no guide to what is smaller elsewhere: there, only what lies in memory counts.
            exact = name in ("whole", "mesh", "exact")
            size = of_segment(config, params, state, *given) if exact else device_memory.held((params, state))
            measured.setdefault(name, []).append(size)
            return size

        with read as loads, told, mock.patch.object(device_memory, "of_segment", noted):
            out = f"--out={folder}/{name}"
            code, _, err, compiled = run_command.call(program, [*path, out, f"--frames={frames}", *more])
        worlds = [found for found in compiled if found in ("_observe", "_segment")]
        return {"code": code, "err": err, "compiled": worlds, "loads": loads.call_count}

    found = {
        "whole": call("whole", 13, LARGE, "--weights=float32"),
        "mesh": call("mesh", 13, LARGE, "--weights=float32", "--mesh=fsdp=2,tensor=2"),
    }
    found["exact"] = call("exact", 13, measured["whole"][0], "--weights=float32")
    found["lying"] = call("lying", 13, LARGE, "--weights=float32", "--steps=1")
    for name, room in (("short", measured["lying"][0] - 1), ("none", SMALL)):
        found[name] = call(name, 13, room, "--weights=float32")
    for name, before in (("shorter", "short"), ("shortest", "shorter")):
        found[name] = call(name, 13, measured[before][-1] - 1, "--weights=float32")
    print(json.dumps(found | {"measured": measured}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
