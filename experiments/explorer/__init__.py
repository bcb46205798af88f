"""The explorer: a generated world that one walks in, in a browser (`python -m experiments.explore`)."""
