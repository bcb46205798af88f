"""Measures one thing: `python -m experiments.benchmark --suite NAME --out DIR`.

Writes `NAME.json` (every figure), `NAME.md` (the table), and what ran beside them. A suite is a
module with `measure() -> dict` and `markdown(record) -> str`; it is added by a line below. Its OPTIONS name the flags
that `measure` takes as arguments.
"""

from __future__ import annotations

import importlib

from absl import flags

from experiments import cli
from mirage_jax.io import write_json, write_text

SUITES = {
    "memory": "mirage_jax.evaluation.memory_speed",
    "memory_quality": "mirage_jax.evaluation.memory_quality",
    "compile": "mirage_jax.evaluation.full_size_compile",
    "dit_ratio": "mirage_jax.evaluation.full_size_ratio",
    "full_size": "mirage_jax.evaluation.full_size",
}

_SUITE = flags.DEFINE_enum("suite", None, sorted(SUITES), "What to measure.")
_OUT = flags.DEFINE_string("out", None, "Folder for the results; suite compile goes on from what is there.")
_SCALE = flags.DEFINE_enum("scale", "full", ["full", "tiny"], "For suite full_size: the 5B model, or one for a CPU.")


def main(_) -> None:
    """Measures, writes and prints."""
    out = cli.prepare_output(_OUT.value)
    name = _SUITE.value
    suite = importlib.import_module(SUITES[name])
    options = {"out": out, "scale": _SCALE.value}
    record = suite.measure(**{option: options[option] for option in getattr(suite, "OPTIONS", ())})
    table = suite.markdown(record)
    cli.write_run_config(out, cli.flag_values())
    write_json(out / f"{name}.json", record)
    write_text(out / f"{name}.md", table)
    print(table)


if __name__ == "__main__":
    flags.mark_flags_as_required(["suite", "out"])
    cli.run(main)
