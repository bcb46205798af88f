"""Command-line entry points: each `python -m experiments.NAME --help` explains its flags."""
