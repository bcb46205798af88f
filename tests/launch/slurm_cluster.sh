#!/usr/bin/env bash
# A SLURM cluster on this machine: two node daemons, everything in one folder, loopback only.
#
#   tests/launch/slurm_cluster.sh install         Debian's packages, as root
#   tests/launch/slurm_cluster.sh start FOLDER    then: export SLURM_CONF=FOLDER/slurm.conf
#   tests/launch/slurm_cluster.sh stop FOLDER
#
# The nodes are called 127.0.0.2 and 127.0.0.3, names that resolve everywhere and that SLURM writes as 127.0.0.[2-3].
set -euo pipefail
verb=${1:?install, start or stop}

if [[ $verb == install ]]; then
    command -v slurmctld slurmd munged srun >/dev/null && exit 0
    [[ $(id -u) == 0 ]] || { echo "error: SLURM is not installed, and only root can install it" >&2; exit 2; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurmctld slurmd munge slurm-client >/dev/null
    exit 0
fi

folder=${2:?$verb needs a folder}
mkdir -p "$folder"
folder=$(realpath "$folder")

if [[ $verb == stop ]]; then
    export SLURM_CONF="$folder/slurm.conf"
    scancel --user="$(id -un)" 2>/dev/null || true # jobs outlive the daemons
    for ((i = 0; i < 600; i++)); do
        [[ -n $(squeue --noheader 2>/dev/null) ]] || break
        sleep 0.1
    done
    for file in "$folder"/*.pid; do
        if [[ -e $file ]]; then kill "$(<"$file")" 2>/dev/null || true; fi
    done
    for file in "$folder"/*.pid; do # daemons remove their file when they end
        for ((i = 0; i < 100; i++)); do
            { [[ -e $file ]] && kill -0 "$(<"$file")" 2>/dev/null; } || break
            sleep 0.1
        done
    done
    exit 0
fi

mkdir -p "$folder"/{state,spool}
chmod 755 "$folder"
(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"

read -r controller node1 node2 < <(python3 - <<'PORTS'
import socket

probes = [socket.socket() for _ in range(3)]
for probe in probes:
    probe.bind(("127.0.0.1", 0))
print(*(probe.getsockname()[1] for probe in probes))
PORTS
)
cat >"$folder/slurm.conf" <<CONF
ClusterName=mirage
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
# A requeued job waits until the credential of its first start has expired.
AuthInfo=socket=$folder/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=127.0.0.2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$node1 CPUs=1
NodeName=127.0.0.3 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$node2 CPUs=1
PartitionName=test Nodes=ALL Default=YES MaxTime=60 State=UP
CONF
export SLURM_CONF="$folder/slurm.conf"
slurmctld
for node in 127.0.0.2 127.0.0.3; do
    slurmd -N "$node"
done
for ((i = 0; i < 300; i++)); do
    [[ $(sinfo --noheader --format %T 2>/dev/null) == idle && $(sinfo --noheader --format %D) == 2 ]] && exit 0
    sleep 0.1
done
echo "error: the nodes did not come up" >&2
sinfo >&2
tail -n 20 "$folder"/*.log >&2
exit 1
