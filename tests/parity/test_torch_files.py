"""Torch checkpoint files: read bit for bit, weights alone."""

import ml_dtypes
import numpy as np
import pytest
import torch

from mirage_jax.errors import UserError
from mirage_jax.weights.sources import Source


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


def test_tensors_are_read_bit_for_bit(tmp_path):
    whole = torch.randn(3, 5)
    torch.save({"a": whole, "b": whole.bfloat16().T, "c": whole.half()}, tmp_path / "x.pth")
    source = Source(tmp_path / "x.pth")
    np.testing.assert_array_equal(source.read("a"), whole.numpy())
    found = source.read("b")
    assert found.dtype == ml_dtypes.bfloat16 and found.shape == (5, 3)
    np.testing.assert_array_equal(found.astype(np.float32), whole.bfloat16().T.float().numpy())
    np.testing.assert_array_equal(source.read("c"), whole.half().numpy())


def test_what_is_not_weights_is_refused_and_not_run(tmp_path, capsys):
    file = tmp_path / "x.pth"
    for content in ({"a": Bomb()}, [torch.ones(2)], {"a": 3}, {"a": torch.ones(2, dtype=torch.int64)}):
        torch.save(content, file)
        with pytest.raises(UserError, match=r"x\.pth: (tensor a is of type int64|truncated|holds a list|a is a int)"):
            Source(file)
    torch.save({"a": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"x\.pth: truncated"):
        Source(file)
    torch.save({"a": torch.tensor([1.0, torch.nan])}, file)
    with pytest.raises(UserError, match=r"x\.pth: tensor a holds NaN"):
        Source(file).read("a")
    assert "boom" not in capsys.readouterr().out


def test_training_checkpoints_are_unwrapped(tmp_path):
    v3 = {
        "format_version": 3,
        "generator": {"vace": {"vace_blocks.0.modulation": torch.ones(1, 6, 2)}, "lora": {"x": torch.zeros(2)}},
        "meta": {"step": torch.tensor(7), "loss": 0.5},
    }
    torch.save(v3, tmp_path / "x.pt")
    entries = Source(tmp_path / "x.pt").entries
    assert list(entries) == ["generator.vace.vace_blocks.0.modulation", "generator.lora.x"]
    torch.save({"model_state": {"conv1.bias": torch.ones(3)}, "step": 4}, tmp_path / "y.pth")
    assert Source(tmp_path / "y.pth").read("model_state.conv1.bias").tolist() == [1, 1, 1]


def test_eight_bit_floats_and_scalars(tmp_path):
    small = torch.randn(4, 3).to(torch.float8_e4m3fn)
    scales = {"a.scale_weight": torch.tensor(0.5), "b.alpha": torch.tensor(2.0)}
    torch.save({"a.weight": small} | scales, tmp_path / "x.pt")
    source = Source(tmp_path / "x.pt")
    np.testing.assert_array_equal(source.read("a.weight"), small.float().numpy() / 2)
    assert source.read("b.alpha").shape == () and float(source.read("b.alpha")) == 2
    torch.save({"a": torch.tensor(1.5, dtype=torch.bfloat16)}, tmp_path / "y.pt")
    assert float(Source(tmp_path / "y.pt").read("a")) == 1.5
