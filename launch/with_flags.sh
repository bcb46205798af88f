#!/usr/bin/env bash
# Runs a command with the flags of XLA, libtpu and NCCL that the launchers here use: launch/with_flags.sh COMMAND ...
#
# GPUs: collectives overlap with what is computed, in loops too (the blocks of the model are one loop); JAX takes 92 % of
# a GPU's memory in place of 75; on one machine NCCL may use its fast protocols (JAX's page of GPU performance tips).
# TPUs: all-gathers and what surrounds them are fused and run beside each other (as MaxText sets it).
# A variable that is set already wins; flags in XLA_FLAGS and LIBTPU_INIT_ARGS are read after these, so that they win too.
set -euo pipefail
if (($# == 0)); then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi

# All are set wherever this runs: what is meant for the other kind of device is not read there.
gpu=(
    --xla_gpu_enable_latency_hiding_scheduler=true
    --xla_gpu_enable_pipelined_all_gather=true
    --xla_gpu_enable_pipelined_reduce_scatter=true
    --xla_gpu_enable_pipelined_all_reduce=true
    --xla_gpu_enable_while_loop_double_buffering=true
)
tpu=(
    --xla_enable_async_all_gather=true
    --xla_tpu_enable_async_collective_fusion=true
    --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
    --xla_tpu_enable_async_collective_fusion_multiple_steps=true
    --xla_tpu_overlap_compute_collective_tc=true
)
export XLA_FLAGS="${gpu[*]} ${XLA_FLAGS:-}"
export LIBTPU_INIT_ARGS="${tpu[*]} ${LIBTPU_INIT_ARGS:-}"
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
if ((${SLURM_JOB_NUM_NODES:-${MIRAGE_PROCESS_COUNT:-1}} == 1)); then
    export NCCL_LL128_BUFFSIZE=${NCCL_LL128_BUFFSIZE:--2} NCCL_LL_BUFFSIZE=${NCCL_LL_BUFFSIZE:--2}
    export NCCL_PROTO=${NCCL_PROTO:-SIMPLE,LL,LL128}
fi
exec "$@"
