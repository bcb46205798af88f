"""Parity tests need the public implementations (extra `parity`); without them there is nothing to collect."""

import importlib.util

import pytest
import record

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def rows_of_this_test(record_property):
    """Hands the rows of each test to its report."""
    record.rows.clear()
    yield
    for row in record.rows:
        record_property("parity", row)
