"""Names of tensors in public checkpoints, by part of a model."""
