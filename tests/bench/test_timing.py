"""Times of benchmarks: in turn, and without the calls that compile."""

from experiments.bench import timing


def test_calls_are_timed_in_turn():
    calls = []
    seconds = timing.in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert "".join(calls) == "ab" * 5 and [len(values) for values in seconds.values()] == [3, 3]


def test_one_function_is_timed_alone():
    calls = []
    assert len(timing.alone(lambda: calls.append(1), 3)) == 3 and len(calls) == 5
