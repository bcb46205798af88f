"""The wrapper of every command: which mistakes are sentences, which stay tracebacks, and what is recorded of a run."""

import dataclasses
import errno
import json
import pathlib
import subprocess
import sys

import ml_collections
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from ml_collections import config_flags

from experiments.shared import cli
from mirage_jax.errors import UserError

_NUMBER = flags.DEFINE_integer("cli_test_number", 1, "A number.")
config_flags.DEFINE_config_file("cli_test_config")


@pytest.fixture
def command(monkeypatch, capfd):
    """Calls `cli.run(main)` as the shell would; returns (exit code, stdout, stderr)."""

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", [__file__, *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as stopped:
            cli.run(main)
        out, err = capfd.readouterr()
        return stopped.value.code, out, err

    return call


def _raising(error):
    def main(argv):
        raise error

    return main


def _print_number(argv):
    print(f"number {_NUMBER.value}")


def test_success(command):
    assert command(_print_number, "--cli_test_number=7") == (None, "number 7\n", "")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("image x.png: truncated,\n  expected a whole PNG"), "image x.png: truncated, expected a whole PNG"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/some/file"), "/some/file: Permission denied"),
    ],
)
def test_a_persons_mistake_is_one_sentence(command, error, sentence):
    assert command(_raising(error)) == (2, "", f"error: {sentence}\n")


def test_interrupt(command):
    assert command(_raising(KeyboardInterrupt())) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError(errno.EIO, "Input/output error"), IndexError()])
def test_a_defect_is_not_hidden(monkeypatch, error):
    monkeypatch.setattr(sys, "argv", [__file__])
    with flagsaver.flagsaver(), pytest.raises(type(error)):
        cli.run(_raising(error))


def test_wrong_flags(command, tmp_path):
    config = tmp_path / "config.py"
    config.write_text("import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'a': 1})\n")
    for arguments, part in [
        (["--no_such_flag=1"], "Unknown command line flag 'no_such_flag'"),
        (["--cli_test_number=many"], "flag --cli_test_number=many: invalid literal"),
        (["picture.png"], "'picture.png' belongs to no flag"),
        (["--cli_test_config=missing.py"], "No such file or directory: 'missing.py'"),
        ([f"--cli_test_config={config}", "--cli_test_config.b=2"], "asked for by --cli_test_config.b=2"),
    ]:
        code, out, err = command(_print_number, *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("error: ") and err.count("\n") == 1 and part in err


def test_a_real_process_exits_without_traceback(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from experiments.shared import cli\n"
        "def main(argv):\n    cli.prepare_output('program.py')\n"
        "if __name__ == '__main__':\n    cli.run(main)\n"
    )
    root = pathlib.Path(cli.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "error: output folder program.py: found a file of that name, expected a folder or nothing\n"


def test_prepare_output(tmp_path):
    folder = cli.prepare_output(tmp_path / "a" / "b")
    assert folder.is_dir() and list(folder.iterdir()) == []
    assert cli.prepare_output(folder) == folder
    with pytest.raises(UserError, match="cannot write there"):
        cli.prepare_output("/proc/no_folder_can_be_made_here")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write there"):
        cli.prepare_output(tmp_path / "file" / "below")


def test_a_refused_run_leaves_no_empty_folder(tmp_path):
    def refused(argv):
        cli.prepare_output(tmp_path / "new")
        cli.prepare_output(tmp_path / "old")
        raise UserError("no")

    (tmp_path / "old").mkdir()
    with pytest.raises(SystemExit):
        cli._guarded(lambda: refused([]))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_write_run_config(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Model:
        width: int = 8
        scale: tuple[float, float] = (0.5, 2.0)

    config = ml_collections.ConfigDict({"seed": 3, "nested": {"data": pathlib.Path("clips"), "rate": np.float32(0.25)}})
    config.model = Model()
    cli.write_run_config(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "seed": 3,
        "nested": {"data": "clips", "rate": 0.25},
        "model": {"width": 8, "scale": [0.5, 2.0]},
    }
    record = json.loads((tmp_path / "versions.json").read_text())
    assert record["packages"]["jax"] and record["backend"] == "cpu" and record["device_count"] >= 1
    assert "backend" not in cli.versions(device=False)
    home, here = str(pathlib.Path.home()), str(pathlib.Path(cli.__file__).parents[2])
    assert not any(path in (tmp_path / "versions.json").read_text() for path in (home, here))


def test_config_without_plain_form_is_refused(tmp_path):
    with pytest.raises(TypeError, match="object"):
        cli.write_run_config(tmp_path, {"value": object()})


def test_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    assert cli._git_state(tmp_path) == (None, None)
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}
    for name, value in identity.items():
        monkeypatch.setenv(name, value)
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "First"]):
        (tmp_path / "file").write_text("one")
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    commit, modified = cli._git_state(tmp_path)
    assert len(commit) == 40 and modified is False
    (tmp_path / "file").write_text("two")
    assert cli._git_state(tmp_path) == (commit, True)
    (tmp_path / "inside").mkdir()  # as a package installed below somebody else's checkout
    assert cli._git_state(tmp_path / "inside") == (None, None)


def test_help_that_nobody_reads_to_its_end_ends_quietly(tmp_path):
    """As `--help | head -1` does: the reader is gone before the program has printed all."""
    program = tmp_path / "program.py"
    program.write_text(
        "from absl import flags\n"
        "from experiments.shared import cli\n"
        "[flags.DEFINE_string(f'flag{i}', None, 'word ' * 200) for i in range(200)]\n"
        "if __name__ == '__main__':\n    cli.run(lambda argv: print('x' * 1_000_000))\n"
    )
    root = pathlib.Path(cli.__file__).parents[2]
    for arguments in (["--help"], []):
        done = subprocess.Popen(
            [sys.executable, str(program), *arguments],
            env={"PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        done.stdout.read(10)
        done.stdout.close()
        assert done.stderr.read() == ""
        done.stderr.close()
        done.wait()


def test_a_file_of_a_long_job_is_tried_first(tmp_path):
    cli.check_writable("--save_world", tmp_path / "new" / "a.world")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "a.world", "/proc/nowhere/a.world"):
        with pytest.raises(UserError, match="--save_world"):
            cli.check_writable("--save_world", path)
