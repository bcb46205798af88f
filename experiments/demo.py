"""The main job on a real frame, with the shipped model: `make demo`.

Takes the first frame of a held-out clip, walks its camera path with latent, RGB and no memory, and compares what comes
out with what was really there. Everything is written to `out/demo/`.
"""

from __future__ import annotations

import operator
import time

import jax
import numpy as np
from absl import flags

from experiments.shared import cli, outputs
from mirage_jax import io, viz, weights, world
from mirage_jax.data import clip as clips
from mirage_jax.evaluation.methods import camera_of
from mirage_jax.evaluation.protocols import returns
from mirage_jax.memory import latent
from mirage_jax.world import sound

_OUT = flags.DEFINE_string("out", "out/demo", "Folder for the results.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model folder; default: the model that ships with the project.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides everything random.", lower_bound=0, upper_bound=cli.LARGEST_SEED)

NAMES = {"truth": "ground truth", "latent": "latent memory", "rgb": "RGB memory", "none": "no memory"}


def main(_) -> None:
    """Runs the demo."""
    started = time.time()
    out = cli.prepare_output(_OUT.value)
    cli.keep_compiled_programs()
    folder = _CHECKPOINT.value or weights.DEFAULT
    parts = [part for part in weights.parts_of(folder) if part != "text"]
    model, params = weights.load(folder, parts)
    sides = [part for part in parts if part in ("side", "lora")]
    rgb_model, rgb_sides = weights.load(folder, sides, memory="rgb")
    params, rgb_sides = jax.device_put((params, rgb_sides), jax.devices()[0])
    clip = clips.load(clips.DEMO)
    cameras = camera_of(clip)
    frames = len(clip) - 1
    path = jax.tree.map(lambda x: x[1:].reshape(-1, model.segment_frames, *x.shape[1:]), cameras)
    seconds = {"load": time.time() - started}

    videos = {"truth": clip.frames}
    for memory in ("latent", "rgb", "none"):
        print(f"{NAMES[memory]}: {frames} frames in {len(path)} segments", flush=True)
        before = time.time()
        mine, held = (rgb_model, params | rgb_sides) if memory == "rgb" else (model, params)
        capacity = world.full_capacity(mine, memory, len(path))
        config = world.WorldConfig(model=mine, memory=memory, capacity=capacity)
        state = world.init(config, held, clip.frames[0], None, cameras[0], jax.random.key(_SEED.value))
        state, output = jax.block_until_ready(world.rollout(config, held, state, path))
        sound.check_output(output, NAMES[memory])
        made = np.asarray(output.frames).reshape(-1, *clip.frames.shape[1:])
        videos[memory] = np.concatenate([clip.frames[:1], made])
        seconds[memory] = time.time() - before
        if memory == "latent":
            kept = config, state, jax.device_get(output)

    before = time.time()
    made = {name: video[1:] for name, video in videos.items() if name != "truth"}
    cells, new = (of(clip, model, since=1) for of in (returns.returned, returns.first_seen))
    scores = returns.score(clip, made, cells, new)
    shown = {NAMES[name]: video for name, video in videos.items()}
    viz.write_video(out / "video.mp4", videos["latent"], fps=model.fps)
    viz.contact_sheet(out / "contact_sheet.png", videos["latent"])
    viz.write_video(out / "comparison.mp4", viz.side_by_side(shown), fps=model.fps)
    viz.contact_sheet(out / "comparison.png", shown)
    curves = {NAMES[name]: np.array(row["psnr_by_frame"]) for name, row in scores.items()}
    viz.plot_curves(out / "revisit.png", curves, ylabel="PSNR against the truth (dB)", title=clip.source)
    viz.plot_path(out / "path.png", cameras, title=clip.source)
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
            f"The first frame of `{source}` (a map that no training saw) and its camera path; ground truth is used for "
            "this comparison only. `_revisit`: over the frames that show mostly what was out of sight for a segment.",
            "",
            *rows,
            "",
            "![frames](comparison.png)",
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
