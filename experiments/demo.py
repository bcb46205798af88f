"""The main job on a real frame, with the shipped model: `make demo`.

Takes the first frame of a held-out clip, in which the camera looks away from a monster and back while it walks, goes
the same way with latent, RGB and no memory, and compares what comes out with what was really there. Everything is
written to `out/demo/`.
"""

from __future__ import annotations

import operator
import pathlib
import time

import jax
import numpy as np
from absl import flags

from experiments.shared import cli, drawings, outputs
from mirage_jax import io, viz, weights, world
from mirage_jax.data import clip as clips
from mirage_jax.evaluation import returns
from mirage_jax.evaluation.truth import camera_of
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent
from mirage_jax.world import sound

_OUT = flags.DEFINE_string("out", "out/demo", "Folder for the results.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model folder; default: the model that ships with the project.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides everything random.", lower_bound=0, upper_bound=cli.LARGEST_SEED)

FIRST_LOOK = 35.0
"""Degrees up to which a camera that turns away still shows most of what it saw first."""

BACK = 0.25
"""Share of a frame that was out of sight for a segment, from which on it counts as one that comes back."""

NAMES = {"truth": "ground truth", "latent": "latent memory", "rgb": "RGB memory", "none": "no memory"}


def main(_) -> None:
    """Runs the demo."""
    started = time.time()
    out = cli.prepare_output(_OUT.value)
    cli.keep_compiled_programs()
    folder = _CHECKPOINT.value or weights.DEFAULT
    parts = [part for part in weights.parts_of(folder) if part != "text"]
    model, params = weights.load(folder, parts)
    params = jax.device_put(params, jax.devices()[0])
    # The longest segments: what comes back then was out of sight for long.
    model = model.with_segments_of(max(model.segment.latents, *model.segment.lengths))
    clip = clips.load(clips.DEMO)
    cameras = camera_of(clip)
    frames = len(clip) - 1
    path = jax.tree.map(lambda x: x[1:].reshape(-1, model.segment_frames, *x.shape[1:]), cameras)
    seconds = {"load": time.time() - started}

    videos = {"truth": clip.frames}
    for memory in ("latent", "rgb", "none"):
        print(f"{NAMES[memory]}: {frames} frames in {len(path)} segments", flush=True)
        before = time.time()
        capacity = world.full_capacity(model, memory, len(path))
        config = world.WorldConfig(model=model, memory=memory, capacity=capacity)
        state = world.init(config, params, clip.frames[0], None, cameras[0], jax.random.key(_SEED.value))
        state, output = jax.block_until_ready(world.rollout(config, params, state, path))
        sound.check_output(output, NAMES[memory])
        made = np.asarray(output.frames).reshape(-1, *clip.frames.shape[1:])
        videos[memory] = np.concatenate([clip.frames[:1], made])
        seconds[memory] = time.time() - before
        if memory == "latent":
            kept = config, state, jax.device_get(output)

    before = time.time()
    made = {name: video[1:] for name, video in videos.items() if name != "truth"}
    cells, new = (of(clip, model, since=1) for of in (returns.returned, returns.first_seen))
    scores = returns.score(clip, made, cells, new, least=BACK)
    shown = {NAMES[name]: video for name, video in videos.items()}
    viz.write_video(out / "video.mp4", videos["latent"], fps=model.fps)
    viz.contact_sheet(out / "contact_sheet.png", videos["latent"])
    viz.write_video(out / "comparison.mp4", viz.side_by_side(shown), fps=model.fps)
    _comparison(out / "comparison.png", shown, cameras)
    curves = {NAMES[name]: np.array(row["psnr_by_frame"]) for name, row in scores.items()}
    drawings.plot_curves(out / "revisit.png", curves, ylabel="PSNR against the truth (dB)", title=clip.source)
    drawings.plot_path(out / "path.png", cameras, title=clip.source)
    config, state, output = kept
    seconds["report"] = time.time() - before
    report = {
        "config": {"clip": clip.source, "seed": _SEED.value, "model": model.name, "model_digest": model.digest()},
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "segments": [outputs.diagnostics(jax.tree.map(operator.itemgetter(s), output)) for s in range(len(path))],
        "metrics": scores,
    }
    outputs.write_results(out, config, cameras, state, report)
    io.write_text(out / "report.md", _page(clip.source, scores, seconds, latent.nbytes(state.memory)["held"]))
    print(f"wrote {out}/comparison.mp4, {out}/report.md")


def _comparison(path: pathlib.Path, videos: dict[str, np.ndarray], cameras: Camera) -> None:
    """Frames of all videos under their number and what the camera does there: looks first, away, or is back."""
    ahead = np.asarray(cameras.cam2world)[:, :3, 2]
    turned = np.degrees(np.arccos(np.clip(ahead @ ahead[0], -1, 1)))
    near = np.where(np.arange(len(turned)) < turned.argmax(), "first look", "back")
    numbers = viz.evenly(len(ahead), 8)
    titles = [f"{number}: {near[number] if turned[number] < FIRST_LOOK else 'away'}" for number in numbers]
    viz.contact_sheet(path, {name: video[numbers] for name, video in videos.items()}, numbers=titles)


def _page(source: str, scores: dict, seconds: dict[str, float], held: int) -> str:
    """The report for a person."""
    columns = ("psnr", "ssim", "lpips", "psnr_revisit", "ssim_revisit", "lpips_revisit")
    rows = [f"| memory | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, row in scores.items():
        values = ["-" if row[c] is None else f"{row[c]:.3f}" for c in columns]
        rows.append(f"| {NAMES[name]} | {' | '.join(values)} |")
    times = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return "\n".join(
        [
            "# One picture, one camera path",
            "",
            f"The model was given the first frame of `{source}` (a map that no training saw) and the camera path, and "
            "made all other frames. Ground truth is used for this comparison only.",
            "",
            "![frames](comparison.png)",
            "",
            "- **First look**: the given frame, and what the camera sees as it begins to turn.",
            "- **Away**: places that the given frame does not show. Nobody can know them; every row makes them up.",
            "- **Back**: the first place again. A model that remembers shows the same wall; one that does not makes up "
            "another. The monster walked on while nobody looked: the latent memory holds what moves apart from what "
            "stands, and puts it where it should be by then. With this model it comes back as a dark shape.",
            "",
            "The rows below the truth have the same generator, which was trained with the latent memory. With the "
            "RGB memory it reads pictures of coloured points, encoded again, in place of the latents; without memory "
            "it reads an empty one. `_revisit` is over the frames that show again, in a quarter or more, what was out "
            "of sight for a segment.",
            "",
            *rows,
            "",
            "![PSNR by frame](revisit.png)",
            "![camera path](path.png)",
            "",
            f"The latent memory holds {held / 1024:.0f} KiB at the end. Time, with compilation: {times}. One clip and "
            "one seed: an example, not a measurement.",
            "",
        ]
    )


if __name__ == "__main__":
    cli.run(main)
