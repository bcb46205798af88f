"""Runs of all protocols over a set of clips, and the numbers made of their results."""
