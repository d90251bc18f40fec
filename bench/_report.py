"""What the Python benchmarks share: the header that says what ran where, interleaved rounds, tables of ratios."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Figure = TypeVar("Figure")


def cpu_model() -> str:
    """Return the processor's own name for itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown CPU"


def commit() -> str:
    """Return TRTLAB_COMMIT, or the commit that this file is of, with "-dirty" if the tree has changed since."""
    if given := os.environ.get("TRTLAB_COMMIT"):
        return given
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def version(distribution: str) -> str:
    """Return the installed version of a distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def load() -> str:
    """Return what else the machine does: the load averages of 1, 5 and 15 minutes."""
    return "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg())


class Report:
    """The environment, then tables of contenders that took turns, then (with --json) all figures as JSON."""

    def __init__(self, description: str, packages: Sequence[str] = (), rounds: int = 7) -> None:
        self.parser = argparse.ArgumentParser(description=description)
        self.parser.add_argument(
            "--rounds", type=int, default=rounds, help="turns of each contender (default %(default)s)"
        )
        self.parser.add_argument(
            "--json", action="store_true", help="print the figures as JSON, and the rest to stderr"
        )
        self._packages = packages
        self._tables: list[dict[str, object]] = []
        self._environment: dict[str, str] = {}

    def start(self) -> argparse.Namespace:
        """Parse the command line and print the header."""
        self.arguments = self.parser.parse_args()
        self.rounds = max(1, self.arguments.rounds)
        import trtlab

        self._environment = {
            "command": " ".join([Path(sys.executable).name, *sys.argv]),
            "machine": f"{cpu_model()}, {len(os.sched_getaffinity(0))} CPUs usable of {os.cpu_count()}",
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "Python": platform.python_version(),
            "trtlab": f"{trtlab.__version__}, commit {commit()}",
            **{package: version(package) for package in self._packages},
            "load": load(),
        }
        for what, value in self._environment.items():
            self.say(f"{what:<12} {value}")
        return self.arguments

    def say(self, line: str = "") -> None:
        """Print for the human reader."""
        print(line, file=sys.stderr if self.arguments.json else sys.stdout, flush=True)

    def interleave(
        self, contenders: Mapping[str, Callable[[], Figure]], rounds: int | None = None
    ) -> dict[str, list[Figure]]:
        """Let every contender measure once, in turn, and that for every round: one figure (or tuple) a round each.

        Every second round runs backwards, so that nobody always follows the same one.
        """
        figures: dict[str, list[Figure]] = {name: [] for name in contenders}
        for turn in range(rounds or self.rounds):
            order = list(contenders.items())
            for name, measure in order if turn % 2 == 0 else reversed(order):
                figures[name].append(measure())
        return figures

    def table(
        self,
        title: str,
        unit: str,
        figures: Mapping[str, Sequence[float]],
        *,
        ours: str,
        rivals: Sequence[str],
        higher_is_better: bool = False,
        difference: bool = False,
        aim: str = "",
    ) -> float:
        """Print medians, and how ``ours`` compares with the best of ``rivals``: the median of the rounds' ratios.

        Returns that ratio, or with ``difference`` the median of the differences.
        """
        medians = {name: statistics.median(values) for name, values in figures.items()}
        best = (max if higher_is_better else min)(rivals, key=medians.__getitem__)
        self.say(f"\n{title} [{unit}], {self.rounds} rounds, load {load()}")
        rows = []
        for name, values in figures.items():
            paired = statistics.median(a / b for a, b in zip(values, figures[best], strict=True))
            self.say(
                f"  {name:<46} {medians[name]:>12.4g}  [{min(values):.4g} .. {max(values):.4g}]  x {paired:.3f}"
                + ("  <- best rival" if name == best else "")
            )
            rows.append({"name": name, "median": medians[name], "rounds": list(values), "ratio_to_best": paired})
        pairs = zip(figures[ours], figures[best], strict=True)
        result = statistics.median(a - b if difference else a / b for a, b in pairs)
        sign = "-" if difference else "/"
        self.say(
            f"  {ours} {sign} {best}: {result:.4g}{' ' + unit if difference else ''}" + (f"   aim {aim}" if aim else "")
        )
        self._tables.append(
            {"title": title, "unit": unit, "rows": rows, "ours": ours, "best_rival": best, "aim": aim}
            | {"difference" if difference else "ratio": result}
        )
        return result

    def values(self, title: str, unit: str, values: Mapping[str, float], aim: str = "") -> None:
        """Print figures that have no rival."""
        self.say(f"\n{title} [{unit}], load {load()}" + (f"   aim {aim}" if aim else ""))
        for name, value in values.items():
            self.say(f"  {name:<46} {value:>12.4f}")
        self._tables.append({"title": title, "unit": unit, "values": dict(values), "aim": aim})

    def finish(self) -> None:
        """Print the JSON, if it was asked for."""
        if self.arguments.json:
            print(
                json.dumps({"environment": self._environment, "tables": self._tables, "load_after": load()}, indent=2)
            )
