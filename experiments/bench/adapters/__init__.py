"""What the adapters to public benchmarks share: each of them only describes a layout.

A benchmark has a list of samples, made one after the other by `command.run`. What is finished stays finished wherever a
run is stopped, and a sample that cannot be made costs that sample only.
"""
