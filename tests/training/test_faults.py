"""What may go wrong in the middle of a run, each once: a clear sentence, and a run that can go on."""

import dataclasses
import errno
import json
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loop import _config, _losses, _stage

from mirage_jax.errors import LostPeer, Stopped, UserError
from mirage_jax.training import loop, optimizer
from mirage_jax.training.measures import flops, metrics, resources
from mirage_jax.training.stopping import StopRequests


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    loop.train(_stage(), _config(), workdir)
    return workdir


def _with_batches(stage, spoil):
    """The stage, whose batch `n` (from 0) goes through `spoil(n, batch)` on its way."""

    def batches():
        return stage.batches().map(spoil)

    return dataclasses.replace(stage, batches=batches)


def _at(index, act):
    count = iter(range(10_000))

    def spoil(batch):
        if next(count) == index:
            act()
        return batch

    return spoil


def test_signals_save_between_two_steps_and_the_run_goes_on(tmp_path, whole):
    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        stage = _with_batches(_stage(), _at(2, lambda n=number: os.kill(os.getpid(), n)))
        with pytest.raises(Stopped, match=r"told to stop, saved step \d+; the same command goes on") as caught:
            loop.train(stage, _config(log_every=1, checkpoint_every=4), tmp_path)
        step = str(caught.value).partition("saved step ")[2].partition(";")[0]
        assert (tmp_path / "checkpoints" / step).is_dir()
        assert max(dict(_losses(tmp_path))) == int(step)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "model").exists()
    loop.train(_stage(), _config(log_every=1), tmp_path)
    mine, theirs = dict(_losses(tmp_path)), dict(_losses(whole))
    assert sorted(mine) == list(range(1, 13))
    for step, loss in theirs.items():  # means over two steps
        assert (np.float32(mine[step - 1]) + np.float32(mine[step])) / 2 == pytest.approx(loss, rel=1e-6)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["restarts"] == 3 and record["steps"] == 12 and record["steps_per_second"] > 0


def test_a_second_interrupt_does_not_wait():
    with pytest.raises(KeyboardInterrupt), StopRequests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.due(1)
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)


def test_unreadable_data_is_one_sentence_and_repaired_data_go_on_the_same_curve(tmp_path, whole):
    def fail():
        raise ValueError("shard 3 is truncated\nwith more lines")

    with pytest.raises(
        UserError, match=r"cannot read the batch of step 7 \(.*truncated.*\); the last good .* step 4"
    ) as caught:
        loop.train(_with_batches(_stage(), _at(6, fail)), _config(), tmp_path)
    assert "\n" not in str(caught.value)
    loop.train(_stage(), _config(), tmp_path)
    assert _losses(tmp_path) == _losses(whole)


def test_a_full_disk_under_the_metrics_is_one_sentence_and_the_run_goes_on(tmp_path, whole, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(metrics.os, "fsync", full)
        with pytest.raises(UserError, match=r"losses.jsonl.*disk is full|disk is full"):
            loop.train(_stage(), _config(), tmp_path)
    loop.train(_stage(), _config(), tmp_path)
    assert _losses(tmp_path) == _losses(whole)


def test_a_lost_peer_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.jax, "process_count", lambda: 2)
    with pytest.raises(LostPeer, match=r"process 0 of 2 lost another .*Connection closed by peer.*last checkpoint"):
        with loop._lost_peers_named(tmp_path):
            raise ValueError("UNKNOWN: Gloo AllReduce failed: Connection closed by peer [127.0.0.1]:2")
    with pytest.raises(ValueError, match="a defect"), loop._lost_peers_named(tmp_path):
        raise ValueError("a defect")


def test_what_is_watched(tmp_path):
    stage = dataclasses.replace(_stage(), counters=lambda: {"skipped_samples": 3})
    config = _config(rate_factors=(("^w", 0.5),), profile=(3, 4))
    (tmp_path / "PROFILE").write_text("1")
    loop.train(stage, config, tmp_path)
    row = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()][-1]
    assert row["skipped_samples"] == 3
    assert row["learning_rate/w:^w"] == pytest.approx(0.5 * row["learning_rate"])
    assert row["clips_per_second"] == pytest.approx(2 * row["steps_per_second"])
    assert row["host_memory_peak_gib"] >= row["host_memory_gib"] > 0.01
    # x @ w and its gradient with respect to w: two products of [2, 3] with [3].
    assert row["tflops_per_second"] == pytest.approx(2 * 2 * 2 * 3 * row["steps_per_second"] / 1e12)
    for step in (1, 3):  # asked for by the file, and by the config
        assert len(list((tmp_path / "profile" / f"step_{step}").rglob("*.xplane.pb"))) == 1
    assert not (tmp_path / "PROFILE").exists()


def test_flops_agree_with_xla_where_xla_counts_right_and_loops_count_in_full():
    a, w = jnp.ones((64, 32)), jnp.ones((32, 16))
    image, kernel = jnp.ones((2, 10, 10, 8)), jnp.ones((3, 3, 8, 16))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    for function, arguments in ((jnp.matmul, (a, w)), (convolve, (image, kernel))):
        compiled = jax.jit(function).lower(*arguments).compile()
        counted = flops.of_jitted(jax.jit(function), *arguments)
        assert counted.model == counted.hardware == compiled.cost_analysis()["flops"]

    def loop_of_five(a, w):
        return jax.lax.scan(lambda total, _: (total + jnp.sum(a @ w), None), 0.0, None, length=5)[0]

    once = flops.of_jitted(jax.jit(jnp.matmul), a, w)
    assert flops.of_jitted(jax.jit(loop_of_five), a, w).hardware == 5 * once.hardware
    assert flops.of_jitted(jax.jit(jax.checkpoint(jnp.matmul)), a, w) == once


def test_what_is_computed_again_is_hardwares_work_and_not_the_models():
    layers, x = jnp.ones((5, 16, 16)), jnp.ones((4, 16))
    product = 2 * 4 * 16 * 16

    def loss(block, layers):
        return jax.lax.scan(lambda x, w: (block(x, w), None), x, layers)[0].sum()

    def block(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w)

    plain, again = (
        flops.of_jitted(jax.jit(jax.grad(lambda w, b=b: loss(b, w))), layers) for b in (block, jax.checkpoint(block))
    )
    assert plain.model == plain.hardware == again.model == 5 * 6 * product  # two forward, four back
    assert again.hardware == 5 * 8 * product


def test_peaks_and_shares():
    assert flops.peak("NVIDIA H100 80GB HBM3") == 989e12
    assert flops.peak("TPU v5 lite") == 197e12 and flops.peak("TPU v5p") == 459e12
    assert flops.peak("cpu") is None
    step = flops.Flops(model=1e12, hardware=1.5e12)
    assert resources.arithmetic(step, 2.0) == {"tflops_per_second": 3.0}


def test_shares_of_the_peak_with_and_without_what_is_computed_again(monkeypatch):
    monkeypatch.setattr(flops, "peak", lambda _: 1e13)
    found = resources.arithmetic(flops.Flops(model=1e12, hardware=1.5e12), 2.0)
    devices = jax.device_count()
    assert (found["mfu"], found["hfu"]) == pytest.approx((0.2 / devices, 0.3 / devices))


def test_rates_by_part():
    config = _config(rate_factors=(("hint", 10.0),))
    params = {"side": {"hint": jnp.zeros(1), "proj": jnp.zeros(1)}, "lora": {"a": jnp.zeros(1)}}
    assert optimizer.rates(config, params) == {"side": 1.0, "side:hint": 10.0, "lora": 1.0}


def test_profile_must_be_two_steps(tmp_path):
    with pytest.raises(UserError, match=r"--config.profile=\(5,\): expected two steps"):
        loop.train(_stage(), _config(profile=(5,)), tmp_path)
