"""What a run says of itself: losses and speed, operations of a step, memory, profiles."""
