"""What a memory remembers and costs over time, without a generator and with one."""
