"""Writes lpips_expected.json: distances by the public PyTorch LPIPS, in an environment that has it.

    pip install lpips==0.1.4 torch torchvision
    python tests/evaluation/make_lpips_expected.py

The package loads torchvision's AlexNet in float32; ours has the same convolutions in float16.
"""

import json
import pathlib

import lpips
import lpips_cases
import torch


def main():
    """Runs every case through `lpips.LPIPS(net="alex")`."""
    network = lpips.LPIPS(net="alex", version="0.1", verbose=False)
    expected = {}
    for name, pair in lpips_cases.cases().items():
        a, b = (torch.tensor(frame.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for frame in pair)
        with torch.no_grad():
            expected[name] = float(network(a, b))
    path = pathlib.Path(__file__).parent / "lpips_expected.json"
    path.write_text(json.dumps(expected, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
