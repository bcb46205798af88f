"""The runs that make a model, from nothing to one file, as data: `python -m experiments.recipes.default --out DIR`."""
