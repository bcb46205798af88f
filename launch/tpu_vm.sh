#!/usr/bin/env bash
# Trains on all workers of a TPU VM (or of a queued resource's node), with gcloud from your own machine.
#
#   launch/tpu_vm.sh setup NAME                                   copies the checkout to every worker, makes .venv there
#   launch/tpu_vm.sh start NAME --config C --workdir W [flags]    starts experiments.train on every worker, detached
#   launch/tpu_vm.sh logs  NAME [WORKER]                          follows the log of one worker (0)
#   launch/tpu_vm.sh stop  NAME                                   SIGTERM: the run saves and ends; waits until it has
#
#   ZONE=us-east5-a PROJECT=... launch/tpu_vm.sh start NAME ...   zone and project, if gcloud's defaults are others
#   launch/tpu_vm.sh --dry_run start NAME ...                     prints the commands, runs nothing
#
# W must be a path that all workers share, such as a bucket mounted by Cloud Storage FUSE. On every worker,
# launch/local.py starts the command again when it dies, at most RESTARTS=20 times; all go on from the last checkpoint.
# After a preemption, create the TPU again, then `setup` and `start` with the same arguments. Where a worker's image has
# neither Python 3.11 nor 3.12 (Ubuntu 22.04 has 3.10), setup fetches one with uv.
#
# JAX asks the TPU itself who is who: MIRAGE_PROCESSES=tpu says so (experiments/shared/processes.py).
set -euo pipefail

usage() {
    sed -n '2,18s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

dry_run=
[[ ${1:-} == --dry_run ]] && { dry_run=1; shift; }
(($# >= 2)) || usage
verb=$1 name=$2
shift 2

where=()
[[ -n ${ZONE:-} ]] && where+=(--zone "$ZONE")
[[ -n ${PROJECT:-} ]] && where+=(--project "$PROJECT")

run() {
    if [[ -n $dry_run ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}
on_workers() { # worker or all, command
    run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

alive="kill -0 \$(cat ~/mirage.pid 2>/dev/null) 2>/dev/null"

case $verb in
setup)
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    [[ -n $dry_run ]] && archive=CHECKOUT.tar.gz
    run tar --create --gzip --file="$archive" BUILD.md LICENSE Makefile NOTICE README.md constraints.txt experiments launch \
        mirage_jax pyproject.toml
    run gcloud compute tpus tpu-vm scp "$archive" "$name:mirage.tar.gz" "${where[@]}" --worker=all
    on_workers all "mkdir -p mirage && tar -xzf mirage.tar.gz -C mirage && cd mirage && launch/create_venv.sh .venv \
&& .venv/bin/pip install -q -c constraints.txt -e '.[data,tpu]'"
    ;;
start)
    (($# > 0)) || usage
    train=$(printf '%q ' launch/with_flags.sh .venv/bin/python -m experiments.train "$@")
    on_workers all "cd mirage || exit 2; if $alive; then echo 'already running: stop it first' >&2; exit 2; fi; \
MIRAGE_PROCESSES=tpu setsid nohup .venv/bin/python launch/local.py --restarts ${RESTARTS:-20} --pause 10 -- $train\
>>~/mirage.log 2>&1 </dev/null & echo \$! >~/mirage.pid"
    ;;
logs)
    on_workers "${1:-0}" "tail -n 100 -f ~/mirage.log"
    ;;
stop)
    on_workers all "$alive && kill -TERM \$(cat ~/mirage.pid); \
for ((i = 0; i < 300; i++)); do $alive || exit 0; sleep 1; done; echo 'still running after 300 s' >&2; exit 1"
    ;;
*)
    usage
    ;;
esac
