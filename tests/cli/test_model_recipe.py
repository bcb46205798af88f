"""The recipe of the default model, every step of it, as small as it can be; and that it goes on where it was."""

import pytest
from commands import run

from mirage_jax import weights


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe")
    first, second = run("recipes.default", [[f"--out={out}", "--preset=tiny"]] * 2)
    assert first.code == 0, first.err
    return out, first, second


def test_it_leaves_one_file_for_each_memory(made):
    out, first, _ = made
    assert first.out.splitlines()[-1].startswith(f"wrote {out}/default.safetensors, ")
    for name, parts in {
        "default": {"vae", "heads", "dit", "side"},
        "rgb": {"vae", "heads", "dit", "side"},
        "none": {"vae", "heads", "dit"},
    }.items():
        model, params = weights.load(out / f"{name}.safetensors")
        assert set(params) == parts and model.height == 64


def test_what_was_done_is_not_done_again(made):
    _, first, second = made
    titles = [line for line in first.out.splitlines() if line.startswith("step ")]
    assert len(titles) == 16 and not any("done before" in line for line in titles)
    assert [line for line in second.out.splitlines() if line.startswith("step ")] == [
        f"{title}: done before" for title in titles
    ]
