"""What `await` costs when the work finishes on another thread, against a bare `loop.call_soon_threadsafe`.

First the same task on the same worker thread, whose end reaches the same loop either way: trtlab's awaitable future, or
a future of the loop's own that the task resolves with `call_soon_threadsafe`. Then a request to a model of one
operation, where the rival is OpenVINO's own callback with `call_soon_threadsafe`. "At once" is many coroutines that
wait together.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np
import openvino
import trtlab
from _models import TINY_SHAPE, tiny
from _report import Report

Awaiting = Callable[[], Awaitable[object]]


class CountingSelector(selectors.DefaultSelector):
    """Counts how often the loop went to look for events."""

    looks = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.looks += 1
        return super().select(timeout)


class Bench:
    def __init__(self, report: Report, count: int, at_once: int) -> None:
        self.selector = CountingSelector()
        self.loop = asyncio.SelectorEventLoop(self.selector)
        self._report = report
        self._count = count
        self._at_once = at_once
        self.finished_ns = 0  # written by the worker thread as the last thing it does

    def one_by_one(self, awaiting: Awaiting) -> tuple[float, float]:
        """Return p50 of a whole turn, and of its part from the end of the work until the coroutine goes on, in us."""

        async def run() -> tuple[float, float]:
            clock = time.perf_counter_ns
            turns, resumed = [], []
            for _ in range(self._count):
                begin = clock()
                await awaiting()
                end = clock()
                turns.append(end - begin)
                resumed.append(end - self.finished_ns)
            turns.sort()
            resumed.sort()
            return turns[self._count // 2] / 1e3, resumed[self._count // 2] / 1e3

        return self.loop.run_until_complete(run())

    def together(self, awaiting: Awaiting) -> tuple[float, float]:
        """Return us for each of many coroutines that wait together, and how many of them a tick of the loop served."""

        async def one() -> None:
            await awaiting()

        async def run() -> tuple[float, float]:
            looks = self.selector.looks
            begin = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(self._at_once)))
            took = time.perf_counter() - begin
            return took / self._at_once * 1e6, self._at_once / (self.selector.looks - looks)

        return self.loop.run_until_complete(run())

    def compare(
        self, what: str, ours: tuple[str, Awaiting], rival: tuple[str, Awaiting], tells_when_finished: bool
    ) -> None:
        """Let both take turns. What only the task can tell, and OpenVINO's thread cannot, is left out there."""
        for measure, titles in (
            (
                self.one_by_one,
                (f"{what}, one at a time, p50", f"{what}, from its end until the coroutine goes on, p50"),
            ),
            (
                self.together,
                (f"{what}, {self._at_once} at once, each", f"{what}, {self._at_once} at once, served by one tick"),
            ),
        ):
            for _, awaiting in (ours, rival):
                measure(awaiting)
            figures = self._report.interleave({name: partial(measure, awaiting) for name, awaiting in (ours, rival)})
            for which, title in enumerate(titles):
                if which == 1 and not tells_when_finished:
                    continue
                ticks = which == 1 and measure == self.together
                self._report.table(
                    title,
                    "requests" if ticks else "us",
                    {name: [pair[which] for pair in pairs] for name, pairs in figures.items()},
                    ours=ours[0],
                    rivals=[rival[0]],
                    higher_is_better=ticks,
                    aim="" if ticks else "<= 1.3",
                )


def main() -> None:
    report = Report(__doc__.splitlines()[0], ["openvino", "numpy"], rounds=9)
    report.parser.add_argument("--requests", type=int, default=1500, help="one at a time, in each round")
    report.parser.add_argument("--at-once", type=int, default=500, help="coroutines that wait together")
    arguments = report.start()
    bench = Bench(report, arguments.requests, arguments.at_once)
    loop = bench.loop
    clock = time.perf_counter_ns

    with trtlab.ThreadPool(1) as pool:

        def work() -> None:
            bench.finished_ns = clock()

        def work_and_tell(future: asyncio.Future[None]) -> None:
            bench.finished_ns = clock()
            loop.call_soon_threadsafe(future.set_result, None)

        def bare() -> asyncio.Future[None]:
            future = loop.create_future()
            pool.submit(work_and_tell, future)
            return future

        ours = ("await trtlab future", lambda: pool.submit(work))
        bench.compare("task on a thread", ours, ("bare call_soon_threadsafe", bare), True)

    array = np.ones(TINY_SHAPE, np.float32)
    core = openvino.Core()
    settings = {"NUM_STREAMS": 1, "ENABLE_CPU_PINNING": "NO", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(tiny(), b""), "CPU", settings)
    queue = openvino.AsyncInferQueue(compiled, 4)

    def tell(request: openvino.InferRequest, future: asyncio.Future[object]) -> None:
        loop.call_soon_threadsafe(future.set_result, request.get_output_tensor(0).data)

    queue.set_callback(tell)

    def openvino_queue() -> asyncio.Future[object]:
        future = loop.create_future()
        queue.start_async(array, future, share_inputs=True)
        return future

    with trtlab.InferenceManager(max_executions=1, max_queue=arguments.at_once) as manager:
        model = manager.load("tiny", tiny())
        bench.compare(
            "request",
            ("await trtlab infer()", lambda: model.infer(x=array)),
            ("OpenVINO queue + call_soon_threadsafe", openvino_queue),
            False,
        )
    queue.wait_all()
    loop.close()
    report.finish()


if __name__ == "__main__":
    main()
