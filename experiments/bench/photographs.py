"""Benchmark suite `photographs`: does a view come back, in pictures that the model was not made for?

Ten photographs of the package scikit-image, three paths each that lead back to the start. Every method is given the
photograph and makes the rest; there is no truth, so a video is compared with itself: the last frame with the given one,
and every frame of the way back with that of the way there. A video that never changes would score best: `sheet.jpg`
shows what there is to see on the way. An anecdote: ten pictures, of things as often as of places.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import PIL.Image
import skimage
import tqdm

from experiments.bench import records, timing
from experiments.evaluation import video
from experiments.evaluation.methods import Models, generate
from experiments.evaluation.statistics import bootstrap_mean
from experiments.shared import inputs
from mirage_jax import weights
from mirage_jax.data.clip import PosedClip
from mirage_jax.geometry import trajectory

OPTIONS = ("out", "checkpoint")
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
PATHS = ("yaw 70; back", "right 1; back", "forward 1.5; back")
METHODS = ("latent", "rgb", "none")
FRAMES = 33
FIGURES = {"psnr_c": 2, "lpips_c": 3, "psnr_there_and_back": 2, "lpips_there_and_back": 3}


def measure(out: pathlib.Path, checkpoint: str | None) -> dict[str, Any]:
    """The figures of every photograph, path and method; writes `sheet.jpg`. The record that `markdown` prints."""
    model, params = weights.load(
        checkpoint, [p for p in weights.parts_of(checkpoint or weights.DEFAULT) if p != "text"]
    )
    models = Models(model, jax.device_put(params, jax.devices()[0]))
    folder = pathlib.Path(skimage.__file__).parent / "data"
    rows, shown = [], []
    for name in tqdm.tqdm(PHOTOGRAPHS, unit="photograph", dynamic_ncols=True):
        view = inputs.load_view(str(folder / name), model.height, model.width)
        for spec in PATHS:
            clip = _clip(view, spec)
            made = generate(models, clip, observed=1, methods=METHODS, true_depth=False, seed=0)
            for method, frames in made.items():
                whole = np.concatenate([clip.frames[:1], frames])
                scores = video.closed_loop(whole, clip.cam2world)
                assert scores is not None, "every path leads back"
                rows.append(
                    {"photograph": name, "path": spec, "method": method, **{k: scores.values[k] for k in FIGURES}}
                )
                if spec == PATHS[0]:
                    shown.append((name, method, whole[[0, FRAMES // 4, FRAMES // 2, FRAMES - 1]]))
    _sheet(out / "sheet.jpg", shown)
    return {"model": model.name, "device": timing.device(), "rows": rows}


def markdown(record: dict[str, Any]) -> str:
    """Means over photographs (of a photograph's paths first), with 95 % intervals, and paired differences."""
    rows = record["rows"]
    lines = [
        f"{len(PHOTOGRAPHS)} photographs, {len(PATHS)} paths ({', '.join(PATHS)}), {FRAMES} frames, one seed; model "
        f"{record['model']}; {record['device']}. `_c`: the last frame against the given one; `_there_and_back`: every "
        "frame against its return.",
        "",
    ]
    table = []
    for name, method in [(m, m) for m in METHODS] + [(f"latent minus {m}", m) for m in METHODS[1:]]:
        cells = [name]
        for figure, digits in FIGURES.items():
            values = _by_photograph(rows, method, figure)
            found = bootstrap_mean(values if name == method else _by_photograph(rows, "latent", figure) - values)
            cells.append(f"{found.mean:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]")
        table.append(cells)
    return "\n".join([*lines, *records.table(("", *FIGURES), table), ""])


def _clip(view: inputs.View, spec: str) -> PosedClip:
    """A clip of which the first frame and the cameras are known."""
    cameras = trajectory.parse(spec, start=view.camera, frames=FRAMES)
    picture = np.asarray(view.image)
    return PosedClip(
        frames=np.broadcast_to(picture, (FRAMES, *picture.shape)),
        depth=np.zeros((FRAMES, *picture.shape[:2]), np.float32),
        intrinsics=np.asarray(cameras.intrinsics),
        cam2world=np.asarray(cameras.cam2world),
        dynamic=np.zeros((FRAMES, *picture.shape[:2]), bool),
        caption="",
        source=spec,
    )


def _by_photograph(rows: list[dict[str, Any]], method: str, figure: str) -> np.ndarray:
    of = [[r[figure] for r in rows if (r["photograph"], r["method"]) == (name, method)] for name in PHOTOGRAPHS]
    return np.array(of)


def _sheet(path: pathlib.Path, shown: list[tuple[str, str, np.ndarray]]) -> None:
    """The given picture, the way there, the far end and the return: one row a photograph, the methods side by side."""
    lines = []
    for name in PHOTOGRAPHS:
        lines.append(np.concatenate([np.concatenate(list(f), axis=1) for n, _, f in shown if n == name], axis=1))
    PIL.Image.fromarray(np.concatenate(lines)).save(path, quality=85)
