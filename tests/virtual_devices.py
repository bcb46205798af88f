"""Several devices made of one CPU, for programs that tests start."""

import os


def flags(count: int) -> str:
    """`XLA_FLAGS` for so many devices, with those that are set already.

    XLA aborts a program of which one device comes 40 seconds late to a collective. On a busy machine that is no
    deadlock, so here it is an hour.
    """
    late = "--xla_cpu_collective_call_{}_timeout_seconds=3600"
    own = f"--xla_force_host_platform_device_count={count} {late.format('warn_stuck')} {late.format('terminate')}"
    return f"{os.environ.get('XLA_FLAGS', '')} {own}".strip()
