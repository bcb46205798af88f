"""What several commands share: flags and errors, what a person brings, loading, results."""
