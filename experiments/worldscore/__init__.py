"""WorldScore (arXiv 2504.00983): its camera paths and prompts, its files."""
