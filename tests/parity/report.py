"""Runs the parity tests and writes what they measured: `python tests/parity/report.py [pytest flags]`.

Writes `out/parity/parity.json`, a list of `{what, oracle, error, bound, ok}`, `out/parity/bf16.json` likewise, and the
tables of `docs/parity.md`. A test that fails without a row gets one. Exits as pytest does.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "parity"
DOCS = ROOT / "docs" / "parity.md"
VERSIONS = ("jax", "flax", "torch", "diffusers", "transformers")


class Collector:
    """A pytest plugin that gathers rows; with xdist it runs in the process that sees all reports."""

    def __init__(self):
        self.rows: dict[str, dict[tuple[str, str], dict]] = {"fp32": {}, "bf16": {}}

    def pytest_runtest_logreport(self, report):
        """Takes the rows of a finished test, and makes one of a failure that left none."""
        if report.when == "teardown":
            for name, row in report.user_properties:
                if name == "parity":
                    self.add(row)
        if report.failed:
            self.add(failure(report.nodeid))

    def pytest_collectreport(self, report):
        """A file that cannot be imported is a failure too."""
        if report.failed:
            self.add(failure(report.nodeid))

    def add(self, row: dict) -> None:
        """Keeps one row a comparison, the worst."""
        row = dict(row)
        section = self.rows[row.pop("section")]
        key = row["what"], row["oracle"]
        if key not in section or _badness(row) > _badness(section[key]):
            section[key] = row

    def table(self, section: str) -> list[dict]:
        """The rows of a section, sorted."""
        return [row for _, row in sorted(self.rows[section].items())]


def failure(test: str) -> dict:
    """The row of a test that failed, whatever else it recorded."""
    return {"what": test, "oracle": "pytest", "error": None, "bound": 0.0, "ok": False, "section": "fp32"}


def _badness(row: dict) -> float:
    return float("inf") if row["error"] is None else row["error"] - row["bound"]


def markdown(rows: list[dict]) -> str:
    """The rows as a table."""
    lines = ["| what | oracle | error | bound | ok |", "|---|---|---|---|---|"]
    for row in rows:
        error = "not finite" if row["error"] is None else f"{row['error']:.1e}"
        cells = escaped(row["what"]), escaped(row["oracle"]), error, f"{row['bound']:.0e}", "yes" if row["ok"] else "NO"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|")


def fill(document: pathlib.Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->` of a document."""
    before, opening, rest = document.read_text().partition(f"<!-- {name} -->\n")
    _, closing, after = rest.partition(f"<!-- /{name} -->")
    if not (opening and closing):
        raise ValueError(f"{document}: no section {name}")
    document.write_text(f"{before}{opening}{text}\n{closing}{after}")


def versions() -> str:
    """What ran, in one line."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    return f"Python {platform.python_version()}, {packages}, {platform.machine()} CPU."


def main() -> int:
    """Runs pytest, writes the report."""
    os.chdir(ROOT)
    os.environ["HF_HUB_OFFLINE"] = "1"
    collector = Collector()
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.json"):
        old.unlink()
    status = int(pytest.main(["tests/parity", *sys.argv[1:]], plugins=[collector]))
    for section, file in (("fp32", "parity.json"), ("bf16", "bf16.json")):
        (OUT / file).write_text(json.dumps(collector.table(section), indent=1) + "\n")
        fill(DOCS, section, markdown(collector.table(section)))
    fill(DOCS, "versions", versions())
    rows = collector.table("fp32") + collector.table("bf16")
    bad = [row["what"] for row in rows if not row["ok"]]
    print("\n  ".join([f"{len(rows)} comparisons, {len(bad)} beyond their bound", *bad]))
    print(f"{OUT / 'parity.json'}")
    return status or int(bool(bad) or not rows)


if __name__ == "__main__":
    sys.exit(main())
