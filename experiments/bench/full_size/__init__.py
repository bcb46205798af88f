"""The full-size model: what it takes on the device at hand, and what its programs, compiled only, need on others."""
