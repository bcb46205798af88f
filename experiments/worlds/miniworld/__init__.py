"""Rooms of the MiniWorld package with moving objects, rendered with exact depth and without a display."""
