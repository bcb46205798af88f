"""Parity tests need the public implementations (extra `parity`); without them there is nothing to collect."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
