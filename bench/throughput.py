"""Saturated throughput of real models from Python: trtlab, OpenVINO's own AsyncInferQueue, and onnxruntime.

All compute in float32 (int8 where the model says so) on the same CPUs with two streams, get the same arrays, and have
as much in flight as they can use. Their answers are compared first. Of each rival's settings the best is chosen in a
trial, and then takes turns with trtlab.
"""

from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import trtlab
from _models import minilm, minilm_inputs, ocr_inputs, ocr_rec
from _report import Report

Arrays = dict[str, np.ndarray]
STREAMS = min(2, len(os.sched_getaffinity(0)))
IN_FLIGHT = 2 * STREAMS + 2


class Trtlab:
    """One caller that keeps some requests in flight, and reads each answer."""

    def __init__(self, path: Path, inputs: Arrays, manager: trtlab.InferenceManager, name: str) -> None:
        self._model = manager.load(name, path)
        self._inputs = inputs
        self.output = self._model.outputs[0].name

    def answer(self) -> np.ndarray:
        return np.array(self._model.infer(**self._inputs).result()[self.output])

    def run(self, until: float) -> int:
        infer, inputs, output = self._model.infer, self._inputs, self.output
        pending: deque[trtlab.Future] = deque()
        done = 0
        for _ in range(IN_FLIGHT):
            pending.append(infer(**inputs))
        while time.perf_counter() < until:
            pending.popleft().result()[output]
            done += 1
            pending.append(infer(**inputs))
        while pending:
            pending.popleft().result()[output]
            done += 1
        return done


class OpenVino:
    """OpenVINO's queue of infer requests: as many as it thinks best for throughput (0), or as trtlab has in flight."""

    def __init__(self, compiled: openvino.CompiledModel, inputs: Arrays, share_inputs: bool, jobs: int) -> None:
        self._compiled = compiled
        self._inputs = inputs
        self._share = share_inputs
        self._queue = openvino.AsyncInferQueue(compiled, jobs)
        self._done = 0
        self._queue.set_callback(self._read)

    def _read(self, request: openvino.InferRequest, _: object) -> None:
        _ = request.get_output_tensor(0).data
        self._done += 1

    def answer(self) -> np.ndarray:
        return np.array(self._compiled.create_infer_request().infer(self._inputs)[0])

    def run(self, until: float) -> int:
        start, inputs, share = self._queue.start_async, self._inputs, self._share
        self._done = 0
        while time.perf_counter() < until:
            start(inputs, share_inputs=share)
        self._queue.wait_all()
        return self._done


class OnnxRuntime:
    """Callers side by side in one session, each with its share of the threads."""

    def __init__(self, path: Path, inputs: Arrays, intra: int, callers: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = inputs
        self._callers = callers

    def answer(self) -> np.ndarray:
        return np.asarray(self._session.run(None, self._inputs)[0])

    def run(self, until: float) -> int:

        def call() -> int:
            done = 0
            while time.perf_counter() < until:
                self._session.run(None, self._inputs)
                done += 1
            return done

        with ThreadPoolExecutor(self._callers) as pool:
            return sum(future.result() for future in [pool.submit(call) for _ in range(self._callers)])


Contender = Trtlab | OpenVino | OnnxRuntime


def turn(contender: Contender, seconds: float) -> tuple[float, float]:
    """Return requests per second, and the CPU time of the whole process per request in milliseconds.

    Where others use the CPUs too, the second says more.
    """
    cpu, begin = time.process_time(), time.perf_counter()
    done = contender.run(begin + seconds)
    took = time.perf_counter() - begin
    return done / took, (time.process_time() - cpu) * 1e3 / done


def main() -> None:
    report = Report(__doc__.splitlines()[0], ["openvino", "onnxruntime", "numpy"])
    report.parser.add_argument("--seconds", type=float, default=0.5, help="of each turn (default %(default)s)")
    report.parser.add_argument("--only", default="", help="part of the name of the cases to run")
    arguments = report.start()
    seconds: float = arguments.seconds
    core = openvino.Core()
    settings = {"NUM_STREAMS": STREAMS, "ENABLE_CPU_PINNING": "NO", "INFERENCE_PRECISION_HINT": "f32"}

    cases: dict[str, tuple[Path, Arrays]] = {
        "PP-OCR rec, float32 [4, 3, 48, 320]": (ocr_rec(), ocr_inputs(4)),
        "PP-OCR rec, float32 [1, 3, 48, 320]": (ocr_rec(), ocr_inputs(1)),
        "MiniLM int8, int64 [1, 64]": (minilm(), minilm_inputs(1)),
        "MiniLM int8, int64 [4, 64]": (minilm(), minilm_inputs(4)),
    }
    for title, (path, inputs) in cases.items():
        if arguments.only not in title:
            continue
        with trtlab.InferenceManager(max_executions=STREAMS) as manager:
            ours = Trtlab(path, inputs, manager, "model")
            compiled = core.compile_model(core.read_model(path), "CPU", settings)
            queues: dict[str, Contender] = {
                f"OpenVINO queue, share_inputs={share}, {jobs or 'its own'} jobs": OpenVino(
                    compiled, inputs, share, jobs
                )
                for share in (True, False)
                for jobs in (0, IN_FLIGHT)
            }
            sessions: dict[str, Contender] = {
                f"onnxruntime, {intra} threads, {callers} callers": OnnxRuntime(path, inputs, intra, callers)
                for intra, callers in ((STREAMS, 1), (1, STREAMS))
            }

            answer = ours.answer()
            contenders: dict[str, Contender] = {"trtlab": ours}
            report.say(f"\n{title}: trial of the rivals' settings")
            for settings_of_one in (queues, sessions):
                trial = report.interleave(
                    {name: partial(turn, rival, seconds / 2) for name, rival in settings_of_one.items()},
                    rounds=2,
                )
                best = max(trial, key=lambda name: max(trial[name]))
                for name, rival in settings_of_one.items():
                    distance = float(np.abs(rival.answer() - answer).max())
                    report.say(
                        f"  {name:<46} {max(trial[name])[0]:>12.4g}/s  its answer is within {distance:.2g} of trtlab's"
                    )
                contenders[best] = settings_of_one[best]

            turn(ours, seconds / 2)
            figures = report.interleave(
                {name: partial(turn, contender, seconds) for name, contender in contenders.items()}
            )
            rivals = list(contenders)[1:]
            for which, unit in enumerate(("requests/s", "CPU ms/request")):
                report.table(
                    title,
                    unit,
                    {name: [pair[which] for pair in pairs] for name, pairs in figures.items()},
                    ours="trtlab",
                    rivals=rivals,
                    higher_is_better=which == 0,
                    aim=">= 0.98" if which == 0 else "",
                )
    report.finish()


if __name__ == "__main__":
    main()
