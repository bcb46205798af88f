"""What tokens of stills and of video have to do with one another: on numbers that are known, and on a still camera."""

import dataclasses

import jax
import numpy as np
import pytest
from sphere import SIZE, turning

from mirage_jax.evaluation import token_study
from mirage_jax.models import config as model_config
from mirage_jax.models import vae


def _pairs(clips, weights):
    rng = np.random.default_rng(0)
    stills = [rng.normal(size=(4, 5, 3, 3, 2)) for _ in range(clips)]
    return [(x, np.einsum("nfhwc,fcd->nhwd", x, weights)) for x in stills]


def test_a_linear_map_finds_what_its_frames_tell_and_nothing_else():
    weights = np.zeros((5, 2, 2))
    weights[0], weights[4] = np.eye(2), 2 * np.eye(2)  # a fifth of the variance from the last frame
    pairs = _pairs(300, weights)
    errors = {name: token_study.linear_error(pairs[:200], pairs[200:], f) for name, f in token_study.FRAMES.items()}
    assert errors["the last frame"] == pytest.approx(0.8, abs=0.05)
    for name in token_study.FRAMES.keys() - {"the last frame"}:
        assert errors[name] < 1e-4


def test_stills_of_a_scene_at_rest_are_the_same_and_tokens_of_video_are_what_was_seen_last():
    base = model_config.default()
    coder = dataclasses.replace(base.vae, latent_channels=5, encoder_dim=4, decoder_dim=4, multipliers=(1, 2, 4))
    segment = dataclasses.replace(base.segment, latents=2)
    model = dataclasses.replace(base, height=SIZE, width=SIZE, vae=coder, segment=segment)
    params = {"vae": vae.init(coder, jax.random.key(0))}
    alike = np.ones(5)
    rest = token_study.shown_errors(model, params, turning(np.zeros(13)), alike)
    assert rest["tokens: still"][0] < 1e-6 < rest["tokens: clip"][0]
    turned = token_study.shown_errors(model, params, turning(np.linspace(0, 40, 13)), alike)
    assert turned["tokens: still"][0] > 1e-3
    assert turned["tokens: still"][1] == pytest.approx(turned["tokens: still"][0])
    one = token_study.shown_errors(model, params, turning(np.linspace(0, 40, 13)), np.eye(5)[2])
    assert one["tokens: still"][0] == pytest.approx(turned["tokens: still"][0])
    assert one["tokens: still"][1] != pytest.approx(turned["tokens: still"][0], rel=0.01)
    assert set(turned) == {"tokens: clip", "tokens: still", "colours, rendered and encoded"}


def test_the_tables_name_every_figure():
    shown = {"tokens: still": {"mean": 0.1, "low": 0.05, "high": 0.15, "count": 24}}
    seen = {"tokens: still": {"mean": 0.2, "low": 0.15, "high": 0.25, "count": 24}}
    record = {"clips": 24, "fitted": 16, "shown": shown, "shown_as_seen": seen, "linear": {"the last frame": 0.5}}
    record["sensitivity"] = [{"mean": 0.25}, {"mean": 1.75}]
    table = token_study.markdown(record)
    assert "| tokens: still | 0.100 [0.050, 0.150] | 0.200 [0.150, 0.250] |" in table
    assert "| the last frame | 0.500 |" in table and "1.75, 0.25" in table
