"""The README's Python blocks, run in order as one program."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_python_blocks_run_in_order_and_print_what_they_say(tmp_path: Path) -> None:
    files = importlib.metadata.files("rapidocr-onnxruntime") or []
    (recogniser,) = (Path(str(file.locate())) for file in files if file.name == "ch_PP-OCRv4_rec_infer.onnx")
    (tmp_path / "rec.onnx").symlink_to(recogniser)
    program = "\n".join(blocks("python"))
    assert program.count("import trtlab") == 1
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    promised = re.search(r"print\(error\)  # (.*)$", program, re.MULTILINE)
    assert promised is not None
    assert promised.group(1) in done.stdout


def test_every_path_that_the_readme_names_exists() -> None:
    text = re.sub(r"^```.*?^```$", "", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (README.parent / target).exists(), target
