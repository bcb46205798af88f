"""What every test shares: the CPU, a compilation cache, parsed flags, hypothesis without deadlines."""

import os
import pathlib

_ROOT = pathlib.Path(__file__).resolve().parent.parent

# Set before jax is imported, and as environment variables, so that commands which tests start inherit them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Most of the time of the tests goes into compiling programs that run once: a good part is saved without optimisation.
# What an optimiser could change, the last bits of a result, is tested with it: end of `make test`, and `make parity`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The new fusion emitters compile slowly also when they optimise nothing. (Workers inherit what is set here.)
_SLOW = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
_FLAGS = os.environ.setdefault("XLA_FLAGS", "")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and _SLOW not in _FLAGS:
    os.environ["XLA_FLAGS"] = f"{_FLAGS} {_SLOW}"

import gc  # noqa: E402

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

# Grain's workers read absl flags, which only an absl entry point parses.
flags.FLAGS.mark_as_parsed()

# A first call compiles, and the machine may be busy, so the time of an example, or of drawing it, says nothing. CI
# draws the same examples every time.
hypothesis.settings.register_profile(
    "mirage",
    hypothesis.settings(
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        max_examples=20,
        derandomize="CI" in os.environ,
    ),
)
hypothesis.settings.load_profile("mirage")


@pytest.fixture(autouse=True, scope="module")
def _few_compiled_programs():
    """Drops compiled programs between files once there are many.

    Each holds about 17 memory mappings. A process may have 65,530 (Linux), and the compiler ends in a segmentation
    fault when it gets no more.
    """
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()
