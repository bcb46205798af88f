"""The package with VGG16's weights: what is not the known file is refused, and only arrays are ever made of it."""

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest

from experiments.evaluation import judge
from mirage_jax.errors import UserError
from mirage_jax.evaluation import metrics
from mirage_jax.models import lpips


def arrays(width=2):
    """What the package holds, with few channels."""
    rng = np.random.default_rng(0)
    convolutions, channels = {}, 3
    for index, _ in enumerate(lpips.VGG):
        kernel = rng.normal(size=(3, 3, channels, width)).astype(np.float32)
        convolutions[f"Conv_{index}"] = {"kernel": kernel, "bias": rng.normal(size=width).astype(np.float32)}
        channels = width
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.abs(rng.normal(size=(1, 1, width, 1))).astype(np.float32)}}
        for i in range(len(judge.COMPARED))
    }
    return {"VGG16_0": convolutions, **heads}


def archive(path, content, member=judge.MEMBER):
    with tarfile.open(path, "w:gz") as files:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        files.addfile(info, io.BytesIO(content))
    return str(path)


def test_the_known_file_is_read_and_judges(tmp_path, monkeypatch):
    content = pickle.dumps(arrays())
    monkeypatch.setattr(judge, "SHA256", hashlib.sha256(content).hexdigest())
    found = judge.load(archive(tmp_path / "package.tar.gz", content))
    frames = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    distance = metrics.lpips_vgg(found, {"same": frames, "dark": frames // 2}, frames)
    assert distance["same"].shape == (3,) and not distance["same"].any() and (distance["dark"] > 0).all()


@pytest.mark.parametrize(
    ("content", "member", "match"),
    [
        (b"other", judge.MEMBER, "has sha256"),
        (b"", "lpips/x", "expected the archive"),
        (None, "", "expected the archive"),
    ],
)
def test_another_file_is_refused(tmp_path, content, member, match):
    path = tmp_path / "package.tar.gz"
    if content is None:
        path.write_bytes(b"no archive")
    else:
        archive(path, content, member)
    with pytest.raises(UserError, match=match):
        judge.load(str(path))


def test_a_pickle_of_anything_else_is_refused():
    class Harm:
        def __reduce__(self):
            return eval, ("1",)

    with pytest.raises(UserError, match=r"refused to load builtins\.eval"):
        judge.ArraysOnly(io.BytesIO(pickle.dumps(Harm()))).load()
