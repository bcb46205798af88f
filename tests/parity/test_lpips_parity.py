"""LPIPS with VGG16, with few channels and random weights, against the same network written in PyTorch."""

import numpy as np
import torch
from record import record, relative_error
from torch.nn import functional

from mirage_jax.models import lpips

WIDTHS = (4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8)
"""As torchvision's VGG16 has them, narrower; after the last of each group features are compared."""


def test_vgg_distance():
    rng = np.random.default_rng(0)
    layers, channels = [], 3
    for width in (width for width in WIDTHS if width != "M"):
        layers.append((rng.normal(size=(width, channels, 3, 3)) * 0.3, rng.normal(size=width) * 0.1))
        channels = width
    heads = [np.abs(rng.normal(size=width)) for width in (4, 6, 8, 8, 8)]
    a, b = (rng.integers(0, 256, (2, 48, 32, 3)).astype(np.float32) for _ in range(2))

    def features(frames):
        shift, scale = (np.array(x) for x in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
        x = torch.tensor((frames / 127.5 - 1 - shift) / scale).permute(0, 3, 1, 2)
        found, number = [], 0
        for index, width in enumerate(WIDTHS):
            if width == "M":
                x = functional.max_pool2d(x, 2)
                continue
            kernel, bias = layers[number]
            number += 1
            x = functional.relu(functional.conv2d(x, torch.tensor(kernel), torch.tensor(bias), padding=1))
            if index + 1 == len(WIDTHS) or WIDTHS[index + 1] == "M":
                found.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    pairs = zip(features(a), features(b), heads, strict=True)
    weighted = [((x - y) ** 2 * torch.tensor(head)[None, :, None, None]).sum(1).mean((1, 2)) for x, y, head in pairs]
    ours = {}
    for name, (kernel, bias) in zip(lpips.VGG, layers, strict=True):
        ours |= {f"{name}.kernel": np.float32(kernel.transpose(2, 3, 1, 0)), f"{name}.bias": np.float32(bias)}
    last = [name for name in lpips.VGG if name in ("conv1_2", "conv2_2") or name.endswith("_3")]
    ours |= {f"{name}.head": np.float32(head) for name, head in zip(last, heads, strict=True)}
    error = relative_error(lpips.distance(ours, a, b), sum(weighted).numpy())
    record("LPIPS, VGG16 backbone: distance of two pictures", "torch", error)
