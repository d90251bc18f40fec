"""Whoever waits leaves the GIL to others, and hears signals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

# Below, the thread that waits never gives up the GIL of its own accord: the interval after which Python would take it
# away is an hour. So the other thread runs when, and only when, the wait itself has released it.
GIL = """
import sys, threading
import numpy as np
import trtlab

ROWS = np.ones((1, 4), np.float32)
gate = threading.Event()
entered = threading.Semaphore(0)
counted = 0

def answer(x):
    entered.release()
    assert gate.wait(50)
    return {"y": x}

def model(**options):
    spec = lambda name: [trtlab.TensorSpec(name, "float32", (None, 4))]
    return trtlab.FunctionModel(answer, spec("x"), spec("y"), **options)

def count_then_open():
    global counted
    assert go.acquire(timeout=50)
    while counted < 100_000:
        counted += 1
    gate.set()

go = threading.Semaphore(0)
counter = threading.Thread(target=count_then_open)
counter.start()
def others_run_during(wait):
    sys.setswitchinterval(3600)
    go.release()
    assert counted == 0
    answer = wait()
    assert counted == 100_000 and gate.is_set()
    sys.setswitchinterval(0.005)
    counter.join()
    print("ok")
    return answer

"""

WAITS = {
    "result": """
busy = model()
future = busy.infer(x=ROWS)
others_run_during(future.result)
""",
    "result with a timeout": """
busy = model()
future = busy.infer(x=ROWS)
others_run_during(lambda: future.result(50))
""",
    "exception": """
busy = model()
future = busy.infer(x=ROWS)
assert others_run_during(future.exception) is None
""",
    "infer on a full queue": """
full = model(max_queue=0)
first = full.infer(x=ROWS)
second = others_run_during(lambda: full.infer(x=ROWS))
second.result(50)
""",
    "close of a model": """
busy = model()
future = busy.infer(x=ROWS)
entered.acquire()
others_run_during(busy.close)
assert future.done()
""",
    "close of a manager": """
manager = trtlab.InferenceManager(max_executions=1)
future = manager.register("busy", model()).infer(x=ROWS)
entered.acquire()
others_run_during(manager.close)
assert future.done()
""",
    "unload": """
manager = trtlab.InferenceManager(max_executions=1)
future = manager.register("busy", model()).infer(x=ROWS)
entered.acquire()
others_run_during(lambda: manager.unload("busy"))
assert future.done()
""",
    "destruction of a busy model": """
busy = model()
future = busy.infer(x=ROWS)
entered.acquire()
def drop():
    global busy
    del busy
others_run_during(drop)
assert future.done()
""",
    "submit on a full queue": """
threads = trtlab.ThreadPool(1, max_queue=1)
threads.submit(answer, ROWS)
entered.acquire()
threads.submit(int)
assert others_run_during(lambda: threads.submit(int, 7)).result(50) == 7
""",
    "close of a thread pool": """
threads = trtlab.ThreadPool(1)
future = threads.submit(answer, ROWS)
entered.acquire()
others_run_during(threads.close)
assert future.done()
""",
    "acquire": """
pool = trtlab.Pool(["item"])
lease = pool.acquire()
def give_back():
    gate.wait(50)
    lease.release()
threading.Thread(target=give_back).start()
assert others_run_during(pool.acquire).item == "item"
""",
}


@pytest.mark.parametrize("name", WAITS)
def test_a_python_thread_keeps_counting_during(name: str, python: Callable[..., str]) -> None:
    assert python(GIL + WAITS[name]) == "ok\n"


LOAD = """
import sys, threading
import trtlab

manager = trtlab.InferenceManager(max_executions=1)
manager.load("first", IR)
counted = 0
go = threading.Semaphore(0)

def count():
    global counted
    assert go.acquire(timeout=50)
    while counted < 1000:
        counted += 1

counter = threading.Thread(target=count)
counter.start()
sys.setswitchinterval(3600)
go.release()
for number in range(10_000):
    manager.load(str(number), IR)
    if counted:
        break
assert counted == 1000
print("ok")
sys.setswitchinterval(0.005)
counter.join()
"""


def test_a_python_thread_keeps_counting_during_load(python: Callable[..., str], double_ir: bytes) -> None:
    # What load waits for is the compiler, so there is nothing to hold it: it is repeated until the system has let the
    # other thread run inside of one, which by the interval is the only place where it can.
    assert python(f"IR = {double_ir!r}\n{LOAD}") == "ok\n"


INTERRUPTED = """
import os, signal, sys, threading
import numpy as np
import trtlab

gate, over = threading.Event(), threading.Event()
ROWS = np.ones((1, 4), np.float32)
spec = lambda name: [trtlab.TensorSpec(name, "float32", (None, 4))]
model = trtlab.FunctionModel(lambda x: {"y": x} if gate.wait(50) else None, spec("x"), spec("y"), max_queue=0)
first = model.infer(x=ROWS)
pool = trtlab.Pool(["item"])
lease = pool.acquire()

def press():
    while not over.wait(0.01):
        os.kill(os.getpid(), signal.SIGINT)

thread = threading.Thread(target=press)
def wait():
    ACTION
try:
    thread.start()
    wait()
except KeyboardInterrupt:
    pass
else:
    raise AssertionError("not interrupted")
finally:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    over.set()
    thread.join()
gate.set()
assert (first.result(50)["y"].numpy() == ROWS).all()
assert (model.infer(x=ROWS).result(50)["y"].numpy() == ROWS).all()
lease.release()
assert pool.acquire(50).item == "item"
print("ok")
"""


@pytest.mark.parametrize(
    "action",
    ["first.result()", "first.result(50)", "first.exception()", "model.infer(x=ROWS)", "pool.acquire()"],
)
def test_ctrl_c_ends_a_wait_and_nothing_else(action: str, python: Callable[..., str]) -> None:
    assert python(INTERRUPTED.replace("ACTION", action)) == "ok\n"


def test_another_signal_handler_runs_and_the_wait_goes_on(python: Callable[..., str]) -> None:
    code = """
import os, signal, threading
import trtlab
gate = threading.Event()
seen = []
signal.signal(signal.SIGUSR1, lambda number, frame: (seen.append(number), gate.set()))
threads = trtlab.ThreadPool(1)
future = threads.submit(gate.wait, 50)
over = threading.Event()
def press():
    while not over.wait(0.01):
        os.kill(os.getpid(), signal.SIGUSR1)
thread = threading.Thread(target=press)
thread.start()
assert future.result() is True
over.set()
thread.join()
assert set(seen) == {signal.SIGUSR1}
print("ok")
"""
    assert python(code) == "ok\n"
