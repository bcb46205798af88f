"""`train` refuses what cannot be before it loads anything."""

from commands import run


def test_numbers_that_do_not_go_together_are_refused_before_the_model_is_loaded(tmp_path):
    flags = ["--config=experiments/configs/default_generator.py", f"--workdir={tmp_path}/run"]
    flags += ["--config.init_from=none"]
    (result,) = run("train", [[*flags, "--config.steps=100", "--config.warmup_steps=100"]])
    assert result.code == 2
    assert result.err.strip() == "error: warmup_steps=100 must be at least 0 and less than steps=100"
