"""Memory of the process over a million requests to a model of one operation, some in flight all the time."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
import trtlab
from _models import TINY_SHAPE, tiny
from _report import Report

IN_FLIGHT = 16


def resident_mib() -> float:
    """Return the memory that the process has in RAM."""
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith("Rss:"):
                return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/smaps_rollup has no Rss")


def main() -> None:
    report = Report(__doc__.splitlines()[0], ["openvino", "numpy"], rounds=1)
    report.parser.add_argument("--requests", type=int, default=1_000_000, help="(default %(default)s)")
    requests: int = report.start().requests
    marks = [n for n in (10_000, 100_000, 250_000, 500_000, 750_000, 1_000_000) if n < requests] + [requests]

    array = np.ones(TINY_SHAPE, np.float32)
    resident: dict[str, float] = {}
    with trtlab.InferenceManager(max_executions=1) as manager:
        model = manager.load("tiny", tiny())
        pending: deque[trtlab.Future] = deque()
        done = 0
        begin = time.perf_counter()
        for mark in marks:
            while done < mark:
                while len(pending) < IN_FLIGHT:
                    pending.append(model.infer(x=array))
                # Read as a user would: the array is a view that shares the memory.
                if np.asarray(pending.popleft().result()["y"])[0, 0] != 1:
                    raise SystemExit(f"wrong answer after {done} requests")
                done += 1
            resident[f"after {mark:>9,} requests"] = resident_mib()
        took = time.perf_counter() - begin
        report.values("resident memory", "MiB", resident, aim="flat")
        values = list(resident.values())
        report.values(
            "growth",
            "bytes/request",
            {"since the first mark": (values[-1] - values[0]) * 2**20 / max(1, requests - marks[0])},
        )
        report.values("rate", "requests/s", {f"{IN_FLIGHT} in flight": requests / took})
        stats = model.stats()
        report.values("requests", "count", {key: float(stats[key]) for key in ("completed", "failed", "cancelled")})
    report.finish()


if __name__ == "__main__":
    main()
