"""The loop on a small regression: it learns, resumes on the same curve, and stops at a NaN."""

import dataclasses
import json

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import common
from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import vae
from mirage_jax.training import loop
from mirage_jax.training.stage import Stage


def _config(**changes):
    config = common.base("toy")
    config.update(dict(steps=12, warmup_steps=2, log_every=2, checkpoint_every=4, preview_every=0, learning_rate=0.1))
    config.update(changes)
    return config


CODER = vae.VAEConfig(
    latent_channels=2,
    encoder_dim=2,
    decoder_dim=2,
    multipliers=(1, 1),
    blocks=1,
    time_downsample=(False,),
    time_kernels=(1, 1),
)
TINY = model_config.ModelConfig(name="tiny", height=8, width=8, fps=15, vae=CODER)


def _stage(poison_from=None):
    """Fits `w` to noisy data; batch `n` holds NaN from `poison_from` on. The model it leaves has `w` as one bias."""

    def batches():
        def make(i):
            x = np.random.default_rng(i).normal(size=(2, 3)).astype(np.float32)
            bad = poison_from is not None and i >= poison_from
            return {"x": x, "y": x @ np.array([1.0, -2.0, 0.5], np.float32) + (np.nan if bad else 0.0)}

        return grain.MapDataset.range(1000).map(make).to_iter_dataset()

    def loss(params, _frozen, batch, keys):
        noise = 0.01 * jax.vmap(jax.random.normal)(keys)
        error = batch["x"] @ params["w"] - batch["y"] + noise
        return jnp.mean(error**2), {"absolute_error": jnp.mean(jnp.abs(error))}

    def finish(params, *_):
        coder = vae.init(CODER, jax.random.key(0))
        coder["decoder"]["conv_out"]["bias"] = jnp.tile(params["w"], 4)
        return TINY, {"vae": coder}

    return Stage(
        init=lambda *_: {"w": jnp.zeros(3)},
        frozen={},
        loss=loss,
        batches=batches,
        preview=lambda *_: {},
        finish=finish,
    )


def _losses(workdir):
    return [(row["step"], row["loss"]) for row in map(json.loads, (workdir / "losses.jsonl").read_text().splitlines())]


def test_learns_and_writes_the_model(tmp_path):
    folder = loop.train(_stage(), _config(steps=60, checkpoint_every=60), tmp_path)
    config, params = weights.load(folder)
    assert config == TINY
    losses = _losses(tmp_path)
    assert losses[-1][1] < 0.1 * losses[0][1]
    np.testing.assert_allclose(params["vae"]["decoder"]["conv_out"]["bias"][:3], [1.0, -2.0, 0.5], atol=0.2)


def test_resume_continues_the_same_curve(tmp_path):
    loop.train(_stage(), _config(), tmp_path / "whole")
    # The schedule is that of the whole run; stop after 7 steps, between two checkpoints.
    with pytest.raises(KeyboardInterrupt):
        loop.train(_interrupted(_stage(), after=7), _config(), tmp_path / "broken")
    loop.train(_stage(), _config(), tmp_path / "broken")
    assert _losses(tmp_path / "broken") == _losses(tmp_path / "whole")


def test_nan_stops_and_names_the_last_good_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"between steps 7 and 8; the last good checkpoint is step 4"):
        loop.train(_stage(poison_from=7), _config(), tmp_path)


def test_a_preview_comes_after_the_checkpoint_and_when_it_fails_the_run_goes_on(tmp_path, capsys):
    saved = []

    def preview(*_):
        saved.append(sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()))
        raise RuntimeError("RESOURCE_EXHAUSTED: no room for pictures\nwith more lines")

    folder = loop.train(dataclasses.replace(_stage(), preview=preview), _config(preview_every=4), tmp_path)
    assert saved == [[4], [4, 8], [8, 12]]
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: no preview of step")]
    assert [line.split()[5] for line in warnings] == ["4", "8", "12"]
    assert all("(RuntimeError: RESOURCE_EXHAUSTED: no room for pictures); the run goes on" in line for line in warnings)
    assert weights.load(folder)[0] == TINY and not (tmp_path / "previews").exists()


def _with_validation(stage):
    """The stage, whose split "validation" is twice its usual inputs."""

    def batches(split="train"):
        scale = {"train": 1.0, "validation": 2.0}[split]
        return stage.batches().map(lambda batch: {"x": scale * batch["x"], "y": batch["y"]})

    return dataclasses.replace(stage, batches=batches)


def _validation(workdir):
    rows = [json.loads(line) for line in (workdir / "losses.jsonl").read_text().splitlines()]
    return {row["step"]: row["validation/loss"] for row in rows if "validation/loss" in row}


def test_validation_is_of_the_averaged_weights_on_other_clips_and_changes_nothing(tmp_path):
    stage, config = _with_validation(_stage()), _config(validate_every=4, validation_batches=3)
    folder = loop.train(stage, config, tmp_path / "watched")
    loop.train(stage, _config(), tmp_path / "plain")
    assert _losses(tmp_path / "watched") == _losses(tmp_path / "plain")
    found = _validation(tmp_path / "watched")
    assert sorted(found) == [4, 8, 12]
    average = np.asarray(weights.load(folder)[1]["vae"]["decoder"]["conv_out"]["bias"][:3])
    errors = []
    for number, batch in zip(range(3), iter(stage.batches("validation")), strict=False):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number), 2)
        noise = [0.01 * float(jax.random.normal(key)) for key in keys]
        errors.append(np.mean((batch["x"] @ average - batch["y"] + noise) ** 2))
    assert found[12] == pytest.approx(np.mean(errors), rel=1e-4)

    with pytest.raises(KeyboardInterrupt):
        loop.train(_interrupted(stage, after=7), config, tmp_path / "broken")
    loop.train(stage, config, tmp_path / "broken")
    assert _validation(tmp_path / "broken") == found


def test_a_validation_loss_that_is_no_number_stops_the_run(tmp_path):
    def poisoned(split="train"):
        return _stage(poison_from=1 if split == "validation" else None).batches()

    stage = dataclasses.replace(_stage(), batches=poisoned)
    with pytest.raises(UserError, match="the loss on validation was not finite after step 4"):
        loop.train(stage, _config(validate_every=4), tmp_path)


def test_checkpoints_fall_on_log_steps(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint_every=3 must be a multiple of log_every=2"):
        loop.train(_stage(), _config(checkpoint_every=3), tmp_path)
    with pytest.raises(UserError, match=r"validate_every=5 must be a multiple of log_every=2"):
        loop.train(_stage(), _config(validate_every=5), tmp_path)


def test_warm_up_ends_before_the_run(tmp_path):
    with pytest.raises(UserError, match=r"warmup_steps=12 must be at least 0 and less than steps=12"):
        loop.train(_stage(), _config(warmup_steps=12), tmp_path)


def _interrupted(stage, after):
    """The stage, with batches that raise KeyboardInterrupt once `after` of them were given."""

    class Iterable:
        def __init__(self, *split):
            self._split = split

        def __iter__(self):
            return _Iterator(iter(stage.batches(*self._split)), after)

    return dataclasses.replace(stage, batches=Iterable)


class _Iterator(grain.DatasetIterator):
    """A Grain iterator that stops a run as Ctrl-C would."""

    def __init__(self, inner, after):
        super().__init__()
        self._inner, self._after, self._given = inner, after, 0

    def __next__(self):
        if self._given == self._after:
            raise KeyboardInterrupt
        self._given += 1
        return next(self._inner)

    def get_state(self):
        return self._inner.get_state()

    def set_state(self, state):
        self._inner.set_state(state)
