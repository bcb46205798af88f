"""What `test_device_room` checks, on devices that say how much memory they have: prints a JSON object.

python tests/cli/device_room.py generate FOLDER, whose `model` and `room.png` it runs on one device and on a mesh of
four; or worldscore FOLDER, whose `model` it runs on a small data set that it writes.
"""

import importlib
import json
import pathlib
import sys
from unittest import mock

import run_command

from experiments.worldscore import samples
from mirage_jax import weights
from mirage_jax.world import device_memory

LARGE, SMALL = 10**12, 10**3


def main(command, folder):
    program, measured = run_command.load(command), {}
    importlib.import_module("array_record.python.array_record_data_source")
    of_segment = device_memory.of_segment

    def call(name, room, *flags):
        """What the shell sees of a run, the programs of a world that it compiled, and how often weights were read."""
        read = mock.patch.object(weights, "load", wraps=weights.load)
        told = mock.patch.object(device_memory, "limit", lambda devices: room)

        def noted(config, params, state, *given, **how):
            # A CPU's programs are no guide to what is smaller elsewhere: there, only what lies in memory counts.
            exact = name in ("whole", "mesh", "exact")
            size = of_segment(config, params, state, *given, **how) if exact else device_memory.held((params, state))
            measured.setdefault(name, []).append(size)
            return size

        with read as loads, told, mock.patch.object(device_memory, "of_segment", noted):
            common = [f"--checkpoint={folder}/model", f"--out={folder}/{command}/{name}", "--weights=float32"]
            code, _, err, compiled = run_command.call(program, [*common, *flags])
        worlds = [found for found in compiled if found in ("_observe", "_segment")]
        return {"code": code, "err": err, "compiled": worlds, "loads": loads.call_count}

    found = {"generate": generated, "worldscore": scored}[command](folder, call, measured)
    print(json.dumps(found | {"measured": measured}))


def generated(folder, call, measured):
    flags = ["--trajectory=yaw 10", f"--image={folder}/room.png", "--frames=13"]
    found = {
        "whole": call("whole", LARGE, *flags),
        "mesh": call("mesh", LARGE, *flags, "--mesh=fsdp=2,tensor=2"),
    }
    found["exact"] = call("exact", measured["whole"][0], *flags)
    found["lying"] = call("lying", LARGE, *flags, "--steps=1")
    for name, room in (("short", measured["lying"][0] - 1), ("none", SMALL)):
        found[name] = call(name, room, *flags)
    for name, before in (("shorter", "short"), ("shortest", "shorter")):
        found[name] = call(name, measured[before][-1] - 1, *flags)
    return found


def scored(folder, call, _):
    samples.write_sample_dataset(folder / "data")
    flags = [f"--dataset={folder}/data", "--frames=5"]
    return {"whole": call("whole", LARGE, *flags), "none": call("none", SMALL, *flags)}


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
