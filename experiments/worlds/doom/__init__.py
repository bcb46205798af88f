"""Freedoom through ViZDoom: maps, exact depth, camera paths, rendering."""
