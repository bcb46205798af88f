"""Public checkpoints to model folders and back: fetched, recognised, converted in groups of tensors, verified."""
