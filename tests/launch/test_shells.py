"""The launchers that are shell scripts: their syntax, and what tpu_vm.sh does on the workers."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), *ROOT.glob("launch/*.sbatch"), *ROOT.glob("tests/launch/*.sh")])
TPU_VM = ROOT / "launch/tpu_vm.sh"
FLAGS = ROOT / "launch/with_flags.sh"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


@pytest.mark.parametrize("script", [TPU_VM, ROOT / "launch/slurm.sbatch", FLAGS], ids=lambda path: path.name)
def test_without_arguments_the_header_is_printed_whole(script):
    header = []
    for line in script.read_text().splitlines()[1:]:
        if not line.startswith("#") or line.startswith("#SBATCH"):
            break
        header.append(line[2:])
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    done = subprocess.run([script], capture_output=True, text=True, env=variables)
    assert done.returncode == 2
    assert done.stderr.strip() == "\n".join(header).strip()


def printed(*arguments, **variables):
    """The commands of a dry run, as lists of words."""
    done = subprocess.run(
        [TPU_VM, "--dry_run", *arguments], capture_output=True, text=True, check=True, env=os.environ | variables
    )
    return [shlex.split(line) for line in done.stdout.splitlines()]


SSH = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--worker=all"]


def test_commands_of_a_dry_run():
    pack, copy, install = printed("setup", "pod", ZONE="zone", PROJECT="project")
    assert pack[:3] == ["tar", "--create", "--gzip"]
    assert all((ROOT / name).exists() for name in pack[4:])
    scp = ["gcloud", "compute", "tpus", "tpu-vm", "scp", "CHECKOUT.tar.gz", "pod:mirage.tar.gz"]
    assert copy == [*scp, "--zone", "zone", "--project", "project", "--worker=all"]
    assert install[-1] == (
        "--command=mkdir -p mirage && tar -xzf mirage.tar.gz -C mirage && cd mirage && launch/create_venv.sh .venv "
        "&& .venv/bin/pip install -q -c constraints.txt -e '.[data,tpu]'"
    )
    [start] = printed("start", "pod", "--config", "c.py", "--workdir", "/bucket/a b", RESTARTS="7")
    assert start[:-1] == SSH
    assert start[-1] == (
        "--command=cd mirage || exit 2; if kill -0 $(cat ~/mirage.pid 2>/dev/null) 2>/dev/null; "
        "then echo 'already running: stop it first' >&2; exit 2; fi; "
        "MIRAGE_PROCESSES=tpu setsid nohup .venv/bin/python launch/local.py --restarts 7 --pause 10 -- "
        "launch/with_flags.sh "
        ".venv/bin/python -m experiments.train --config c.py --workdir /bucket/a\\ b >>~/mirage.log 2>&1 </dev/null "
        "& echo $! >~/mirage.pid"
    )
    [logs] = printed("logs", "pod", "3")
    assert logs[-2:] == ["--worker=3", "--command=tail -n 100 -f ~/mirage.log"]


# Runs the command of `gcloud ... ssh` here, once for every worker, each with a home of its own.
GCLOUD = """#!/usr/bin/env bash
for word in "$@"; do
    case $word in --command=*) command=${word#--command=} ;; esac
done
for home in "$WORKERS"/*; do (cd "$home" && HOME=$home bash -c "$command") || code=$?; done
exit ${code:-0}
"""
# Stands for .venv/bin/python on a worker: the launcher is the real one, the training a shell.
PYTHON = """#!/usr/bin/env bash
if [[ $1 == launch/local.py ]]; then exec "$REAL" "$@"; fi
trap 'echo saved >>"$HOME/said"; exit 75' TERM
echo "start $MIRAGE_PROCESSES $*" >>"$HOME/said"
[[ $(wc -l <"$HOME/said") == 1 ]] && kill -9 $$
while :; do sleep 0.1; done
"""


def test_workers_start_again_when_killed_and_stop_when_told(tmp_path):
    (tmp_path / "bin").mkdir()
    fake(tmp_path / "bin/gcloud", GCLOUD)
    homes = [tmp_path / "workers" / name for name in ("0", "1")]
    for home in homes:
        (home / "mirage/.venv/bin").mkdir(parents=True)
        (home / "mirage/launch").symlink_to(ROOT / "launch")
        fake(home / "mirage/.venv/bin/python", PYTHON)
    variables = os.environ | {"WORKERS": str(tmp_path / "workers"), "REAL": sys.executable}
    variables["PATH"] = f"{tmp_path}/bin:{variables['PATH']}"

    def call(*arguments):
        return subprocess.run([TPU_VM, *arguments], env=variables, capture_output=True, text=True, timeout=600)

    try:
        assert call("start", "pod", "--workdir", "a b").returncode == 0
        wait_for(lambda: all((home / "said").exists() and said(home).count("start") == 2 for home in homes))
        again = call("start", "pod", "--workdir", "a b")
        assert again.returncode == 2 and "already running" in again.stderr
    finally:
        stopped = call("stop", "pod")
    assert stopped.returncode == 0, stopped.stderr
    for home in homes:
        assert said(home) == "start tpu -m experiments.train --workdir a b\n" * 2 + "saved\n"
        assert "stopped by SIGTERM" in (home / "mirage.log").read_text()
    assert call("stop", "pod").returncode == 0


def flagged(*command, **variables):
    """What a command prints under the flags."""
    ours = {"XLA_FLAGS", "LIBTPU_INIT_ARGS", "SLURM_JOB_NUM_NODES", "MIRAGE_PROCESS_COUNT"}
    kept = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("NCCL_")}
    return subprocess.run([FLAGS, *command], env=kept | variables, capture_output=True, text=True)


def test_flags_are_known_to_the_compiler():
    assert flagged(sys.executable, "-c", "import jax; jax.devices()", JAX_PLATFORMS="cpu").returncode == 0
    wrong = flagged(sys.executable, "-c", "import jax; jax.devices()", JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_no_such=1")
    assert wrong.returncode != 0 and "xla_no_such" in wrong.stderr


def test_own_variables_win_and_several_machines_choose_their_protocol():
    def values(**variables):
        return dict(line.split("=", 1) for line in flagged("env", **variables).stdout.splitlines() if "=" in line)

    alone, several = values(), values(MIRAGE_PROCESS_COUNT="2")
    assert alone["NCCL_PROTO"] == "SIMPLE,LL,LL128" and alone["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.92"
    assert not {"NCCL_PROTO", "NCCL_LL_BUFFSIZE", "NCCL_LL128_BUFFSIZE"} & set(several)
    own = values(XLA_FLAGS="--mine=1", LIBTPU_INIT_ARGS="--his=2", NCCL_PROTO="LL", XLA_PYTHON_CLIENT_MEM_FRACTION=".5")
    assert (
        own["XLA_FLAGS"].split()[-1] == "--mine=1"
        and "--xla_gpu_enable_latency_hiding_scheduler=true" in own["XLA_FLAGS"]
    )
    assert own["LIBTPU_INIT_ARGS"].split()[-1] == "--his=2"
    assert (own["NCCL_PROTO"], own["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == ("LL", ".5")


def submitted(tmp_path, **variables):
    """The words of srun in launch/slurm.sbatch, as a job of two nodes runs it."""
    fake(tmp_path / "srun", '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >"$WORDS"\n')
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "8", "WORDS": str(tmp_path / "words")}
    env = os.environ | job | variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / "launch/slurm.sbatch", "--config", "a b"], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    return done, (tmp_path / "words").read_text().splitlines() if done.returncode == 0 else []


def test_a_slurm_job_runs_in_the_checkouts_environment_or_in_a_container(tmp_path):
    flags = ["-m", "experiments.train", "--config", "a b"]
    _, plain = submitted(tmp_path)
    assert plain[-6:] == ["launch/with_flags.sh", ".venv/bin/python", *flags]
    assert not any(word.startswith("--container") for word in plain)
    _, inside = submitted(tmp_path, CONTAINER="registry#mirage:gpu", MOUNTS="/data:/data,/shared:/shared")
    assert inside[-6:] == ["launch/with_flags.sh", "python", *flags]
    assert set(inside[:-6]) - set(plain) == {
        "--container-image=registry#mirage:gpu",
        f"--container-mounts={tmp_path}:/mirage,/data:/data,/shared:/shared",
        "--container-workdir=/mirage",
        "--no-container-entrypoint",
    }
    refused, _ = submitted(tmp_path, MOUNTS="/data:/data")
    assert refused.returncode == 2 and "MOUNTS has no effect without CONTAINER" in refused.stderr


# A machine whose only interpreter is too old: pip brings uv, and uv an interpreter.
OLD = """#!/usr/bin/env bash
case "$*" in
    *break-system-packages*) exit 2 ;; # an option that pip of Ubuntu 22.04 does not know
    "-m pip install"*uv) [[ -z ${OFFLINE:-} ]] && mkdir -p "$HOME/.local/bin" && cp "$UV" "$HOME/.local/bin/uv" ;;
    *) exit 1 ;;
esac
"""
UV = """#!/usr/bin/env bash
echo "$@" >"$HOME/asked"
mkdir -p "${@: -1}/bin" && touch "${@: -1}/bin/python"
"""


def test_where_no_python_fits_one_is_fetched(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cp", "mkdir", "rm", "touch", "env"):
        (tools / name).symlink_to(shutil.which(name))
    fake(tools / "python3", OLD)
    fake(tmp_path / "uv", UV)
    env = {"PATH": str(tools), "HOME": str(tmp_path / "home"), "UV": str(tmp_path / "uv")}
    script = [ROOT / "launch/create_venv.sh", tmp_path / "venv"]
    failed = subprocess.run(script, env=env | {"OFFLINE": "1"}, capture_output=True, text=True)
    assert failed.returncode == 2 and "no Python 3.11 or 3.12 found, and none could be fetched" in failed.stderr
    done = subprocess.run(script, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home/asked").read_text().split() == [
        "venv",
        "--quiet",
        "--seed",
        "--python",
        "3.12",
        str(tmp_path / "venv"),
    ]
    assert (tmp_path / "venv/bin/python").exists()


def said(home):
    return (home / "said").read_text()


def fake(path, text):
    path.write_text(text)
    path.chmod(0o755)


def wait_for(condition):
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
