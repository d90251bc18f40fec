"""trtlab bench: the load, the shapes, and what it prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab.cli import tensors, terminal

Trtlab = Callable[..., Any]  # as `run` in conftest.py gives it

SHORT = ["--duration", "0.05", "--warmup", "0.01"]

# x of any shape times y of 3 x 4: where x has one column, as is taken if nobody says otherwise, the engine refuses.
PRODUCT = """<?xml version="1.0"?><net name="product" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="?,?" element_type="f32"/>
<output><port id="0" precision="FP32" names="x"><dim>-1</dim><dim>-1</dim></port></output></layer>
<layer id="1" name="y" type="Parameter" version="opset1"><data shape="3,4" element_type="f32"/>
<output><port id="0" precision="FP32" names="y"><dim>3</dim><dim>4</dim></port></output></layer>
<layer id="2" name="z" type="MatMul" version="opset1"><data transpose_a="false" transpose_b="false"/>
<input><port id="0"><dim>-1</dim><dim>-1</dim></port><port id="1"><dim>3</dim><dim>4</dim></port></input>
<output><port id="2" precision="FP32" names="z"><dim>-1</dim><dim>4</dim></port></output></layer>
<layer id="3" name="r" type="Result" version="opset1"><input><port id="0"><dim>-1</dim><dim>4</dim></port></input>
</layer></layers><edges>
<edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
<edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>
<edge from-layer="2" from-port="2" to-layer="3" to-port="0"/></edges></net>"""


def test_bench_sweeps_concurrency(run: Trtlab, double: Path) -> None:
    found = run("bench", double, "--concurrency", "1,2,8", *SHORT, "--batch", 3, "--json").json
    assert [each["concurrency"] for each in found["runs"]] == [1, 2, 8]
    assert found["model"]["inputs"] == {"x": [3, 4]}
    assert found["environment"]["trtlab"]["version"] == trtlab.__version__
    for each in found["runs"]:
        assert each["requests"] == each["latency"]["count"] > 0
        assert each["failures"] == each["unfinished"] == 0
        assert each["inferences_per_second"] == pytest.approx(3 * each["requests_per_second"])
        latency = each["latency"]
        figures = [latency[f"{name}_us"] for name in ("min", "p50", "p90", "p99", "p99_9", "max")]
        assert figures == sorted(figures)
        assert set(each["breakdown_us"]) == {"queue", "input", "execute", "output", "other"}
        assert sum(each["breakdown_us"].values()) == pytest.approx(latency["mean_us"], rel=0.5)


def test_bench_makes_an_open_loop_of_a_rate(run: Trtlab, double: Path) -> None:
    arguments = ["--rate", "200,400.5", "--arrivals", "constant", "--duration", "0.1", "--warmup", 0, "--json"]
    found = run("bench", double, *arguments).json
    assert [(each["load"], each["rate"]) for each in found["runs"]] == [("constant", 200.0), ("constant", 400.5)]
    assert [each["requests"] for each in found["runs"]] == [20, 41]
    assert all(each["issue_delay"]["count"] == each["requests"] for each in found["runs"])


def test_bench_prints_tables_and_nothing_else_off_a_terminal(run: Trtlab, double: Path) -> None:
    said = run("bench", double, "--executions", 1, *SHORT)
    assert said.status == 0
    for word in (
        "x 1x4; 1 executions",
        "1 outstanding",
        "2 outstanding",
        "p99.9",
        "requests/s",
        "execute",
        "CPUs busy",
    ):
        assert word in said.out
    assert said.err == ""
    assert max(map(len, said.out.splitlines())) < 200


def test_bench_takes_shapes_and_says_which_it_guessed(run: Trtlab, saved: Callable[..., Path]) -> None:
    model = saved(("a", "f32", ("?", "?", "4..8")), ("b", "i64", ("?", 2)))
    said = run("bench", model, "--concurrency", 1, *SHORT)
    assert said.status == 0
    assert "a 1x1x4, b 1x2" in said.out
    assert "input 'a' leaves axis 0 (?), 1 (?), 2 (4..8) open; taken is 1x1x4" in said.err
    assert "'b'" not in said.err
    for shape in ("a=2x3x5", "a=2,3,5"):
        said = run("bench", model, "--concurrency", 1, *SHORT, "--shape", shape)
        assert "a 2x3x5, b 1x2" in said.out
        assert said.err == ""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--shape", "b=1x2"], "--shape 'b=1x2'"),
        (["--shape", "ax3"], "--shape 'ax3'"),
        (["--shape", "x=1xtwo"], "1xtwo"),
        (["--shape", "x=-1x4"], "at least 0"),
        (["--shape", "x=1x5"], "5"),
        (["--shape", "x=4"], "rank"),
        (["--shape", "x=1000000000000x4"], "elements"),
        (["--input", "x=gone.npy"], "gone.npy"),
        (["--concurrency", "100000000"], "concurrency"),
        (["--rate", "1e30"], "rate"),
    ],
)
def test_bench_refuses_what_makes_no_sense(run: Trtlab, double: Path, arguments: list[str], word: str) -> None:
    said = run("bench", double, *SHORT, *arguments)
    assert said.status == 2
    assert said.err.startswith("trtlab: ")
    assert word in said.err


def test_bench_refuses_inputs_that_no_memory_holds_by_name(
    run: Trtlab, double: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "memory", lambda: {"available_bytes": 8 * 4 * 1000})
    assert run("bench", double, *SHORT, "--concurrency", 1, "--shape", "x=1000x4").status == 0
    said = run("bench", double, *SHORT, "--shape", "x=1001x4")
    assert said.status == 2
    for word in ("input 'x': 1001x4", "31.3 KiB are needed", "31.2 KiB are available", "--shape"):
        assert word in said.err

    def refuse(*arguments: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(tensors, "_drawn", refuse)
    said = run("bench", double, *SHORT, "--shape", "x=1000x4")
    assert said.status == 2
    assert "input 'x': 1000x4 does not fit into memory; choose a smaller one with --shape (no room)" in said.err


def test_bench_blames_its_guess_when_the_model_refuses_it(run: Trtlab, tmp_path: Path) -> None:
    model = tmp_path / "product.xml"
    model.write_text(PRODUCT)
    said = run("bench", model, *SHORT)
    assert said.status == 2
    assert said.err.startswith(
        "trtlab: input 'x' leaves axis 0 (?), 1 (?) open; taken is 1x1, --shape x=... says otherwise. With that: model"
    )
    assert run("bench", model, *SHORT, "--shape", "x=1x3").status == 0


def test_bench_takes_real_inputs(run: Trtlab, double: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 4), np.float32))
    found = run("bench", double, "--concurrency", 1, *SHORT, "--input", tmp_path / "x.npy", "--json").json
    assert found["model"]["inputs"] == {"x": [5, 4]}
    assert found["runs"][0]["batch"] == 5


@pytest.mark.parametrize("name", ["cls", "minilm", "magika"])
def test_bench_runs_real_models_on_random_inputs(run: Trtlab, model_file: Callable[[str], Path], name: str) -> None:
    shapes = {"cls": ["--shape", "x=1x3x48x192"], "minilm": ["--batch", "2"], "magika": []}[name]
    found = run("bench", model_file(name), "--concurrency", 2, *SHORT, *shapes, "--json").json
    assert found["runs"][0]["failures"] == 0
    assert found["runs"][0]["requests"] > 0


@pytest.mark.parametrize(
    ("time_us", "text"),
    [(0, "0.00 us"), (9.994, "9.99 us"), (12.34, "12.3 us"), (999, "999 us"), (1000, "1.00 ms"), (2e6, "2.00 s")],
)
def test_times_have_three_digits(time_us: float, text: str) -> None:
    assert terminal.time(time_us) == text
