"""Spatial memories: values that are created, written and read."""
