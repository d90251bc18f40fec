"""Ends of every kind: of the interpreter, of an object that is busy, of a process that forked."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

Python = Callable[..., str]

START = """
import atexit, gc, os, sys, threading, weakref
import numpy as np
import trtlab
from trtlab import errors
from trtlab._bindings import _core

ROWS = np.ones((2, 4), np.float32)

def model(answer, **options):
    spec = lambda name: [trtlab.TensorSpec(name, "float32", (None, 4))]
    return trtlab.FunctionModel(answer, spec("x"), spec("y"), **options)

def live():
    for _ in range(1000):
        gc.collect()
        _core._collect()
        if _core._live_objects() <= 1:
            break
        os.sched_yield()
    return _core._live_objects()

inside = threading.Semaphore(0)
gate = threading.Event()

def gated(x):
    inside.release()
    gate.wait(50)
    return {"y": 2 * x.numpy()}
"""

EXITS = {
    "nothing done": "",
    "a model alive": "alive = model(gated)",
    "a model alive after a request": """
alive = model(lambda x: {"y": x})
answer = alive.infer(x=ROWS).result()
""",
    "requests in flight": """
busy = model(lambda x: {"y": x}, concurrency=2)
futures = [busy.infer(x=ROWS) for _ in range(500)]
""",
    "a request inside of the function": """
busy = model(lambda x: (inside.release(), gate.wait(0.2), {"y": x})[-1])
future = busy.infer(x=ROWS)
inside.acquire()
""",
    "an engine busy": """
manager = trtlab.InferenceManager(max_executions=2)
engine = manager.load("double", IR)
futures = [engine.infer(x=np.ones((20_000, 4), np.float32)) for _ in range(200)]
""",
    "a daemon thread in result": """
busy = model(gated)
first, second = busy.infer(x=ROWS), busy.infer(x=ROWS)
inside.acquire()
waiting = threading.Semaphore(0)
def wait(future):
    waiting.release()
    future.result()
for future in (first, second, second):
    threading.Thread(target=wait, args=(future,), daemon=True).start()
    waiting.acquire()
atexit.register(gate.set)
threading.excepthook = lambda report: None
""",
    "a daemon thread in infer": """
busy = model(gated, max_queue=0)
first = busy.infer(x=ROWS)
inside.acquire()
waiting = threading.Semaphore(0)
threading.Thread(target=lambda: (waiting.release(), busy.infer(x=ROWS)), daemon=True).start()
waiting.acquire()
atexit.register(gate.set)
threading.excepthook = lambda report: None
""",
    "a daemon thread in acquire": """
pool = trtlab.Pool([1])
lease = pool.acquire()
waiting = threading.Semaphore(0)
threading.Thread(target=lambda: (waiting.release(), pool.acquire()), daemon=True).start()
waiting.acquire()
""",
    "a daemon thread that never stops asking": """
quick = model(lambda x: {"y": x})
asked = threading.Semaphore(0)
def ask():
    while True:
        quick.infer(x=ROWS).result()
        asked.release()
threading.excepthook = lambda report: None
for _ in range(3):
    threading.Thread(target=ask, daemon=True).start()
asked.acquire()
""",
    "callbacks to come": """
busy = model(gated)
future = busy.infer(x=ROWS)
for _ in range(100):
    future.add_done_callback(lambda done: done.result()["y"].numpy())
atexit.register(gate.set)
""",
    "callbacks that send more": """
turn = threading.Semaphore(0)
quick = model(lambda x: turn.acquire() and {"y": x})
def again(done):
    try:
        quick.infer(x=ROWS).add_done_callback(again)
    except errors.Closed:
        return
    turn.release()
for _ in range(4):
    again(None)
""",
    "a thread pool busy": """
threads = trtlab.ThreadPool(2)
for _ in range(200):
    threads.submit(sum, range(1000))
""",
    "an event loop that was left": """
import asyncio
loop = asyncio.new_event_loop()
busy = model(gated)
async def start():
    return [busy.infer(x=ROWS).__await__() for _ in range(3)]
async def main():
    for waiting in await start():
        next(waiting)
loop.run_until_complete(main())
atexit.register(gate.set)
loop.close()
""",
    "a circle through a model's function": """
class Service:
    def __init__(self):
        self.model = model(self.answer)
    def answer(self, x):
        return {"y": x}
service = Service()
service.model.infer(x=ROWS).result()
""",
    "answers that outlive everything": """
quick = model(lambda x: {"y": x.numpy() * 2})
kept = [quick.infer(x=ROWS).result()["y"].numpy() for _ in range(3)]
del quick
builtins = sys.modules["builtins"]
builtins.kept = kept
""",
    "a pool's hook": """
pool = trtlab.Pool([[]], on_return=lambda item: item.append(len(np.zeros(3))))
lease = pool.acquire()
""",
}


@pytest.mark.parametrize("name", EXITS)
def test_the_interpreter_ends_cleanly_with(name: str, python: Python, double_ir: bytes) -> None:
    # What a thread does while Python goes away is a matter of luck: several tries.
    for _ in range(3):
        assert python(f"IR = {double_ir!r}\n{START}{EXITS[name]}\nprint('end')") == "end\n"


def test_sys_exit_with_work_in_flight_keeps_its_status(python: Python) -> None:
    code = START + "busy = model(lambda x: {'y': x})\nf = [busy.infer(x=ROWS) for _ in range(99)]\nsys.exit(7)"
    assert python(code, status=7) == ""


@pytest.mark.parametrize("error", ["SystemExit", "IndexError", "KeyboardInterrupt"])
def test_what_ends_a_program_elsewhere_only_fails_the_request_of_a_function(python: Python, error: str) -> None:
    code = f"""
def answer(x):
    raise {error}
fails = model(answer)
for _ in range(2):
    try:
        fails.infer(x=ROWS).result()
    except BaseException as error:
        print(type(error).__name__)
assert (model(lambda x: {{"y": x}}).infer(x=ROWS).result()["y"].numpy() == ROWS).all()
"""
    assert python(START + code) == f"{error}\n{error}\n"


def test_callbacks_hear_of_requests_that_the_end_of_the_program_drops(python: Python) -> None:
    code = """
busy = model(gated)
first, second = busy.infer(x=ROWS), busy.infer(x=ROWS)
second.add_done_callback(lambda done: (print(type(done.exception()).__name__), gate.set()))
inside.acquire()
"""
    assert python(START + code) == "Closed\n"


def test_what_a_callback_raises_is_printed_by_default(python: Python) -> None:
    code = """
import io
sys.stderr = io.StringIO()
done = threading.Event()
busy = model(gated)
future = busy.infer(x=ROWS)
future.add_done_callback(lambda f: {}["key"])
future.add_done_callback(lambda f: done.set())
gate.set()
assert done.wait(50)
future.add_done_callback(lambda f: {}["at once"])
text, sys.stderr = sys.stderr.getvalue(), sys.__stderr__
assert "trtlab.Future done" in text and "KeyError: 'key'" in text and "KeyError: 'at once'" in text, text
print("ok")
"""
    assert python(START + code) == "ok\n"


def test_a_callback_that_raises_at_exit_is_reported_and_no_more(python: Python) -> None:
    code = """
reported = []
sys.unraisablehook = lambda report: reported.append(report.exc_type.__name__)
done = threading.Event()
busy = model(gated)
future = busy.infer(x=ROWS)
future.add_done_callback(lambda f: {}["key"])
future.add_done_callback(lambda f: sys.exit(3))
future.add_done_callback(lambda f: done.set())
gate.set()
assert done.wait(50)
print(reported)
"""
    assert python(START + code) == "['KeyError', 'SystemExit']\n"


DESTROYED = {
    "a model with requests waiting": """
busy = model(gated)
futures = [busy.infer(x=ROWS) for _ in range(5)]
inside.acquire()
threading.Thread(target=lambda: (futures[-1].exception(), gate.set())).start()
del busy
assert (futures[0].result()["y"].numpy() == 2).all()
for future in futures[1:]:
    assert isinstance(future.exception(), errors.Closed), future.exception()
del future, futures
""",
    "a manager with requests waiting": """
manager = trtlab.InferenceManager(max_executions=1)
busy = manager.register("busy", model(gated))
futures = [busy.infer(x=ROWS) for _ in range(5)]
inside.acquire()
gate.set()
del manager
for future in futures:
    assert (future.result()["y"].numpy() == 2).all()
assert busy.closed
del future, futures, busy
""",
    "an engine with requests waiting": """
manager = trtlab.InferenceManager(max_executions=1)
engine = manager.load("double", IR)
futures = [engine.infer(x=np.ones((5000, 4), np.float32)) for _ in range(100)]
del engine
manager.close(cancel_pending=True)
outcomes = [future.exception() for future in futures]
assert {type(outcome) for outcome in outcomes} <= {type(None), errors.Closed}
for future, outcome in zip(futures, outcomes):
    if outcome is None:
        assert (future.result()["y"].numpy() == 2).all()
del manager, futures, future, outcome, outcomes
""",
    "a thread pool by its own task": """
threads = [trtlab.ThreadPool(1)]
future = threads[0].submit(lambda: (gate.wait(50), threads.clear()))
gate.set()
assert future.result() == (True, None)
del future
""",
    "a model by its own callback": """
box = [model(gated)]
called = threading.Event()
box[0].infer(x=ROWS).add_done_callback(lambda done: (box.clear(), called.set()))
gate.set()
assert called.wait(50)
del called
""",
    "a pool with a lease out": """
pool = trtlab.Pool([["item"]])
lease = pool.acquire()
del pool
assert lease.item == ["item"]
lease.release()
del lease
""",
}


@pytest.mark.parametrize("name", DESTROYED)
def test_destroying(name: str, python: Python, double_ir: bytes) -> None:
    # One object stays: what the thread for callbacks waits at.
    lasting = int("add_done_callback" in DESTROYED[name])
    code = f"IR = {double_ir!r}\n{START}{DESTROYED[name]}\nassert live() == {lasting}, live()\nprint('ok')"
    assert python(code) == "ok\n"


FORK = """
parents = model(gated)
answered = model(lambda x: {"y": x.numpy() + 1})
manager = trtlab.InferenceManager(max_executions=1)
manager.register("answered", answered)
engine = manager.load("double", IR)
threads = trtlab.ThreadPool(1)
pending = parents.infer(x=ROWS)
inside.acquire()
done = answered.infer(x=ROWS)
done.result()
engine.infer(x=ROWS).result()

def refused(action):
    try:
        action()
    except errors.Closed as error:
        assert "parent process" in str(error), error
    else:
        raise AssertionError("the parent's object was accepted")

child = os.fork()
if child == 0:
    for action in (
        lambda: parents.infer(x=ROWS), lambda: answered.infer(x=ROWS), lambda: engine.infer(x=ROWS),
        lambda: pending.result(1), lambda: pending.exception(), lambda: manager["answered"],
        lambda: manager.load("more", IR), lambda: manager.register("more", answered), lambda: manager.close(),
        lambda: parents.close(), lambda: threads.submit(int), lambda: threads.close(),
    ):
        refused(action)
    assert (done.result()["y"].numpy() == 2).all()
    assert model(lambda x: {"y": 3 * x.numpy()}).infer(x=ROWS).result()["y"].numpy().sum() == 24
    with trtlab.InferenceManager(max_executions=1) as own:
        refused(lambda: own.load("double", IR))  # OpenVINO's own threads stayed in the parent
    with trtlab.ThreadPool(1) as mine:
        assert mine.submit(int, 3).result() == 3
    called = threading.Event()
    entered = threading.Event()
    slow = model(lambda x: entered.wait(50) and {"y": x})
    slow.infer(x=ROWS).add_done_callback(lambda done: called.set())
    entered.set()
    assert called.wait(50)
    import asyncio
    async def main():
        return await slow.infer(x=ROWS)
    asyncio.run(main())
    del parents, answered, engine, manager, threads, pending, done
    gc.collect()
    print("child")
    sys.exit(0)
pid, status = os.waitpid(child, 0)
assert status == 0, status
gate.set()
assert (pending.result()["y"].numpy() == 2).all()
assert (engine.infer(x=ROWS).result()["y"].numpy() == 2).all()
print("parent")
"""


def test_a_forked_child_makes_its_own_and_is_refused_its_parents(python: Python, double_ir: bytes) -> None:
    # Output is unbuffered, or the child would print what its parent has not written yet.
    code = f"import sys; sys.stdout.reconfigure(line_buffering=True)\nIR = {double_ir!r}\n{START}{FORK}"
    assert python(code) == "child\nparent\n"


def test_a_child_forked_before_the_engine_was_opened_loads_its_own_models(python: Python, double_ir: bytes) -> None:
    code = f"""
import sys
sys.stdout.reconfigure(line_buffering=True)
child = os.fork()
with trtlab.InferenceManager(max_executions=1) as own:
    assert own.load("double", {double_ir!r}).infer(x=ROWS).result()["y"].numpy().sum() == 16
if child == 0:
    sys.exit(0)
pid, status = os.waitpid(child, 0)
print(status)
"""
    assert python(START + code) == "0\n"


def test_a_process_pool_that_forks_works_with_models_of_its_own(python: Python) -> None:
    code = """
import multiprocessing
before = model(lambda x: {"y": x})
before.infer(x=ROWS).result()
mine = None
def start():
    global mine
    mine = model(lambda x: {"y": 2 * x.numpy()})
def ask(value):
    return float(mine.infer(x=np.full((1, 4), value, np.float32)).result()["y"].numpy()[0, 0])
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2, start) as pool:
        print(pool.map(ask, range(5)))
    pool.join()
    assert before.infer(x=ROWS).result()["y"].shape == (2, 4)
"""
    assert python(START + code) == "[0.0, 2.0, 4.0, 6.0, 8.0]\n"


@pytest.mark.parametrize("method", [m for m in multiprocessing.get_all_start_methods() if m != "fork"])
def test_other_ways_to_start_processes_work_too(python: Python, method: str) -> None:
    code = f"""
import multiprocessing
def ask(value):
    return float(model(lambda x: {{"y": 2 * x.numpy()}}).infer(x=value).result()["y"].numpy()[0, 0])
if __name__ == "__main__":
    with multiprocessing.get_context("{method}").Pool(1) as pool:
        print(pool.map(ask, [ROWS]))
    pool.join()
"""
    assert python(START + code) == "[2.0]\n"


def test_importing_loads_neither_numpy_nor_asyncio_nor_an_engine(python: Python) -> None:
    code = """
import sys
import trtlab
for name in ("numpy", "asyncio", "openvino", "trtlab.openvino", "trtlab._bindings._openvino", "click", "rich"):
    assert name not in sys.modules, name
def mapped():
    with open("/proc/self/maps") as file:
        return file.read()
assert "libopenvino" not in mapped()
trtlab.openvino
assert "openvino" not in sys.modules and "numpy" not in sys.modules
assert "libopenvino_c" not in mapped()
print("ok")
"""
    assert python(code) == "ok\n"


def test_without_openvino_everything_else_works_and_load_says_what_to_install(python: Python, double_ir: bytes) -> None:
    code = f"""
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "openvino" else find_spec(name, *more)
{START}
manager = trtlab.InferenceManager(max_executions=1)
for _ in range(2):
    try:
        manager.load("double", {double_ir!r})
    except errors.EngineError as error:
        assert isinstance(error, RuntimeError)
        assert 'pip install "trtlab[cpu]"' in str(error) and "libopenvino_c" in str(error), error
    else:
        raise AssertionError("there is an OpenVINO outside of Python's packages")
assert manager.names == []
quick = manager.register("quick", model(lambda x: {{"y": x}}))
assert (quick.infer(x=ROWS).result()["y"].numpy() == 1).all()
print("ok")
"""
    assert python(code) == "ok\n"


def test_the_environment_can_name_the_library(python: Python, tmp_path: Path) -> None:
    code = f"""
import os
os.environ["TRTLAB_OPENVINO_LIBRARY"] = {str(tmp_path / "absent.so")!r}
import trtlab
try:
    trtlab.openvino.library()
except trtlab.errors.NotFound as error:
    assert "TRTLAB_OPENVINO_LIBRARY" in str(error) and "absent.so" in str(error), error
    print("ok")
"""
    assert python(code) == "ok\n"
