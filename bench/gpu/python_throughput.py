#!/usr/bin/env python3
"""ResNet-50 through trtlab's Python against the best bare loop in C++ and against PyTorch's CUDA graph.

The bare loop is a process of its own (bench/gpu/bare_loop.cpp) that takes its turns when it is told to; PyTorch runs
the same weights in float16, channels last, batch normalisation folded, as one CUDA graph.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import Any

import _networks
import numpy as np
import torch
import trtlab
from _gpu import Models, answer, gpu, off_by, values_of
from _report import Report

FEEDS = {"device": "device", "pinned": "pinned,overlapped", "numpy": "pageable,staged"}


class BareLoop:
    """The C++ program, obeying one command at a time."""

    def __init__(self, program: Path, plan: Path) -> None:
        self.process = subprocess.Popen([program, plan], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while (line := self._line()) != "ready":
            print(f"    {line}", flush=True)
        self.settings = ""

    def _line(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"the bare loop ended with status {self.process.wait()}")
        return line.strip()

    def ask(self, command: str) -> list[str]:
        """Return the words of the answer, without the first."""
        assert self.process.stdin is not None
        print(command, file=self.process.stdin, flush=True)
        verb, *words = self._line().split()
        if verb == "error":
            raise SystemExit(f"the bare loop, told '{command}': {' '.join(words)}")
        return words

    def best(self, feeds: str, seconds: float) -> None:
        """Find the fastest settings, for `rate`."""
        _, *words = self.ask(f"best {feeds} {seconds}")
        self.settings = " ".join(words)

    def rate(self, seconds: float) -> float:
        """Return requests a second."""
        return float(self.ask(f"rate {seconds}")[0])

    def latency(self, feed: str, requests: int) -> tuple[float, float]:
        """Return p50 and p99 of a lone request, in microseconds."""
        middle, slow = self.ask(f"latency {feed} {requests}")
        return float(middle), float(slow)

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


class Ours:
    """A model under the load of one thread, which asks ahead and takes the answers in order."""

    def __init__(self, plan: Path, size: int, place: str, executions: int) -> None:
        self.manager = trtlab.InferenceManager(max_executions=executions)
        # Answers are on the host, where callers want them, also where the rivals leave theirs on the device.
        self.model = self.manager.load("resnet50", plan, device="cuda:0")
        self.inputs: list[Any] = []
        for _ in range(2 * executions + 2):
            noise = torch.randn(size, 3, 224, 224).half()
            self.inputs.append(
                noise.cuda() if place == "device" else noise.pin_memory() if place == "pinned" else noise.numpy()
            )
        torch.cuda.synchronize()
        self.rate(0.3)  # until the pairs of tokens and buffers have met

    def rate(self, seconds: float) -> float:
        """Return requests a second."""
        infer, inputs = self.model.infer, self.inputs
        begin = time.perf_counter()
        until = begin + seconds
        pending = deque(infer(data=x) for x in inputs)
        done = 0
        while time.perf_counter() < until:
            pending.popleft().result()
            pending.append(infer(data=inputs[done % len(inputs)]))
            done += 1
        while pending:
            pending.popleft().result()
            done += 1
        return done / (time.perf_counter() - begin)

    def latency(self, requests: int) -> tuple[float, float]:
        """Return p50 and p99 of a lone request, in microseconds."""
        infer, x = self.model.infer, self.inputs[0]
        samples = []
        for _ in range(requests):
            begin = time.perf_counter_ns()
            infer(data=x).result()
            samples.append(time.perf_counter_ns() - begin)
        return float(np.percentile(samples, 50)) / 1e3, float(np.percentile(samples, 99)) / 1e3

    def close(self) -> None:
        """Give its memory back."""
        self.manager.close()


class TorchGraph:
    """The same network and weights as PyTorch's own CUDA graph."""

    @torch.no_grad()
    def __init__(self, weights: Path, batch: int) -> None:
        network = _networks.resnet50()
        network.load_state_dict(torch.load(weights, weights_only=True))
        from torch.fx.experimental.optimization import fuse

        network = fuse(network.eval()).half().cuda().to(memory_format=torch.channels_last)
        torch.backends.cudnn.benchmark = True
        self.x = torch.randn(batch, 3, 224, 224).half().cuda().to(memory_format=torch.channels_last)
        self.stream = torch.cuda.Stream()
        with torch.cuda.stream(self.stream):
            for _ in range(5):
                network(self.x)
        self.stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.y = network(self.x)

    def answer(self, data: np.ndarray) -> np.ndarray:
        """Run one request."""
        with torch.cuda.stream(self.stream):
            self.x.copy_(torch.from_numpy(data))
            self.y.fill_(float("nan"))
            self.graph.replay()
        self.stream.synchronize()
        return self.y.cpu().numpy()

    def rate(self, seconds: float) -> float:
        """Return requests a second; enqueued well ahead."""
        begin = time.perf_counter()
        done = 0
        with torch.cuda.stream(self.stream):
            while time.perf_counter() - begin < seconds:
                for _ in range(20):
                    self.graph.replay()
                done += 20
                self.stream.synchronize()
        return done / (time.perf_counter() - begin)


class Batch:
    """The contenders at one batch size."""

    def __init__(self, report: Report, arguments: argparse.Namespace, models: Models, size: int) -> None:
        self.report, self.arguments, self.size = report, arguments, size
        name = f"resnet50_b{size}"
        self.plan = models.plan(name)
        self.bare = BareLoop(arguments.bare_loop, self.plan)
        self.torch = TorchGraph(models.folder / "resnet50.pt", size)
        self.inputs, expected = models.case(name)
        self.expected = expected["prob"]
        off = off_by(self.torch.answer(self.inputs["data"]), self.expected)
        report.say(f"\n-- {name}; PyTorch's answers are off by {off:.2e}")

    def ours(self, place: str) -> tuple[Ours, int]:
        """Return the fastest of our settings."""
        best: tuple[float, Ours | None, int] = (0.0, None, 0)
        for count in values_of(self.arguments.executions):
            tried = Ours(self.plan, self.size, place, count)
            rate = tried.rate(self.arguments.sweep)
            self.report.say(f"    {place} inputs, {count} executions: {rate:.1f} requests/s")
            if rate <= best[0]:
                tried.close()
                continue
            if best[1] is not None:
                best[1].close()
            best = rate, tried, count
        assert best[1] is not None
        return best[1], best[2]

    def throughput(self, place: str) -> None:
        """Take turns with inputs at one place."""
        self.bare.best(FEEDS[place], self.arguments.sweep)
        ours, executions = self.ours(place)
        off = off_by(answer(ours.model, self.inputs)["prob"], self.expected)
        self.report.say(f"    trtlab's answers are off by {off:.2e}")
        seconds = self.arguments.seconds
        mine, loop, graph = f"trtlab, {executions} executions", f"bare loop, {self.bare.settings}", "PyTorch CUDA graph"
        contenders = {
            mine: lambda: ours.rate(seconds) * self.size,
            loop: lambda: self.bare.rate(seconds) * self.size,
        }
        if place == "device":
            contenders[graph] = lambda: self.torch.rate(seconds) * self.size
        figures = self.report.interleave(contenders)
        for rival, aim in ((loop, ">= 0.97"), (graph, "> 1")):
            if rival in figures:
                self.report.table(
                    f"b={self.size}, {place} inputs",
                    "images/s",
                    {mine: figures[mine], rival: figures[rival]},
                    ours=mine,
                    rivals=[rival],
                    higher_is_better=True,
                    aim=aim,
                )
        self.report.say(f"    {ours.model.counters()}")
        ours.close()

    def latency(self) -> None:
        """Take turns with one request at a time."""
        requests = self.arguments.requests
        ours = Ours(self.plan, self.size, "device", 2)
        ours.latency(requests // 4)
        mine, bare = "trtlab infer().result()", "bare graph + sync"
        turns = self.report.interleave(
            {mine: lambda: ours.latency(requests), bare: lambda: self.bare.latency("device", requests)}
        )
        for index, which in enumerate(("p50", "p99")):
            self.report.table(
                f"b={self.size} latency, device inputs, {which}",
                "us",
                {key: [turn[index] for turn in values] for key, values in turns.items()},
                ours=mine,
                rivals=[bare],
                difference=True,
                aim="<= +15 us" if which == "p50" else "",
            )
        self.report.say(f"    {ours.model.counters()}")
        ours.close()

    def close(self) -> None:
        """End the other process."""
        self.bare.close()


def main() -> None:
    """Measure what the command line asks for."""
    report = Report(__doc__ or "", ["numpy", "torch"], rounds=5)
    report.parser.add_argument("--models", type=Path, required=True, help="the folder that models.py has filled")
    report.parser.add_argument("--bare-loop", type=Path, required=True, help="the program built of bare_loop.cpp")
    report.parser.add_argument("--rows", default="device,pinned,numpy,latency", help="(default %(default)s)")
    report.parser.add_argument("--batches", default="1,8,32", help="(default %(default)s)")
    report.parser.add_argument("--executions", default="2,4,8", help="of the manager; the best of these is taken")
    report.parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    report.parser.add_argument("--sweep", type=float, default=0.25, help="seconds of each setting that is tried")
    report.parser.add_argument("--requests", type=int, default=1000, help="of a turn that measures latency")
    arguments = report.start()
    from trtlab import tensorrt

    report.say(f"{'GPU':<12} {gpu()}")
    report.say(f"{'TensorRT':<12} {tensorrt.library()}")
    models = Models(arguments.models)
    rows = arguments.rows.split(",")
    for size in values_of(arguments.batches):
        batch = Batch(report, arguments, models, size)
        for place in FEEDS:
            if place in rows:
                batch.throughput(place)
        if "latency" in rows and size == 1:
            batch.latency()
        batch.close()
    report.finish()


if __name__ == "__main__":
    main()
