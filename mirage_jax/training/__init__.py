"""Losses, stages, optimizer, sharding rules, checkpoints and the loop."""
