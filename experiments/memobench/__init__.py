"""MemoBench (arXiv 2606.27537): a thing is seen, disappears and is seen again, and has changed or moved meanwhile."""
