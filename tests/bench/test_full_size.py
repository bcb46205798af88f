"""The full-size suites: counts of the real model, and every command end to end at a size that takes seconds."""

import dataclasses
import json
import subprocess

import jax
import jax.extend.core
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import benchmark
from experiments.bench.full_size import compiled, programs, ratio, segment
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config


@pytest.fixture
def tiny(monkeypatch):
    model = segment.sized("tiny")
    narrow = dataclasses.replace(model.dit, dim=256)  # heads of 128
    monkeypatch.setitem(model_config.PRESETS, "tiny", lambda: dataclasses.replace(model, dit=narrow, text=None))
    return model


def test_counts_and_tokens_of_the_full_model():
    model = model_config.wan22_ti2v_5b()
    counts = programs.counts(model)
    assert counts["dit"] == 4_999_787_712 and counts["vae"] == 704_688_668
    assert programs.tokens(model) == 13_200


def test_flops_are_those_of_the_compiled_step():
    model = segment.sized("tiny")
    model = dataclasses.replace(model, dit=dataclasses.replace(model.dit, dim=256, ffn_dim=512, heads=2))
    step = lambda params, inputs: programs.apply_generator(model, params, inputs)  # noqa: E731
    shapes = programs.generator_shapes(model), programs.segment_inputs(model)
    jaxpr = jax.make_jaxpr(step)(*shapes)
    counted = _product_flops(jaxpr.jaxpr)
    # What is not counted: embeddings of time and text, once for 13,200 tokens.
    assert 0.9 < segment.matrix_flops(model) / counted <= 1.0


def _product_flops(jaxpr):
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
            total += 2.0 * depth * equation.outvars[0].aval.size
        length = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            total += length * _product_flops(inner)
    return total


def test_suite_full_size(tmp_path, capsys):
    with flagsaver.flagsaver(suite="full_size", scale="tiny", out=str(tmp_path)):
        benchmark.main([])
    record = json.loads((tmp_path / "full_size.json").read_text())
    steps = record["parts"][0]
    assert steps["times"] == 20 and len(steps["seconds"]) == segment.REPEATS["tiny"]
    np.testing.assert_allclose(
        steps["share_of_peak"], steps["flops"] / steps["median"] / record["peak_flops_per_second"]
    )
    total = sum(part["median"] * part["times"] for part in record["parts"])
    np.testing.assert_allclose(record["segment_seconds"], total)
    assert (tmp_path / "full_size.md").read_text() in capsys.readouterr().out


def test_suite_compile_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch):
    wanted = [
        {"program": "denoise", "mesh": {"data": 1}},
        {"program": "decode", "mesh": {"data": 1}},
        {"program": "decode", "mesh": {"data": 1}, "tile": compiled.TILE},
        {"program": "denoise", "mesh": {"data": 1}, "int8": True},
        {"program": "train", "mesh": {"data": 1}, "batch": 1},
        {"program": "decode", "mesh": {"data": 1}, "topology": "v5e:2x4"},
    ]
    model = model_config.PRESETS["tiny"]()
    done = []

    def here(spec):
        done.append(spec)
        return programs.compile_program(spec, model)

    monkeypatch.setattr(compiled, "rows", lambda: wanted)
    monkeypatch.setattr(programs, "elsewhere", here)
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda _: None)
    kept = [{"spec": spec, "fits": None, "arguments": 7, "temporaries": 1, "output": 1} for spec in wanted[:3]]
    (tmp_path / "compile.json").write_text(json.dumps({"model": "tiny", "rows": kept}))
    record = compiled.measure(tmp_path, "tiny")
    assert [row["spec"] for row in record["rows"]] == wanted[:-1]
    assert [(spec["program"], spec["model"]) for spec in done] == [("denoise", "tiny"), ("train", "tiny")]
    assert record == json.loads((tmp_path / "compile.json").read_text())
    text = compiled.markdown(record)
    assert "| denoising step | 1 | one device | virtual CPU devices | 0.00 |" in text
    int8, train = record["rows"][3:]
    weights = programs.generator_shapes(model)
    side, dit = (sum(x.size for x in jax.tree.leaves(weights[part])) for part in ("side", "dit"))
    # Side branch, its average and two moments in float32, and the DiT in bfloat16.
    assert 1 < train["arguments"] / (4 * 4 * side + 2 * dit) < 1.2
    assert int8["arguments"] < 0.6 * 4 * (side + dit)  # embeddings, which stay, are a large share of this model


def test_a_row_is_compiled_in_a_process_of_its_own():
    spec = {"program": "decode", "mesh": {"fsdp": 2}, "model": "default"}
    row = programs.elsewhere(spec)
    assert row["device"] == "cpu" and row["temporaries"] > 0, row
    assert "error" in programs.elsewhere({**spec, "mesh": {"rows": 2}})


def test_rows_of_another_model_are_not_mixed(tiny, tmp_path):
    (tmp_path / "compile.json").write_text(json.dumps({"model": "default", "rows": []}))
    with pytest.raises(UserError, match="'default'"):
        compiled.measure(tmp_path, "tiny")


def test_what_fits_is_the_sum_of_the_record():
    def row(program, arguments, temporaries, **options):
        spec = {"program": program, "mesh": {"data": 1}, "topology": "v5p:2x2x2", **options}
        return {"spec": spec, "fits": True, "arguments": arguments, "temporaries": temporaries, "output": 0}

    record = {
        "parameters": {"vae": 0.5e9, "text": 5e9},
        "rows": [
            {"spec": {"program": "denoise", "mesh": {"data": 1}}, "arguments": 99e9, "temporaries": 99e9, "output": 0},
            row("denoise", 15e9, 2e9),
            row("denoise", 8e9, 3e9, int8=True),
            row("train", 60e9, 10e9, batch=1),
            row("decode", 8e9, 11e9),
            row("decode", 2e9, 1e9, tile=compiled.TILE),
        ],
    }
    lines = compiled.fits(record)[-5:]
    needs = [float(line.split("|")[2]) for line in lines]
    assert needs == [15 + 2 + 10 + 11, 15 + 2 + 11, 15 + 2 + 2, 8 + 2 + 3, 70]
    assert lines[2].endswith("| 19.0 | yes | yes | yes | yes |")
    assert lines[4].endswith("| 70.0 | no | no | yes | yes |")


def test_suite_dit_ratio_summarises_pairs():
    summary = ratio._summary([30.0, 60.0, 45.0], [20.0, 20.0, 30.0])
    assert summary["ratio_of_medians"] == 45 / 20 and summary["ratio_of_minima"] == 1.5
    assert summary["ratio_of_pairs"][1] == 1.5


def test_suite_dit_ratio_says_how_large_the_ratio_can_become():
    found = ratio._limits([30.0, 45.0, 60.0], [20.0, 20.0, 30.0], operations=3e9, product_rate=2e8)
    assert found["least"] == 15.0 and found["largest_ratio"] == 3.0
    assert found["public_share"] == 15 / 45 and found["our_share"] == 0.75


def test_a_compilation_that_was_killed_says_so(monkeypatch):
    killed = subprocess.CompletedProcess([], -9, stdout="", stderr="a warning of the compiler")
    monkeypatch.setattr(programs.subprocess, "run", lambda *_, **__: killed)
    assert programs.elsewhere({"mesh": {}}) == {"error": "ended by signal 9"}
