"""Pairs of frames on which the public LPIPS was run: made from formulas and a generator that numpy never changes."""

import numpy as np


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name to a pair of uint8 frames `[H, W, 3]`."""
    random = np.random.RandomState(7)
    waves = _waves(128, 128)
    noise = random.randint(-12, 13, waves.shape)
    small = _waves(45, 77)
    return {
        "noise": (waves, np.clip(waves + noise, 0, 255).astype(np.uint8)),
        "shifted": (waves, np.roll(waves, 5, axis=1)),
        "blurred": (waves, _blur(waves, 9)),
        "odd_size": (small, small[::-1]),
        "random": tuple(random.randint(0, 256, (2, 64, 64, 3)).astype(np.uint8)),
        "black_white": (np.zeros((31, 31, 3), np.uint8), np.full((31, 31, 3), 255, np.uint8)),
    }


def _waves(height: int, width: int) -> np.ndarray:
    v, u = np.mgrid[:height, :width]
    tiles = ((u // 8 + v // 8) % 2) * 60.0
    channels = [90 + tiles + 60 * np.sin(u / (5 + i) + i) * np.cos(v / (7 - i)) for i in range(3)]
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def _blur(frame: np.ndarray, size: int) -> np.ndarray:
    padded = np.pad(frame.astype(float), ((size // 2, size // 2), (size // 2, size // 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    return windows.mean(axis=(-1, -2)).astype(np.uint8)
