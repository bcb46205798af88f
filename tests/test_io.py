"""Atomic writes: whole files or none."""

import json
import os

import pytest

from mirage_jax import io
from mirage_jax.errors import UserError


def test_a_finished_file_appears_under_its_name_and_nothing_else_remains(tmp_path):
    target = tmp_path / "new" / "folder" / "report.json"
    with io.atomic_path(target) as temporary:
        assert temporary.suffix == ".json"
        assert temporary.parent == target.parent
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["report.json"]


def test_a_body_that_raises_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "report.txt"
    io.write_text(target, "old")
    with pytest.raises(KeyboardInterrupt), io.atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.txt"]


def test_file_mode_follows_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        io.write_text(tmp_path / "open.txt", "for everybody")
    finally:
        os.umask(old)
    assert (tmp_path / "open.txt").stat().st_mode & 0o777 == 0o644


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*file/x\.txt"):
        io.write_text(tmp_path / "file" / "x.txt", "")
    with pytest.raises(UserError, match="it is a folder"):
        io.write_text(tmp_path, "")


def test_json_round_trip_and_no_nan(tmp_path):
    io.write_json(tmp_path / "a.json", {"psnr": 27.5, "name": "über"})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"psnr": 27.5, "name": "über"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.write_json(tmp_path / "a.json", {"psnr": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text("utf-8"))["psnr"] == 27.5
