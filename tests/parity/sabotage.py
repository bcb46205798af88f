"""Breaks our code in one place at a time and checks that its parity test fails: `python tests/parity/sabotage.py`.

Writes the table "broken on purpose" of `docs/parity.md`. Exits with 1 if a break goes unseen.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import report

from experiments.shared import tokens as text
from mirage_jax.diffusion import flow, samplers
from mirage_jax.models import depth_anything, side_branch, umt5, vae
from mirage_jax.models.nn import attention, layers, rope, vae_layers
from mirage_jax.weights.layouts import vae_layouts, wan_layouts

DIT, SAMPLER, VAE = "test_generator_parity.py", "test_samplers_parity.py", "test_vae_parity.py"
TEXT = "test_text_parity.py"
DEPTH = "test_depth_parity.py::test_map_and_gradient_by_the_picture"


class Break(NamedTuple):
    """One thing to break.

    Attributes:
      part: the module of ours.
      what: is done to it.
      test: that must fail.
      patches: `(object, attribute, function from the original to its replacement)`.
    """

    part: str
    what: str
    test: str
    patches: tuple[tuple[Any, str, Callable[[Any], Any]], ...]


class NoNorm(nn.Module):
    """The weight of a norm without the norm."""

    eps: float = 0.0

    @nn.compact
    def __call__(self, x):
        """`[..., D]` -> `[..., D]`."""
        return x * self.param("weight", nn.initializers.ones, (x.shape[-1],))


def rows_for_columns(original):
    """Rotary tables of the grid with its two sides exchanged."""

    def swapped(reference, target, preceding, rows, columns, head_dim):
        tables = original(reference, target, preceding, columns, rows, head_dim)
        return tuple(jnp.swapaxes(x.reshape(-1, columns, rows, head_dim // 2), 1, 2).reshape(x.shape) for x in tables)

    return swapped


def renamed(first, second):
    """A layout in which two of our names are exchanged."""

    def exchange(layout):
        mapping = {first: second, second: first}
        swap = lambda rule: "/".join(mapping.get(part, part) for part in rule.ours.split("/"))  # noqa: E731
        return tuple(rule._replace(ours=swap(rule)) for rule in layout)

    return exchange


def forgetting(original):
    """A cache that gives back zeros for its older frame."""

    def with_past(module, x, frames):
        out = original(module, x, frames)
        return out.at[0].set(0.0) if frames == 2 and module.has_variable("cache", "past") else out

    return with_past


def first_order(original):
    """The predictor without its second-order term."""
    return lambda sigmas, lambdas, i, order: original(sigmas, lambdas, i, 1)


LAYOUT = f"{DIT}::test_segment_layout_and_validity[valid0]"
PLAIN = f"{DIT}::test_preceding_frames_continue_the_time_axis_with_timestep_zero"
SIDE = f"{DIT}::test_side_branch_of_the_public_model_unchanged[96-640]"
ENCODE, DECODE = f"{VAE}::test_encode[5 frames of 48x32]", f"{VAE}::test_decode[5 frames of 48x32]"

BREAKS = (
    Break("rotary positions", "rows and columns exchanged", PLAIN, ((rope, "segment_rotary", rows_for_columns),)),
    Break(
        "rotary positions",
        "reference frames at times 0, 1, .. with the others",
        LAYOUT,
        ((rope, "segment_times", lambda _: lambda *counts: np.arange(sum(counts))),),
    ),
    Break("DiT", "RMS norm of queries and keys dropped", PLAIN, ((layers, "RMSNorm", lambda _: NoNorm),)),
    Break("DiT", "layer norms dropped", PLAIN, ((layers, "layer_norm", lambda _: lambda x, eps: x),)),
    Break(
        "DiT",
        "shift and scale exchanged",
        PLAIN,
        ((layers, "modulate", lambda f: lambda x, shift, scale, *rest: f(x, scale, shift, *rest)),),
    ),
    Break(
        "DiT",
        "sines before cosines of the timestep",
        PLAIN,
        ((layers, "timestep_features", lambda f: lambda t, width: jnp.roll(f(t, width), width // 2, axis=-1)),),
    ),
    Break(
        "DiT",
        "GELU by the error function, not tanh",
        f"{DIT}::test_feed_forward",
        ((nn, "gelu", lambda f: lambda x, approximate=True: f(x, approximate=False)),),
    ),
    Break(
        "attention",
        "logits too large by sqrt(head width)",
        PLAIN,
        ((attention, "by_head", lambda f: lambda q, *rest: f(q * q.shape[-1] ** 0.5, *rest)),),
    ),
    Break(
        "attention",
        "key mask ignored",
        f"{DIT}::test_segment_layout_and_validity[valid1]",
        ((attention, "by_head", lambda f: lambda q, k, v, mask=None: f(q, k, v, None)),),
    ),
    Break(
        "side branch",
        "hints one block early",
        SIDE,
        ((side_branch, "hinted_blocks", lambda f: lambda *config: range(len(f(*config)))),),
    ),
    Break(
        "side branch",
        "control of the next frame",
        SIDE,
        ((side_branch, "patchify", lambda f: lambda control, patch: f(jnp.roll(control, 1, axis=0), patch)),),
    ),
    Break(
        "layout of the DiT",
        "queries and keys exchanged",
        PLAIN,
        ((wan_layouts, "DIFFUSERS_DIT", renamed("norm_q", "norm_k")),),
    ),
    Break(
        "UniPC", "predictor of first order", f"{SAMPLER}::test_unipc_run[8]", ((samplers, "_predictor", first_order),)
    ),
    Break(
        "UniPC",
        "schedule shifted by 3, not 5",
        f"{SAMPLER}::test_sampling_with_the_transformer[8]",
        ((samplers, "diffusers_schedule", lambda f: lambda steps: f(steps, 3.0)),),
    ),
    Break(
        "sampling",
        "first frame not told to be clean",
        f"{SAMPLER}::test_sampling_with_the_transformer[8]",
        ((flow, "frame_sigmas", lambda _: lambda sigma, clean: jnp.full(clean.shape, sigma)),),
    ),
    Break(
        "VAE",
        "channel norm dropped",
        ENCODE,
        ((vae_layers, "ChannelNorm", lambda _: NoNorm), (vae, "ChannelNorm", lambda _: NoNorm)),
    ),
    Break(
        "VAE",
        "averaging shortcuts dropped",
        ENCODE,
        ((vae, "average_down", lambda f: lambda *args: 0.0 * f(*args)),),
    ),
    Break(
        "VAE",
        "rows before columns in folded pixels",
        ENCODE,
        ((vae, "fold_patches", lambda f: lambda x, patch: jnp.swapaxes(f(jnp.swapaxes(x, 1, 2), patch), 1, 2)),),
    ),
    Break("VAE", "latents not normalised", ENCODE, ((vae, "normalise", lambda _: lambda config, z: z),)),
    Break(
        "VAE",
        "duplicating shortcut keeps the wrong frame of the first pair",
        DECODE,
        (
            (
                vae,
                "duplicate_up",
                lambda f: (
                    lambda x, c, time, space, first: (
                        f(x, c, time, space, False)[: -(time - 1) or None] if first else f(x, c, time, space, first)
                    )
                ),
            ),
        ),
    ),
    Break(
        "VAE",
        "older frame of every cache dropped",
        f"{VAE}::test_streamed_decoding_equals_their_whole_clip[chunks0]",
        ((vae_layers, "_with_past", forgetting),),
    ),
    Break(
        "layout of the VAE",
        "residual blocks of the two coarsest decoder levels exchanged",
        DECODE,
        ((vae_layouts, "DIFFUSERS_VAE", renamed("level3_block{j}", "level2_block{j}")),),
    ),
    Break(
        "umT5",
        "position bias of distances turned round",
        f"{TEXT}::test_encoder",
        ((umt5, "toeplitz", lambda f: lambda values: jnp.swapaxes(f(values), -1, -2)),),
    ),
    Break("prompts", "not cleaned", f"{TEXT}::test_cleaning", ((text, "clean", lambda _: lambda prompt: prompt),)),
    Break("tokenizer", "padded with another id", f"{TEXT}::test_spiece_model", ((text, "PAD", lambda _: 3),)),
    Break(
        "Depth Anything",
        "maps resized with their corners where their cells should be, and the other way round",
        DEPTH,
        (
            (
                depth_anything,
                "resize_linear",
                lambda f: lambda grid, rows, columns, *, corners: f(grid, rows, columns, corners=not corners),
            ),
        ),
    ),
    Break(
        "Depth Anything",
        "position embedding resized linearly",
        DEPTH,
        (
            (
                depth_anything,
                "resize_cubic",
                lambda _: lambda grid, rows, columns: depth_anything.resize_linear(grid, rows, columns, corners=False),
            ),
        ),
    ),
)


def run(entry: Break) -> tuple[bool, str]:
    """Whether the break was seen, and the error of the comparison that saw it."""
    # Programs compiled before the break would hide it.
    jax.clear_caches()
    collector, output = report.Collector(), io.StringIO()
    with contextlib.ExitStack() as stack:
        for owner, name, change in entry.patches:
            stack.enter_context(mock.patch.object(owner, name, change(getattr(owner, name))))
        stack.enter_context(contextlib.redirect_stdout(output))
        status = pytest.main([f"tests/parity/{entry.test}", "-x", "-q", "-p", "no:xdist"], plugins=[collector])
    failed = [row for row in collector.table("fp32") if not row["ok"] and row["oracle"] != "pytest"]
    if status != pytest.ExitCode.TESTS_FAILED or not failed:
        print(output.getvalue())
        return False, "not seen"
    row = failed[0]
    error = "not finite" if row["error"] is None else f"{row['error']:.1e}"
    return True, f"{row['what']}: {error} (bound {row['bound']:.0e})"


def main() -> int:
    """Tries every break and writes the table."""
    os.chdir(report.ROOT)
    os.environ["HF_HUB_OFFLINE"] = "1"
    lines, unseen = ["| part | broken | test that failed | its error |", "|---|---|---|---|"], 0
    for entry in BREAKS:
        seen, error = run(entry)
        unseen += not seen
        print(f"{'seen' if seen else 'NOT SEEN'}  {entry.part}: {entry.what}: {error}", flush=True)
        lines.append("| " + " | ".join((entry.part, entry.what, f"`{entry.test}`", report.escaped(error))) + " |")
    report.fill(report.DOCS, "sabotage", "\n".join(lines))
    return int(unseen > 0)


if __name__ == "__main__":
    sys.exit(main())
