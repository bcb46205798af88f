"""A training run that is killed with no warning, and one that is told to stop, go on as if nothing had happened.

`make test-faults` does more of this, with several processes.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mirage_jax import weights
from mirage_jax.data import latents
from mirage_jax.models import config as model_config
from mirage_jax.models import vae

ROOT = pathlib.Path(__file__).parent.parent.parent
CHANNELS, STEPS = 24, 40


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Random coded clips, and a model folder with a small VAE."""
    folder = tmp_path_factory.mktemp("kill")
    rng = np.random.default_rng(0)

    def sample(i):
        return {
            "latents": rng.normal(size=(5, 4, 4, CHANNELS)).astype(np.float16),
            "depth": rng.uniform(1, 9, (5, 4, 4)).astype(np.float16),
            "dynamic": rng.integers(0, 2, (5, 4, 4), np.uint8),
            "intrinsics": np.tile(np.array([[3, 0, 2], [0, 3, 2], [0, 0, 1]], np.float32), (5, 1, 1)),
            "cam2world": np.tile(np.eye(4, dtype=np.float32), (5, 1, 1)),
            "caption": "",
            "source": f"clip {i}",
        }

    latents.write(folder / "data", "train", (5, 4, 4, CHANNELS), (sample(i) for i in range(8)))
    coder = vae.VAEConfig(
        latent_channels=CHANNELS,
        encoder_dim=4,
        decoder_dim=4,
        multipliers=(1, 1, 1),
        blocks=1,
        time_downsample=(True, True),
        time_kernels=(1, 1, 1),
    )
    model = model_config.ModelConfig(name="tiny", height=32, width=32, fps=15, vae=coder)
    weights.save(folder / "model", model, {"vae": vae.init(coder, jax.random.key(0))})
    return folder


def _start(prepared, workdir):
    """The command of the heads' stage, with every source of its randomness fixed by the config."""
    command = [
        *(sys.executable, "-m", "experiments.train", f"--workdir={workdir}"),
        f"--config={ROOT}/experiments/configs/default_heads.py",
        *(f"--config.data={prepared}/data", f"--config.init_from={prepared}/model", "--config.warmup_steps=5"),
        *(f"--config.steps={STEPS}", "--config.batch_size=2", "--config.log_every=1", "--config.checkpoint_every=5"),
        "--config.preview_every=0",
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _losses(workdir):
    file = workdir / "losses.jsonl"
    whole = file.read_text().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in whole if line.endswith("\n")]
    return {row["step"]: row["loss"] for row in rows}


def test_killed_and_told_to_stop_ends_with_the_same_curve_and_the_same_weights(prepared, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run = _start(prepared, whole)
    assert run.wait(timeout=600) == 0, run.stderr.read()

    moments = sorted(random.Random(0).sample(range(6, STEPS - 10), 2))
    for moment, number in zip(moments, (signal.SIGKILL, signal.SIGTERM), strict=True):
        run = _start(prepared, broken)
        while max(_losses(broken), default=0) < moment:
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.01)
        os.kill(run.pid, number)
        said, _ = run.communicate(timeout=60)
        assert not (broken / "model").exists()
        if number == signal.SIGTERM:
            last = max(_losses(broken))
            assert run.returncode == 75
            assert f"{broken}: told to stop, saved step {last}; the same command goes on from there" in said
            assert (broken / "checkpoints" / str(last)).is_dir()
    run = _start(prepared, broken)
    assert run.wait(timeout=600) == 0, run.stderr.read()
    assert f"resumed at step {last}\n" in run.stdout.read()

    assert _losses(broken) == _losses(whole)
    assert sorted(_losses(broken)) == list(range(1, STEPS + 1))
    ends = [weights.load(workdir / "model")[1]["heads"] for workdir in (whole, broken)]
    jax.tree.map(np.testing.assert_array_equal, *ends)
