"""WRBench (arXiv 2606.20545): the camera looks away and comes back, and the world has gone on meanwhile."""
