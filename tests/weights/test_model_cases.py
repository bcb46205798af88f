"""Files of models that strangers brought, each one sentence."""

import pathlib
import shutil

import pytest

from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.weights import sources

CASES = pathlib.Path(__file__).parents[1] / "cases"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("model_height0.json", r"model\.json: .*height is '0', expected 1 to 16,384"),
        ("model_binary.json", r"model\.json: .*not a model config.* JSON"),
    ],
)
def test_a_model_file_that_cannot_be_is_refused(tmp_path, case, message):
    shutil.copy(CASES / "checkpoint" / case, tmp_path / "model.json")
    with pytest.raises(UserError, match=message):
        weights.read_config(tmp_path)


def test_an_index_that_names_no_file_is_refused():
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: .*tensor a is in '3'"):
        sources.read_index(CASES / "convert" / "index_with_number" / "model.safetensors.index.json")
