"""Benchmark suite `dit_ratio`: a middle-size Wan DiT on the CPU, ours and the public PyTorch implementation in turn.

One process, the same random weights, inputs, float32 and number of threads; each pair of calls is one after the other,
so that whatever else the machine does falls on both. Beside them, the largest matrix product of a block alone, by
either library: how fast a forward pass could be that did nothing else, and so how large the ratio can become at all.
Needs the extra `parity`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.bench import records, timing
from mirage_jax.errors import UserError
from mirage_jax.models.dit import DiTConfig
from mirage_jax.models.generator import Generator
from mirage_jax.training.measures import flops
from mirage_jax.weights import layout
from mirage_jax.weights.layouts import wan_layouts

SIZE = DiTConfig(dim=1536, ffn_dim=8960, heads=12, layers=4, in_channels=48, text_dim=4096)
"""Width and heads of the 1.3B model, four of its blocks."""

GRID = (3, 40, 44)
"""Latent frames, rows and columns: 1,320 tokens."""

REPEATS = 15
IN_A_ROW = 5
"""Products per timed call: a rate that lasts, not that of a cold start."""

TIMES = (*("", "PyTorch", "ours", "ratio of medians", "ratio of minima", "ratio pair by pair", "relative difference"),)
LIMITS = (*("", "GFLOP/s of the product", "time at that rate", "ratio at that rate", "PyTorch's share", "our share"),)

PAUSE = 0.3
"""Seconds between calls, in which the threads of the other library go to sleep."""

_TIMESTEPS = {"one timestep for all frames": [600.0] * GRID[0], "a timestep per frame": [0.0, 600.0, 600.0]}


def measure() -> dict[str, Any]:
    """Times the two in turn; the record that `markdown` prints.

    Raises:
      UserError: if PyTorch or diffusers is not installed, or the outputs differ.
    """
    try:
        import diffusers  # pyright: ignore[reportMissingImports]
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"suite dit_ratio needs the extra 'parity' ({error})") from error
    cores = timing.cores()
    torch.set_num_threads(cores)
    model = _public_model(diffusers, torch)
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    params = jax.device_put(layout.params_from_public(tensors, wan_layouts.DIFFUSERS_DIT))
    apply = jax.jit(lambda params, z, t, text: Generator(SIZE).apply({"params": params}, z, t, text=text))

    rng = np.random.default_rng(0)
    latents = rng.standard_normal((*GRID, SIZE.in_channels), dtype=np.float32)
    text = rng.standard_normal((SIZE.text_tokens, SIZE.text_dim), dtype=np.float32)
    tokens = GRID[1] * GRID[2] // (SIZE.patch[1] * SIZE.patch[2])
    video = torch.from_numpy(latents).permute(3, 0, 1, 2)[None].contiguous()
    prompt = torch.from_numpy(text)[None]

    weights = rng.standard_normal((SIZE.dim, SIZE.ffn_dim), dtype=np.float32)
    inputs = rng.standard_normal((GRID[0] * tokens, SIZE.dim), dtype=np.float32)
    product = jax.jit(jnp.matmul)
    on_device, in_torch = jax.device_put((inputs, weights)), (torch.from_numpy(inputs), torch.from_numpy(weights))
    products = {
        "product, PyTorch": lambda: [torch.matmul(*in_torch) for _ in range(IN_A_ROW)],
        "product, ours": lambda: jax.block_until_ready([product(*on_device) for _ in range(IN_A_ROW)]),
    }
    for call in products.values():
        call()

    rows = []
    for what, steps in _TIMESTEPS.items():
        # The public code takes one timestep for all, or one per token; the first is its cheapest form.
        same = len(set(steps)) == 1
        theirs = torch.tensor(steps[:1]) if same else torch.tensor(np.repeat(steps, tokens), dtype=torch.float32)[None]

        def run_public(theirs=theirs):
            with torch.inference_mode():
                return model(video, theirs, prompt, return_dict=False)[0]

        ours = jax.device_put((latents, np.float32(steps), text))

        def run_ours(ours=ours):
            return jax.block_until_ready(apply(params, *ours))

        operations = flops.of_jitted(apply, params, *ours).hardware
        expected = run_public()[0].permute(1, 2, 3, 0).numpy()
        error = float(np.linalg.norm(run_ours() - expected) / np.linalg.norm(expected))
        if not error < 1e-4:
            raise UserError(f"suite dit_ratio: outputs differ by {error:.2g}, expected under 1e-4 ({what})")
        times = _in_turn({"public": run_public, "ours": run_ours, **products}, what)
        product_time = min(min(times[name]) for name in products) / IN_A_ROW
        limits = _limits(times["public"], times["ours"], operations, 2.0 * inputs.size * SIZE.ffn_dim / product_time)
        rows.append({"what": what, "error": error, **_summary(times["public"], times["ours"]), **limits})
    return {
        "work": f"DiT of width {SIZE.dim}, {SIZE.heads} heads, {SIZE.layers} blocks, {GRID[0] * tokens:,} tokens, "
        f"{SIZE.text_tokens} text tokens, float32",
        "threads": cores,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "jax": jax.__version__,
        "load": os.getloadavg()[0],
        "rows": rows,
    }


def markdown(record: dict[str, Any]) -> str:
    """The record as a table."""
    times, limits = [], []
    for row in record["rows"]:
        spread = ["{1:.0f} [{0:.0f}, {2:.0f}]".format(*row[name]) for name in ("public", "ours")]
        ratios = [f"{row['ratio_of_medians']:.2f}", f"{row['ratio_of_minima']:.2f}"]
        pairs = "{1:.2f} [{0:.2f}, {2:.2f}]".format(*row["ratio_of_pairs"])
        times.append([row["what"], *spread, *ratios, pairs, f"{row['error']:.1e}"])
        reached = [f"{row['least']:.0f}", f"{row['largest_ratio']:.2f}"]
        shares = [f"{row['public_share']:.0%}", f"{row['our_share']:.0%}"]
        limits.append([row["what"], f"{row['product_rate'] / 1e6:.0f}", *reached, *shares])
    lines = [
        f"{record['work']}; {record['threads']} threads; PyTorch {record['torch']}, diffusers {record['diffusers']}, "
        f"JAX {record['jax']}; {REPEATS} pairs in turn after warm-up, milliseconds as median [10th, 90th percentile], "
        f"load {record['load']:.1f} at the end",
        "",
        *records.table(TIMES, times),
        "",
        f"A forward pass is {record['rows'][0]['operations'] / 1e9:.0f} GFLOP of products. At the rate of its largest "
        "product alone (the fastest call of either library in the same run) it would take the time below; the ratio "
        "beside it is what an implementation would reach that did nothing else.",
        "",
        *records.table(LIMITS, limits),
    ]
    return "\n".join([*lines, ""])


def _public_model(diffusers: Any, torch: Any) -> Any:
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        patch_size=SIZE.patch,
        num_attention_heads=SIZE.heads,
        attention_head_dim=SIZE.head_dim,
        in_channels=SIZE.in_channels,
        out_channels=SIZE.in_channels,
        text_dim=SIZE.text_dim,
        freq_dim=SIZE.freq_dim,
        ffn_dim=SIZE.ffn_dim,
        num_layers=SIZE.layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=SIZE.eps,
        rope_max_seq_len=1024,
    )
    return model.float().eval()


def _in_turn(calls: dict[str, Callable[[], Any]], what: str) -> dict[str, list[float]]:
    """Milliseconds of calls in turn, in an order that turns round every time."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in tqdm.trange(REPEATS, desc=what, dynamic_ncols=True):
        for name in list(calls)[:: 1 if repeat % 2 else -1]:
            time.sleep(PAUSE)
            start = time.perf_counter()
            calls[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def _limits(public: list[float], ours: list[float], operations: float, product_rate: float) -> dict[str, float]:
    """How near medians come to the machine's rate of products, in FLOP per millisecond."""
    least = operations / product_rate
    return {
        "operations": operations,
        "product_rate": product_rate,
        "least": least,
        "largest_ratio": float(np.median(public)) / least,
        "public_share": least / float(np.median(public)),
        "our_share": least / float(np.median(ours)),
    }


def _summary(public: list[float], ours: list[float]) -> dict[str, Any]:
    def spread(values: Any) -> list[float]:
        return np.percentile(values, [10, 50, 90]).tolist()

    return {
        "public": spread(public),
        "ours": spread(ours),
        "ratio_of_medians": float(np.median(public) / np.median(ours)),
        "ratio_of_minima": min(public) / min(ours),
        "ratio_of_pairs": spread(np.divide(public, ours)),
        "milliseconds": {"public": public, "ours": ours},
    }
