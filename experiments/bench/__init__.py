"""Measurements, one file a question; `python -m experiments.benchmark` runs them."""
