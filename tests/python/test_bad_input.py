"""Wrong use: a typed error that says what was expected, what came and what to do; then everything works as before."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtlab
from trtlab import FunctionModel, InferBench, InferenceManager, Pool, TensorSpec, ThreadPool, errors

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


def function(answer: Callable[..., Any], **options: Any) -> FunctionModel:
    return FunctionModel(
        answer,
        inputs=[TensorSpec("x", "float32", (None, 4))],
        outputs=[TensorSpec("y", "float32", (None, 4))],
        **{"name": "fn", **options},
    )


@dataclass
class World:
    """What the actions use, and must leave as it was."""

    folder: Path
    ir: bytes
    onnx: bytes
    manager: InferenceManager = field(default_factory=lambda: InferenceManager(max_executions=1))

    def __post_init__(self) -> None:
        self.double = self.manager.load("double", self.ir)
        self.pair = self.manager.register(
            "pair",
            FunctionModel(
                lambda x, n: {"y": x.numpy() + n.numpy()},
                inputs=[TensorSpec("x", "float32", (None, (2, 4))), TensorSpec("n", "float32", ())],
                outputs=[TensorSpec("y", "float32", (None, None))],
                name="pair",
            ),
        )
        self.bytes_in = self.echo("bytes_in", "uint8", (None,))
        self.text = self.echo("text", "bytes", (None,))
        self.big = self.manager.load("big", self.ir.replace(b"f32", b"i64").replace(b"FP32", b"I64"))

    def echo(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> trtlab.Model:
        model = FunctionModel(
            lambda x: {"y": x},
            inputs=[TensorSpec("x", dtype, shape)],
            outputs=[TensorSpec("y", dtype, shape)],
            name=name,
        )
        return self.manager.register(name, model)

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def still_answers(self) -> None:
        np.testing.assert_array_equal(self.double.infer(x=ROWS).result(60)["y"], 2 * ROWS)
        np.testing.assert_array_equal(self.pair.infer(x=ROWS, n=1).result(60)["y"], ROWS + 1)
        assert self.text.infer(x=[b"ab"]).result(60)["y"].tolist() == [b"ab"]
        assert self.manager.names == ["big", "bytes_in", "double", "pair", "text"]


@pytest.fixture
def world(tmp_path: Path, double_ir: bytes, model_file: Callable[[str], Path]) -> Iterator[World]:
    folder = tmp_path / "bad input"
    folder.mkdir()
    world = World(folder, double_ir, model_file("cls").read_bytes())
    with world.manager:
        yield world


@dataclass
class Case:
    """An action, the error that it must raise, the built-in that catches it too, and what its message must say."""

    name: str
    action: Callable[[World], object]
    error: type[Exception]
    builtin: type[Exception]
    says: tuple[str, ...]


class OnAnotherDevice:
    """An array in the memory of a CUDA device, as DLPack tells before it exports anything."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **options: object) -> object:
        raise AssertionError("asked for memory that it cannot give to the host")


class WithoutExport:
    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __dlpack__(self, **options: object) -> object:
        raise RuntimeError("no")


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"model.onnx"


def full_queue(queue_timeout_s: float) -> None:
    gate = threading.Event()
    model = function(
        lambda x: {"y": x} if gate.wait(60) else None,
        name="full",
        max_queue=0,
        queue_timeout_s=queue_timeout_s,
    )
    with model:
        first = model.infer(x=ROWS)
        try:
            model.infer(x=ROWS)
        finally:
            gate.set()
            np.testing.assert_array_equal(first.result(60)["y"], ROWS)


def cancelled() -> None:
    gate = threading.Event()
    with function(lambda x: {"y": x} if gate.wait(60) else None) as model:
        running, queued = model.infer(x=ROWS), model.infer(x=ROWS)
        assert queued.cancel()
        gate.set()
        running.result(60)
        queued.result(60)


def not_yet() -> None:
    gate = threading.Event()
    with function(lambda x: {"y": x} if gate.wait(60) else None) as model:
        future = model.infer(x=ROWS)
        try:
            future.result(0.001)
        finally:
            gate.set()
            np.testing.assert_array_equal(future.result(60)["y"], ROWS)


def settled(future: trtlab.Future) -> trtlab.Future:
    future.result(60)
    return future


def closed_model() -> None:
    model = function(lambda x: {"y": x})
    model.close()
    model.infer(x=ROWS)


def closed_manager(use: Callable[[InferenceManager], object]) -> None:
    manager = InferenceManager(max_executions=1)
    manager.close()
    use(manager)


def released_lease() -> None:
    lease = Pool(["item"]).acquire()
    lease.release()
    lease.item  # noqa: B018


def busy_pool(timeout: float) -> None:
    pool = Pool(["item"])
    with pool.acquire():
        pool.acquire(timeout)


def closed_pool() -> None:
    pool = Pool(["item"])
    pool.close()
    pool.acquire()


def closed_threads() -> None:
    threads = ThreadPool(1)
    threads.close()
    threads.submit(print)


def answer_of(function_: Callable[..., Any], outputs: int = 1) -> None:
    model = FunctionModel(
        function_,
        inputs=[TensorSpec("x", "float32", (None, 4))],
        outputs=[TensorSpec(name, "float32", (None, 4)) for name in ("y", "z")[:outputs]],
        name="fn",
    )
    with model:
        model.infer(x=ROWS).result(60)


def released(content: bytes) -> memoryview:
    view = memoryview(content)
    view.release()
    return view


def bench(world: World, **options: Any) -> None:
    InferBench(world.double, {"x": ROWS}).run(**options)


def rank_nine() -> np.ndarray[Any, Any]:
    return np.zeros((1,) * 9, np.float32)


INPUT_X = "model 'double', input 'x': expected float32[?, 4], got "
PAIR_X = "model 'pair', input 'x': expected float32[?, 2..4], got "
FN_Y = "model 'fn', output 'y': expected float32[?, 4], got "

CASES = [
    # What a request is given.
    Case("no input at all", lambda w: w.double.infer(), errors.InvalidArgument, ValueError,
         ("model 'double'", "missing input 'x'", "float32[?, 4]")),
    Case("one input missing", lambda w: w.pair.infer(x=ROWS), errors.InvalidArgument, ValueError,
         ("model 'pair'", "missing input 'n'", "float32[]")),
    Case("both inputs missing", lambda w: w.pair.infer({}), errors.InvalidArgument, ValueError,
         ("model 'pair'", "missing inputs", "'x'", "float32[?, 2..4]", "'n'")),
    Case("extra input", lambda w: w.double.infer(x=ROWS, z=ROWS), errors.NotFound, LookupError,
         ("model 'double'", "no input 'z'", "it has 'x' float32[?, 4]")),
    Case("misspelt input", lambda w: w.double.infer(X=ROWS), errors.NotFound, ValueError,
         ("no input 'X'", "it has 'x'")),
    Case("output's name as an input", lambda w: w.double.infer({"y": ROWS}), errors.NotFound, LookupError,
         ("no input 'y'", "it has 'x'")),
    Case("given twice", lambda w: w.double.infer({"x": ROWS}, x=ROWS), errors.InvalidArgument, ValueError,
         ("model 'double'", "input 'x' was given twice")),
    Case("a bare array", lambda w: w.double.infer(ROWS), errors.InvalidArgument, ValueError,
         ("model 'double'", "mapping of input names to values, or keywords", "not one bare value")),
    Case("two positional arguments", lambda w: w.double.infer(ROWS, ROWS), errors.InvalidArgument, ValueError,
         ("model 'double'", "one mapping")),
    Case("a name that is no string", lambda w: w.double.infer({1: ROWS}), errors.InvalidArgument, ValueError,
         ("model 'double'", "named by strings", "got 1")),
    Case("wrong dtype", lambda w: w.double.infer(x=ROWS.astype(np.float64)), errors.InvalidArgument, ValueError,
         (INPUT_X, "float64[2, 4]", "convert it to float32")),
    Case("integers for floats", lambda w: w.double.infer(x=ROWS.astype(np.int32)), errors.InvalidArgument,
         ValueError, (INPUT_X, "int32[2, 4]", "convert it to float32")),
    Case("rank too low", lambda w: w.double.infer(x=ROWS[0]), errors.InvalidArgument, ValueError,
         (INPUT_X, "rank 1", "shape [4]")),
    Case("rank too high", lambda w: w.double.infer(x=ROWS[None]), errors.InvalidArgument, ValueError,
         (INPUT_X, "rank 3", "shape [1, 2, 4]")),
    Case("wrong fixed extent", lambda w: w.double.infer(x=ROWS[:, :3]), errors.InvalidArgument, ValueError,
         (INPUT_X, "shape [2, 3]", "axis 1 accepts 4, not 3")),
    Case("above the range", lambda w: w.pair.infer(x=np.zeros((1, 5), np.float32), n=0), errors.InvalidArgument,
         ValueError, (PAIR_X, "shape [1, 5]", "axis 1 accepts 2..4, not 5")),
    Case("below the range", lambda w: w.pair.infer(x=np.zeros((1, 1), np.float32), n=0), errors.InvalidArgument,
         ValueError, (PAIR_X, "shape [1, 1]", "axis 1 accepts 2..4, not 1")),
    Case("array for a scalar", lambda w: w.pair.infer(x=ROWS, n=[1.0]), errors.InvalidArgument, ValueError,
         ("model 'pair'", "input 'n'", "rank 1")),
    Case("rank above what is supported", lambda w: w.double.infer(x=rank_nine()), errors.InvalidArgument,
         ValueError, (INPUT_X, "rank 9", "8")),
    Case("foreign byte order", lambda w: w.double.infer(x=ROWS.astype(">f4")), errors.InvalidArgument, ValueError,
         (INPUT_X, "other byte order", "newbyteorder")),
    Case("objects", lambda w: w.double.infer(x=ROWS.astype(object)), errors.InvalidArgument, ValueError,
         (INPUT_X, "object[2, 4]", "convert it to float32")),
    Case("complex numbers", lambda w: w.double.infer(x=ROWS.astype(np.complex64)), errors.InvalidArgument,
         ValueError, (INPUT_X, "complex64[2, 4]", "convert")),
    Case("dates", lambda w: w.double.infer(x=np.zeros((2, 4), "M8[D]")), errors.InvalidArgument, ValueError,
         (INPUT_X, "datetime64[D][2, 4]", "convert")),
    Case("records", lambda w: w.double.infer(x=np.zeros((2, 4), [("a", "f4")])), errors.InvalidArgument,
         ValueError, (INPUT_X, "'a'", "convert")),
    Case("None", lambda w: w.double.infer(x=None), errors.InvalidArgument, ValueError,
         (INPUT_X, "NoneType", "pass an array")),
    Case("text", lambda w: w.double.infer(x="1 2 3 4"), errors.InvalidArgument, ValueError,
         (INPUT_X, "a str", "pass an array")),
    Case("a dictionary", lambda w: w.double.infer(x={}), errors.InvalidArgument, ValueError,
         (INPUT_X, "a dict", "pass an array")),
    Case("ragged lists", lambda w: w.double.infer(x=[[1, 2, 3, 4], [5]]), errors.InvalidArgument, ValueError,
         (INPUT_X, "nested lists that make no array")),
    Case("a list of text", lambda w: w.double.infer(x=[["a"] * 4]), errors.InvalidArgument, ValueError,
         (INPUT_X, "values that are no numbers")),
    Case("fractions for integers", lambda w: w.bytes_in.infer(x=[1.5]), errors.InvalidArgument, ValueError,
         ("model 'bytes_in'", "input 'x'", "expected uint8[?]", "float64", "without loss", "convert")),
    Case("integers out of range", lambda w: w.bytes_in.infer(x=[256]), errors.InvalidArgument, ValueError,
         ("model 'bytes_in'", "input 'x'", "expected uint8[?]", "values that uint8 cannot hold without loss")),
    Case("negative for unsigned", lambda w: w.bytes_in.infer(x=[-1]), errors.InvalidArgument, ValueError,
         ("model 'bytes_in'", "input 'x'", "values that uint8 cannot hold without loss")),
    Case("beyond 64 bits", lambda w: w.bytes_in.infer(x=[2**70]), errors.InvalidArgument, ValueError,
         ("model 'bytes_in'", "input 'x'", "expected uint8[?]")),
    Case("beyond what the engine computes in", lambda w: w.big.infer(x=np.full((1, 4), 2**40)).result(60),
         errors.InvalidArgument, ValueError, ("model 'big'", "'x'", "int32")),
    Case("numbers for byte strings", lambda w: w.text.infer(x=[1, 2]), errors.InvalidArgument, ValueError,
         ("model 'text'", "input 'x'", "expected bytes", "int", "bytes (or str, as UTF-8)")),
    Case("numeric array for byte strings", lambda w: w.text.infer(x=ROWS), errors.InvalidArgument, ValueError,
         ("model 'text'", "input 'x'", "expected bytes", "float32[2, 4]", "dtype of strings")),
    Case("ragged byte strings", lambda w: w.text.infer(x=[["a"], ["b", "c"]]), errors.InvalidArgument, ValueError,
         ("model 'text'", "input 'x'", "unequal lengths")),
    Case("memory of another device", lambda w: w.double.infer(x=OnAnotherDevice()), errors.InvalidArgument,
         ValueError, (INPUT_X, "OnAnotherDevice", "device", "copy it")),
    Case("a failing export", lambda w: w.double.infer(x=WithoutExport()), errors.InvalidArgument, ValueError,
         (INPUT_X, "WithoutExport", "export failed")),
    # What a model's function answers.
    Case("answer of a wrong dtype", lambda w: answer_of(lambda x: ROWS.astype(np.float64)), errors.EngineError,
         RuntimeError, (FN_Y, "float64[2, 4]", "returned by the model's function")),
    Case("answer of a wrong shape", lambda w: answer_of(lambda x: ROWS[:, :1]), errors.EngineError, RuntimeError,
         (FN_Y, "axis 1 accepts 4, not 1", "returned by the model's function")),
    Case("output missing", lambda w: answer_of(lambda x: {"q": ROWS}), errors.EngineError, RuntimeError,
         ("model 'fn'", "returned no output 'y'", "float32[?, 4]")),
    Case("output too many", lambda w: answer_of(lambda x: {"y": ROWS, "q": ROWS}), errors.EngineError,
         RuntimeError, ("model 'fn'", "not declared", "'q'")),
    Case("one array for two outputs", lambda w: answer_of(lambda x: ROWS, 2), errors.EngineError, RuntimeError,
         ("model 'fn'", "returned a", "mapping of 2 output names")),
    Case("no answer", lambda w: answer_of(lambda x: None), errors.EngineError, RuntimeError,
         (FN_Y, "NoneType", "returned by the model's function")),
    Case("the function's own error", lambda w: answer_of(lambda x: {}["key"]), KeyError, LookupError, ("key",)),
    # Specifications.
    Case("unknown dtype", lambda w: TensorSpec("x", "float33", (1,)), errors.InvalidArgument, ValueError,
         ("float33", "known are", "float32", "bytes")),
    Case("negative axis", lambda w: TensorSpec("x", "float32", (-1,)), errors.InvalidArgument, ValueError,
         ("tensor 'x'", "int >= 0, None", "got -1")),
    Case("named axis", lambda w: TensorSpec("x", "float32", ("N",)), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("tensor 'x'", "int >= 0, None", "got 'N'")),
    Case("axis beyond 64 bits", lambda w: TensorSpec("x", "float32", (2**70,)), errors.InvalidArgument, ValueError,
         ("tensor 'x'", "axis")),
    Case("range of text", lambda w: TensorSpec("x", "float32", (("a", "b"),)), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("tensor 'x'", "(min, max)")),
    Case("empty range", lambda w: TensorSpec("x", "float32", ((4, 2),)), errors.InvalidArgument, ValueError,
         ("tensor 'x'", "(min, max)", "got (4, 2)")),
    Case("two inputs of one name", lambda w: FunctionModel(print, [TensorSpec("x", "bool", ())] * 2, [], name="fn"),
         errors.InvalidArgument, ValueError, ("model 'fn'", "two inputs called 'x'")),
    Case("nameless output", lambda w: FunctionModel(print, [], [TensorSpec("", "bool", ())], name="fn"),
         errors.InvalidArgument, ValueError, ("model 'fn'", "output without a name")),
    Case("no worker", lambda w: function(print, concurrency=0), errors.InvalidArgument, ValueError,
         ("0", "at least 1")),
    Case("negative queue timeout", lambda w: function(print, queue_timeout_s=-1), errors.InvalidArgument,
         ValueError, (">= 0", "got -1")),
    # The manager.
    Case("unknown model", lambda w: w.manager["resnet"], errors.NotFound, LookupError,
         ("no model is called 'resnet'", "'double'", "'pair'")),
    Case("unload of an unknown model", lambda w: w.manager.unload("resnet"), errors.NotFound, LookupError,
         ("no model is called 'resnet'", "'double'")),
    Case("name taken, registering", lambda w: w.manager.register("double", w.pair), errors.InvalidArgument,
         ValueError, ("'double' is taken", "unload that one or choose another name")),
    Case("name taken, loading", lambda w: w.manager.load("double", w.ir), errors.InvalidArgument, ValueError,
         ("'double' is taken", "unload that one or choose another name")),
    Case("empty name", lambda w: w.manager.load("", w.ir), errors.InvalidArgument, ValueError, ("name", "not empty")),
    Case("no execution", lambda w: InferenceManager(max_executions=0), errors.InvalidArgument, ValueError,
         ("max_executions", "at least 1", "got 0")),
    Case("executions beyond any machine", lambda w: InferenceManager(10**30), errors.InvalidArgument, ValueError,
         ("max_executions", "at most 1000000", f"got {10**30}")),
    Case("executions beyond any memory", lambda w: InferenceManager(2**62), errors.InvalidArgument, ValueError,
         ("max_executions", "at most 1000000", "got 4611686018427387904")),
    Case("executions beyond what Python prints", lambda w: InferenceManager(10**5000), errors.InvalidArgument,
         ValueError, ("max_executions", "at most 1000000", "got a int")),
    Case("buffers beyond any machine", lambda w: InferenceManager(1, 10**30), errors.InvalidArgument, ValueError,
         ("max_buffers", "at most 1000000", f"got {10**30}")),
    Case("queue beyond 64 bits", lambda w: InferenceManager(max_queue=2**63), errors.InvalidArgument, ValueError,
         ("max_queue", "at least 0 and at most 9223372036854775807", "got 9223372036854775808")),
    Case("no queue", lambda w: InferenceManager(max_queue=None), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("max_queue", "at least 0", "got None")),
    Case("model's name that is a number", lambda w: w.manager[3], errors.InvalidArgument, ValueError,  # type: ignore[index]
         ("the model's name", "expected a str", "got 3")),
    Case("model's name that is not UTF-8", lambda w: w.manager.model("\ud800"), errors.InvalidArgument, ValueError,
         ("the model's name", "UTF-8", r"got '\ud800'")),
    Case("loading under a number", lambda w: w.manager.load(3, w.ir), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("the model's name", "expected a str", "got 3")),
    Case("registering under a number", lambda w: w.manager.register(3, w.pair), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("the model's name", "expected a str", "got 3")),
    Case("unloading a number", lambda w: w.manager.unload(3), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("the model's name", "expected a str", "got 3")),
    Case("unloading with text", lambda w: w.manager.unload("double", "no"), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("cancel_pending", "True or False", "got 'no'")),
    Case("closing with a number", lambda w: w.manager.close(1), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("cancel_pending", "True or False", "got 1")),
    Case("executions as text", lambda w: InferenceManager("2"), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("max_executions", "an int", "got '2'")),
    Case("fewer buffers than executions", lambda w: InferenceManager(4, 2), errors.InvalidArgument, ValueError,
         ("max_buffers is 2", "below max_executions, 4")),
    Case("negative queue", lambda w: InferenceManager(max_queue=-1), errors.InvalidArgument, ValueError,
         ("max_queue", "at least 0", "got -1")),
    Case("another device", lambda w: w.manager.load("a", w.ir, device="tpu:0"), errors.InvalidArgument, ValueError,
         ("model 'a'", "'tpu:0'", "'cpu', 'cuda', 'cuda:0'")),
    Case("no device", lambda w: w.manager.load("a", w.ir, device=None), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("model 'a'", "None", "'auto', 'cpu', 'cuda'")),
    Case("several devices", lambda w: w.manager.load("a", w.ir, device=["cpu", "cpu"]), errors.InvalidArgument,
         ValueError, ("model 'a'", "['cpu', 'cpu']", "a list of GPUs")),
    Case("unknown precision", lambda w: w.manager.load("a", w.ir, precision="f32"), errors.InvalidArgument,
         ValueError, ("model 'a'", "precision", "'float32'", "got 'f32'")),
    Case("no stream", lambda w: w.manager.load("a", w.ir, streams=0), errors.InvalidArgument, ValueError,
         ("model 'a'", "streams", "at least 1", "got 0")),
    Case("threads as text", lambda w: w.manager.load("a", w.ir, threads="2"), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("model 'a'", "threads", "at least 1", "got '2'")),
    Case("queue timeout that is no number", lambda w: w.manager.load("a", w.ir, queue_timeout_s=float("nan")),
         errors.InvalidArgument, ValueError, ("model 'a'", "queue_timeout_s", ">= 0", "got nan")),
    Case("queue timeout as text", lambda w: w.manager.load("a", w.ir, queue_timeout_s="1"),  # type: ignore[arg-type]
         errors.InvalidArgument, ValueError, ("model 'a'", "queue_timeout_s", "got '1'")),
    Case("streams beyond any machine", lambda w: w.manager.load("a", w.ir, streams=2**70), errors.InvalidArgument,
         ValueError, ("model 'a'", "streams", "at most 1000000", f"got {2**70}")),
    Case("precision that is a list", lambda w: w.manager.load("a", w.ir, precision=["float32"]),  # type: ignore[arg-type]
         errors.InvalidArgument, ValueError, ("model 'a'", "precision", "'float32'", "got ['float32']")),
    Case("device that is an array", lambda w: w.manager.load("a", w.ir, device=[ROWS]),  # type: ignore[list-item]
         errors.InvalidArgument, ValueError, ("model 'a'", "device", "'auto', 'cpu'")),
    Case("queue timeout beyond a century", lambda w: w.manager.load("a", w.ir, queue_timeout_s=10**400),
         errors.InvalidArgument, ValueError, ("model 'a'", "queue_timeout_s", "below 3e9", "got 1000", "...")),
    Case("property that is not UTF-8", lambda w: w.manager.load("a", w.ir, properties={"\ud800": "1"}),
         errors.InvalidArgument, ValueError, ("model 'a'", "properties", "UTF-8", r"got '\ud800'")),
    Case("unknown property", lambda w: w.manager.load("a", w.ir, properties={"NO_SUCH": "1"}), errors.EngineError,
         RuntimeError, ("model 'a'", "NO_SUCH", "CPU")),
    Case("property that is no string", lambda w: w.manager.load("a", w.ir, properties={"NUM_STREAMS": 1}),  # type: ignore[dict-item]
         errors.InvalidArgument, ValueError, ("model 'a'", "properties", "strings", "{'NUM_STREAMS': 1}")),
    # Model files.
    Case("no such file", lambda w: w.manager.load("a", w.folder / "absent.onnx"), errors.NotFound, LookupError,
         ("model 'a'", "absent.onnx", "No such file")),
    Case("a folder", lambda w: w.manager.load("a", w.folder), errors.InvalidArgument, ValueError,
         ("model 'a'", "bad input", "directory")),
    Case("an empty file", lambda w: w.manager.load("a", w.file("empty.onnx", b"")), errors.InvalidArgument,
         ValueError, ("model 'a'", "empty.onnx", "empty", "expected an ONNX model or OpenVINO's XML")),
    Case("a truncated file", lambda w: w.manager.load("a", w.file("short.onnx", w.onnx[: len(w.onnx) // 2])),
         errors.InvalidArgument, ValueError, ("model 'a'", "short.onnx", "bytes early", "copied whole")),
    Case("a file of text", lambda w: w.manager.load("a", w.file("text.onnx", b"not a model")),
         errors.InvalidArgument, ValueError, ("model 'a'", "text.onnx", "neither an ONNX model nor", "check")),
    Case("bytes of no model", lambda w: w.manager.load("a", b"not a model"), errors.InvalidArgument, ValueError,
         ("model 'a'", "neither an ONNX model nor", "check")),
    Case("no bytes", lambda w: w.manager.load("a", b""), errors.InvalidArgument, ValueError,
         ("model 'a'", "empty", "expected an ONNX model")),
    Case("XML of no model", lambda w: w.manager.load("a", b"<html></html>"), errors.InvalidArgument, ValueError,
         ("model 'a'", "no OpenVINO IR", "expected its root to be <net")),
    Case("a number for a path", lambda w: w.manager.load("a", 3), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("model 'a'", "a path or the model's bytes", "got a int")),
    Case("a path of bytes", lambda w: w.manager.load("a", BytesPath()), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("model 'a'", "a path is a str")),
    Case("a path with NUL", lambda w: w.manager.load("a", "model\0.onnx"), errors.InvalidArgument, ValueError,
         ("model 'a'", "NUL", "rename")),
    Case("a path that is not UTF-8", lambda w: w.manager.load("a", os.fsdecode(b"\xff.onnx")),
         errors.InvalidArgument, ValueError, ("model 'a'", "UTF-8", "rename")),
    Case("memory that was released", lambda w: w.manager.load("a", released(w.ir)), errors.InvalidArgument,  # type: ignore[arg-type]
         ValueError, ("model 'a'", "cannot be read", "released")),
    Case("weights as text", lambda w: w.manager.load("a", w.ir, weights="w"), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("model 'a'", "weights='w'", "the bytes of the IR's .bin")),
    # The load generator.
    Case("bench of no model", lambda w: InferBench(3, {}), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("model: expected a trtlab.Model", "got 3")),
    Case("bench without inputs", lambda w: InferBench(w.double, None), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("model 'double'", "mapping of input names to values", "got None")),
    Case("bench at a rate of text", lambda w: bench(w, rate="5"), errors.InvalidArgument, ValueError,
         ("rate", "number of arrivals a second", "got '5'")),
    Case("bench at a rate beyond floats", lambda w: bench(w, rate=10**400), errors.InvalidArgument, ValueError,
         ("rate", "number of arrivals a second", "got 1000", "...")),
    Case("bench for no duration", lambda w: bench(w, duration_s=None), errors.InvalidArgument, ValueError,
         ("duration_s", "number of seconds >= 0", "got None")),
    Case("bench that warms up for a text", lambda w: bench(w, warm_up_s="1"), errors.InvalidArgument, ValueError,
         ("warm_up_s", "number of seconds >= 0", "got '1'")),
    Case("bench that drains for ever", lambda w: bench(w, drain_timeout_s=float("inf")), errors.InvalidArgument,
         ValueError, ("drain_timeout_s", "below 3e9", "got inf")),
    Case("bench that tells a number", lambda w: bench(w, on_progress=3), errors.InvalidArgument, ValueError,
         ("on_progress", "callable or None", "got 3")),
    Case("bench of more requests than are counted", lambda w: bench(w, max_requests=2**63), errors.InvalidArgument,
         ValueError, ("max_requests", "at most", "got 9223372036854775808")),
    # The vendor's library.
    Case("library absent", lambda w: trtlab.openvino.Library(path="absent.so"), errors.NotFound, LookupError,
         ("OpenVINO", "absent.so", "does not exist", 'pip install "trtlab[cpu]"')),
    Case("library of something else", lambda w: trtlab.openvino.Library(path=trtlab._bindings._core.__file__),
         errors.EngineError, RuntimeError, ("OpenVINO", "_core", 'pip install "trtlab[cpu]"')),
    Case("library that is no library", lambda w: trtlab.openvino.Library(path=str(w.file("x.so", b"text"))),
         errors.EngineError, RuntimeError, ("OpenVINO", "x.so", 'pip install "trtlab[cpu]"')),
    # Time, and use after the end.
    Case("timeout", lambda w: not_yet(), errors.Timeout, TimeoutError, ("0.001 s", "wait longer")),
    Case("negative timeout", lambda w: settled(w.double.infer(x=ROWS)).result(-1), errors.InvalidArgument, ValueError,
         ("timeout", ">= 0", "None", "got -1")),
    Case("timeout that is no number", lambda w: w.double.infer(x=ROWS).result(float("nan")),
         errors.InvalidArgument, ValueError, ("timeout", ">= 0", "nan")),
    Case("cancelled", lambda w: cancelled(), errors.Cancelled, Exception, ("cancelled before it ran",)),
    Case("full queue, no patience", lambda w: full_queue(0), errors.Overloaded, RuntimeError,
         ("model 'full'", "no place became free", "raise max_queue")),
    Case("full queue, some patience", lambda w: full_queue(0.001), errors.Overloaded, RuntimeError,
         ("model 'full'", "no place became free", "send less")),
    Case("closed model", lambda w: closed_model(), errors.Closed, RuntimeError,
         ("model 'fn' is closed", "load it again")),
    Case("closed manager, model", lambda w: closed_manager(lambda m: m["double"]), errors.Closed, RuntimeError,
         ("manager is closed", "make a new one")),
    Case("closed manager, load", lambda w: closed_manager(lambda m: m.load("a", w.ir)), errors.Closed, RuntimeError,
         ("manager is closed", "make a new one")),
    Case("closed manager, register", lambda w: closed_manager(lambda m: m.register("a", w.pair)), errors.Closed,
         RuntimeError, ("manager is closed", "make a new one")),
    Case("closed manager, unload", lambda w: closed_manager(lambda m: m.unload("a")), errors.Closed, RuntimeError,
         ("manager is closed", "make a new one")),
    # Pools.
    Case("empty pool", lambda w: Pool([]), errors.InvalidArgument, ValueError, ("at least one item",)),
    Case("hook that cannot be called", lambda w: Pool([1], on_return=3), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("on_return", "expected a callable")),
    Case("busy pool", lambda w: busy_pool(0.001), errors.Timeout, TimeoutError, ("0.001 s", "wait longer")),
    Case("busy pool, no patience", lambda w: busy_pool(0), errors.Timeout, TimeoutError, ("0 s",)),
    Case("closed pool", lambda w: closed_pool(), errors.Closed, RuntimeError, ("pool is closed",)),
    Case("released lease", lambda w: released_lease(), errors.Closed, RuntimeError, ("released", "acquire a new one")),
    Case("task that cannot be called", lambda w: ThreadPool(1).submit(3), errors.InvalidArgument, ValueError,  # type: ignore[arg-type]
         ("submit() takes a callable",)),
    Case("thread pool without a queue", lambda w: ThreadPool(1, max_queue=0), errors.InvalidArgument, ValueError,
         ("max_queue is 0", "at least 1")),
    Case("closed thread pool", lambda w: closed_threads(), errors.Closed, RuntimeError,
         ("thread pool 'trtlab' is closed",)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_is_a_typed_error_that_says_what_to_do(
    case: Case, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.still_answers()
    with pytest.raises(case.error) as caught:
        case.action(world)
    assert type(caught.value) is case.error
    assert isinstance(caught.value, case.builtin)
    message = str(caught.value)
    assert [part for part in case.says if part not in message] == [], message
    world.still_answers()
    assert capfd.readouterr().err == ""


def test_the_table_has_one_name_for_each_case() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


def test_every_error_type_is_in_the_table_but_those_that_need_a_full_machine_or_a_gpu() -> None:
    types = {getattr(errors, name) for name in errors.__all__} - {errors.Error, errors.OutOfMemory, errors.CudaError}
    assert types <= {case.error for case in CASES}


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_derives_from_the_base_and_is_documented(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.Error)
    assert kind.__doc__
    assert len(kind.__mro__) > len(errors.Error.__mro__) or kind is errors.Error
