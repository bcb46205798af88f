"""Flow matching: schedule, noising and loss (`flow`), samplers (`samplers`)."""
