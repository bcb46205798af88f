"""Suite `input` on a clock that only its steps and pipelines move: rates and ratios are known on paper."""

import pytest

from experiments.bench import input_speed
from mirage_jax.errors import UserError


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Pipeline:
    """Batches that take `seconds`, the first `ahead` of each visit none, because they were read ahead."""

    def __init__(self, clock, seconds, ahead):
        self.clock, self.seconds, self.ahead, self.left, self.closed = clock, seconds, ahead, ahead, False

    def __next__(self):
        if self.left:
            self.left -= 1
        else:
            self.clock.now += self.seconds
        return {}

    def close(self):
        self.closed = True


@pytest.fixture
def measured(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(input_speed, "time", clock)
    monkeypatch.setattr(input_speed, "_require", lambda *_: None)
    stages = []

    def prepared(config):
        pipelines = {workers: Pipeline(clock, config.seconds / (1 + workers), ahead=20) for workers in (0, 2)}

        def run(_batch):
            clock.now += 4.0
            for pipeline in pipelines.values():  # it reads on meanwhile
                pipeline.left = pipeline.ahead

        stages.append(input_speed._Stage(config.name, 8, run, lambda batch: batch, pipelines))
        return stages[-1]

    class Config:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

    configs = {"default_generator": Config("generator", 0.5), "default_vae": Config("vae", 2.0)}
    monkeypatch.setattr(input_speed, "_prepared", prepared)
    record = input_speed.measure(configs.get, "clips", "latents")
    assert configs["default_generator"].data == "latents" and configs["default_vae"].data == "clips"
    return record, stages


def test_rates_and_ratios(measured):
    record, stages = measured
    rows = {(row["stage"], row["workers"]): row for row in record["rows"]}
    for key, delivered in {("generator", 0): 16, ("generator", 2): 48, ("vae", 0): 4, ("vae", 2): 12}.items():
        row = rows[key]
        assert row["consumed"]["median"] == pytest.approx(2)
        # Nothing of what was read ahead counts.
        assert row["delivered"]["low"] == pytest.approx(delivered) == row["delivered"]["high"]
        assert row["ratio"] == pytest.approx(delivered / 2)
        assert row["waiting_share"] == 0  # each batch was read during the step before
    assert all(pipeline.closed for stage in stages for pipeline in stage.pipelines.values())
    table = input_speed.markdown(record)
    assert "| generator, 8 coded clips | 2 | 48.0 [48.0, 48.0] | 2.0 [2.0, 2.0] | 24.0 | 0.0 % |" in table


def test_a_wait_is_seen(measured):
    _, stages = measured
    stage = stages[1]
    stage.waits.clear()
    stage.step_seconds.clear()
    for pipeline in stage.pipelines.values():
        pipeline.ahead = pipeline.left = 0
    input_speed._train(stage, 0)
    assert input_speed._row(stage, 0)["waiting_share"] == pytest.approx(2 / 6)


def test_without_data_one_sentence_says_how_to_make_it(tmp_path):
    with pytest.raises(
        UserError, match=r"--dataset doom --out .*doom` and .*--dataset latents .* --clips and --latents"
    ):
        input_speed.measure(lambda name: None, str(tmp_path / "doom"), str(tmp_path / "latents"))
