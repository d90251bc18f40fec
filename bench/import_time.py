"""What `import trtlab` adds to the start of an interpreter: whole processes, in turn with bare ones."""

from __future__ import annotations

import subprocess
import sys
import time

from _report import Report


def start_ms(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - begin) * 1e3


def main() -> None:
    report = Report(__doc__.splitlines()[0], ["numpy", "nanobind-backend"], rounds=21)
    report.start()
    figures = report.interleave(
        {
            "import trtlab": lambda: start_ms("import trtlab"),
            "bare interpreter": lambda: start_ms("pass"),
            "import numpy": lambda: start_ms("import numpy"),
        }
    )
    report.table(
        "start and end of a process",
        "ms",
        figures,
        ours="import trtlab",
        rivals=["bare interpreter"],
        difference=True,
        aim="<= 100 ms",
    )
    report.finish()


if __name__ == "__main__":
    main()
