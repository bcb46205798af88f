"""The full-size suites: counts of the real model, and every command end to end at a size that takes seconds."""

import collections
import dataclasses
import importlib.util
import json
import math
import subprocess

import jax
import jax.extend.core
import numpy as np
import pytest
from absl.testing import flagsaver

from experiments import benchmark
from experiments.bench.full_size import compiled, programs, ratio, segment, train_scale
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
    def at(spec):
        return {**spec, "mesh": {"data": 1}, "topology": "v5p:2x2x1"}

    wanted = [
        at({"program": "denoise"}),
        at({"program": "denoise", "int8": True}),
        at({"program": "decode"}),
        at({"program": "decode", "tile": compiled.TILE}),
        at({"program": "train", "batch": 1}),
    ]
    model = model_config.PRESETS["tiny"]()
    done = []

    def here(spec):
        done.append(spec)
        return programs.compile_program({name: spec[name] for name in spec if name != "topology"}, model)

    monkeypatch.setattr(compiled, "rows", lambda: wanted)
    monkeypatch.setattr(programs, "elsewhere", here)
    kept = [{"spec": spec, "fits": True, "arguments": 7, "temporaries": 1, "output": 1} for spec in wanted[2:4]]
    (tmp_path / "compile.json").write_text(json.dumps({"model": "tiny", "rows": kept}))
    record = compiled.measure(tmp_path, most=0, model="tiny")
    assert [row["spec"] for row in record["rows"]] == wanted[2:4] and not done
    assert "| train step | 1 | one device | v5p:2x2x1 | 0.0" in (text := compiled.markdown(record))
    assert text.count("| not compiled |") == 3
    record = compiled.measure(tmp_path, model="tiny")
    assert [row["spec"] for row in record["rows"]] == [*wanted[2:4], *wanted[:2], wanted[4]]
    assert [spec["program"] for spec in done] == ["denoise", "denoise", "train"]
    assert record == json.loads((tmp_path / "compile.json").read_text())
    text = compiled.markdown(record)
    assert "| denoising step | 1 | one device | v5p:2x2x1 | 0.01 |" in text and "| generate, as it comes |" in text
    _, int8, train = record["rows"][2:]
    weights = programs.generator_shapes(model)
    side, dit = (sum(x.size for x in jax.tree.leaves(weights[part])) for part in ("side", "dit"))
    for row in (*record["rows"][2:4], train):  # what shapes say is what the compiler says
        assert 0.99 < programs.held(row["spec"], model) / row["arguments"] < 1.01
    # Side branch, its average and two moments in float32, and the DiT in bfloat16.
    assert 1 < train["arguments"] / (4 * 4 * side + 2 * dit) < 1.2
    assert int8["arguments"] < 0.6 * 4 * (side + dit)  # embeddings, which stay, are a large share of this model


def test_rows_are_of_meshes_and_topologies_that_fit_each_other():
    for spec in (*compiled.rows(), *train_scale.rows()):
        sides = [int(side) for side in spec["topology"].split(":")[1].split("x")]
        devices = math.prod(spec["mesh"].values())
        assert devices in (1, math.prod(sides)), spec
        if "batch" in spec:
            parts = math.prod(spec["mesh"].get(axis, 1) for axis in ("data", "fsdp"))
            assert spec["batch"] == parts * spec.get("accumulate", 1)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the compiler of TPUs, is not installed")
@pytest.mark.parametrize(
    ("program", "topology", "mesh"),
    [
        ("denoise", "v6e:2x2", {"fsdp": 4}),
        ("denoise", "v5p:2x2x1", {"fsdp": 2, "tensor": 2}),
        ("decode", "v6e:1x1", {"data": 1}),
        ("train", "v5p:2x2x1", {"fsdp": 2, "tensor": 2}),
    ],
)
def test_programs_compile_for_a_tpu_that_is_not_there(program, topology, mesh):
    found = programs.elsewhere({"program": program, "mesh": mesh, "topology": topology, "batch": 2, "model": "default"})
    assert found.get("fits") and found["device"].startswith("TPU v") and found["temporaries"] > 0, found


def test_what_no_chip_holds_is_not_compiled(monkeypatch, tiny):
    device = jax.devices()[0].device_kind
    monkeypatch.setitem(programs.MEMORY, device, 1e3)
    found = programs.compile_program({"program": "train", "mesh": {"data": 1}, "batch": 1}, tiny)
    assert found == {"fits": False, "compiler": "arguments alone are 0.0 GB of 0"}


def test_without_the_compiler_of_tpus_rows_of_tpus_say_so(monkeypatch):
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="needs the package libtpu"):
        programs.devices(1, "v6e:1x1")


def test_exchanges_of_all_blocks_lie_on_the_line_through_few(tmp_path):
    def row(devices, layers):
        mesh, parts = train_scale.MESHES[devices]
        sent = {"kind": "all-gather", "group": 8, "between_nodes": False, "times": 10 * layers, "bytes": 1e9 * layers}
        spec = {"mesh": mesh, "layers": layers, "accumulate": parts}
        return {"spec": spec, "arguments": 1e9 + layers, "flops": 1e15 * layers, "traffic": [sent]}

    rows = [row(32, 2), row(32, 4), row(256, 2)]
    record = {"model": "m", "layers": 30, "jax": "0", "rows": rows}
    whole = train_scale.whole(record, 32)
    assert whole["traffic"][0]["bytes"] == 30e9 and whole["flops"] == 30e15 and train_scale.whole(record, 256) is None
    text = train_scale.markdown(record)
    assert "| 32 | all-gather | 8 | within a node | 300 | 30.000 |" in text and "against 32 devices" in text
    assert "Not compiled yet: 8 devices." in text and "Not compiled yet: 256 devices." in text


def test_a_row_is_compiled_in_a_process_of_its_own():
    spec = {"program": "decode", "mesh": {"fsdp": 2}, "model": "default"}
    row = programs.elsewhere(spec)
    assert row["device"] == "cpu" and row["temporaries"] > 0, row
    assert "error" in programs.elsewhere({**spec, "mesh": {"rows": 2}})


def test_rows_of_another_model_are_not_mixed(tiny, tmp_path):
    (tmp_path / "compile.json").write_text(json.dumps({"model": "default", "rows": []}))
    with pytest.raises(UserError, match="'default'"):
        compiled.measure(tmp_path, model="tiny")


def test_what_fits_is_the_sum_of_the_record():
    def row(program, arguments, temporaries, **options):
        spec = {"program": program, "mesh": {"data": 1}, "topology": "v5p:2x2x1", **options}
        return {"spec": spec, "fits": True, "arguments": arguments, "temporaries": temporaries, "output": 0}

    record = {
        "parameters": {"vae": 0.5e9},
        "rows": [
            row("denoise", 15e9, 2e9),
            row("denoise", 8e9, 3e9, int8=True),
            row("train", 50e9, 12e9, batch=1),
            row("train", 6e9, 12e9, batch=8, mesh={"fsdp": 8}),
            row("decode", 3e9, 11e9),
            row("decode", 2e9, 1e9, tile=compiled.TILE),
            row("decode", 9e9, 99e9, topology="v6e:1x1"),
        ],
    }
    lines = compiled.fits(record)[-5:]
    needs = [float(line.split("|")[2]) for line in lines]
    assert needs == [15 + 2 + 11, 15 + 2 + 2, 8 + 2 + 3, 62, 18]
    assert lines[1].endswith("| 19.0 | no | yes | yes | yes | yes | yes | yes | yes |")
    assert lines[3].endswith("| 62.0 | no | no | no | no | no | yes | yes | yes |")
    record["rows"] = [row for row in record["rows"] if row["spec"]["program"] != "decode"]
    assert [line.split("|")[1].strip() for line in compiled.fits(record)[-2:]] == [
        "train step of the side branch, batch 1",
        "... on 8, `fsdp` 8, batch 8",
    ]
    assert compiled.fits(record | {"rows": record["rows"][:1]}) == []
    text = compiled.markdown(
        record
        | {"tokens": 1, "model": "m", "jax": "0", "parameters": {"vae": 0}}
        | {"held": collections.defaultdict(int)}
    )
    assert "| train step | 256 | data 8 x sequence 4 x fsdp 8 | v6e:16x16 | 0.00 |  |  | not compiled |" in text


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
