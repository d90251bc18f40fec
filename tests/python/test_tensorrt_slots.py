"""The one table of TensorRT's interface against the repository's copy of the verified facts, without a compiler."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "cpp" / "tensorrt" / "src" / "abi.hpp"
SEVERITY = ROOT / "cpp" / "tensorrt" / "include" / "trtlab" / "tensorrt" / "runtime.hpp"
FACTS = ROOT / "tests" / "tensorrt" / "facts"
GENERATIONS = ("trt10", "trt11", "rtx1.4", "rtx1.7")
CLASSES = {
    "VRuntime",
    "VCudaEngine",
    "VExecutionContext",
    "VHostMemory",
    "VRuntimeConfig",
    "VEngineInspector",
    "ILogger",
    "IProfiler",
    "IGpuAllocator",
    "IOutputAllocator",
}

COLUMN = r"(-1|\d+|at\(\d+, \d+\))"
ROW = re.compile(r"METHOD\((\w+), " + ", ".join([COLUMN] * 4) + ",")
CLASS = re.compile(r"#define TRTLAB_TENSORRT_([VI]\w+)\(METHOD\)(.*?)(?=\n#|\n//|\n\n|\Z)", re.DOTALL)
ENUM = re.compile(r"enum class (\w+) : std::int32_t \{ ([^}]+) \};")
AT = re.compile(r"at\((\d+), (\d+)\)")

Facts = dict[str, Any]


def number(release: str) -> int:
    """A release as getInferLibVersion counts."""
    # "after 11.1, present in 11.4": what is certain
    parts = [int(part) for part in re.findall(r"\d+", release.rsplit(" ", 1)[-1])] + [0, 0]
    return parts[0] * 10000 + parts[1] * 100 + parts[2]


def rows(text: str) -> dict[str, dict[str, tuple[tuple[int, int], ...]]]:
    """Class -> method -> (slot, first release) of each generation."""
    found: dict[str, dict[str, tuple[tuple[int, int], ...]]] = {}
    for name, body in CLASS.findall(text):
        methods = {}
        for method, *columns in ROW.findall(body):
            cells = []
            for column in columns:
                match = AT.fullmatch(column)
                cells.append((int(match[1]), int(match[2])) if match else (int(column), 0))
            methods[method] = tuple(cells)
        assert len(methods) == body.count("METHOD("), f"{name}: a row that the test can't read"
        found[name] = methods
    return found


def wrong_slots(text: str, slots: Facts, meta: Facts) -> list[str]:
    """Where the table and the facts differ."""
    wrong = []
    for name, methods in rows(text).items():
        for method, cells in methods.items():
            for generation, (slot, since) in zip(GENERATIONS, cells, strict=True):
                # What TensorRT 11.4 has appended stands in a table of its own in the facts.
                tables = ("trt11", "trt11.4") if generation == "trt11" else (generation,)
                true_slot = next((slots[t][name][method] for t in tables if method in slots[t].get(name, {})), -1)
                true_since = number(meta["since"].get(generation, {}).get(name, {}).get(method, "0"))
                if (slot, since) != (true_slot, true_since):
                    wrong.append(f"{generation} {name}.{method}: {(slot, since)}, not {(true_slot, true_since)}")
    return wrong


def wrong_numbers(text: str, severity: str, enums: Facts) -> list[str]:
    """Where the enumerations and the facts differ."""
    wrong = []
    for name, body in ENUM.findall(text):
        values = {key: int(value) for key, value in re.findall(r"(\w+) = (\d+)", body)}
        assert len(values) == body.count(",") + 1, f"{name}: a value that the test can't read"
        wrong += [f"{name}::{key} = {value}" for key, value in values.items() if enums[name].get(key) != value]
    match = re.search(r"enum class Severity : std::int32_t \{([^}]+)\};", severity)
    assert match is not None
    for value, key in enumerate(word.strip() for word in match[1].split(",")):
        if enums["Severity"].get("k" + key.upper()) != value:
            wrong.append(f"Severity::{key} = {value}")
    return wrong


@pytest.fixture(scope="module")
def slots() -> Facts:
    facts: Facts = json.loads((FACTS / "slots.json").read_text(encoding="utf-8"))
    return facts


@pytest.fixture(scope="module")
def meta() -> Facts:
    facts: Facts = json.loads((FACTS / "meta.json").read_text(encoding="utf-8"))
    return facts


@pytest.fixture(scope="module")
def enums() -> Facts:
    facts: Facts = json.loads((FACTS / "enums.json").read_text(encoding="utf-8"))
    return facts


@pytest.fixture(scope="module")
def table() -> str:
    return TABLE.read_text(encoding="utf-8")


def test_every_slot_is_the_verified_one(table: str, slots: Facts, meta: Facts) -> None:
    assert wrong_slots(table, slots, meta) == []


def test_the_whole_table_was_read(table: str) -> None:
    found = rows(table)
    assert set(found) == CLASSES
    assert sum(len(methods) for methods in found.values()) == len(re.findall(r"^    METHOD\(", table, re.MULTILINE))


def test_every_number_is_the_verified_one(table: str, enums: Facts) -> None:
    assert wrong_numbers(table, SEVERITY.read_text(encoding="utf-8"), enums) == []
    assert len(ENUM.findall(table)) >= 9


def test_layouts_are_the_verified_ones(table: str, meta: Facts) -> None:
    dims, info = meta["layout"]["Dims64"], meta["layout"]["InterfaceInfo"]
    assert f"sizeof(Dims) == {dims['size']} && offsetof(Dims, d) == {dims['d']}" in table
    assert f"sizeof(InterfaceInfo) == {info['size']} && offsetof(InterfaceInfo, major) == {info['major']}" in table
    assert f"offsetof(InterfaceInfo, minor) == {info['minor']}" in table


def test_the_deleting_destructor_is_where_it_is(table: str, slots: Facts) -> None:
    match = re.search(r"kDeletingDestructor = (\d+);", table)
    assert match is not None
    assert {slots[generation]["IAnyApiClass"]["~D0"] for generation in GENERATIONS} == {int(match[1])}


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("METHOD(getNbIOTensors, 30, 26, 28, 26,", "METHOD(getNbIOTensors, 30, 26, 29, 26,", "rtx1.4"),
        ("METHOD(isStreamCapturable, -1, -1, 53, 52,", "METHOD(isStreamCapturable, -1, 52, 53, 52,", "trt11"),
        ("at(56, 101100)", "at(56, 101000)", "createRuntimeConfig"),
        ("at(56, 101100)", "56", "createRuntimeConfig"),
        ("METHOD(notifyShape, 6, 6, 5, 5,", "METHOD(notifyShape, 6, 6, 6, 5,", "IOutputAllocator"),
        ("METHOD(getDeviceMemorySize, 7, -1, -1, -1,", "METHOD(getDeviceMemorySize, 7, -1, 7, -1,", "rtx1.4"),
    ],
)
def test_a_wrong_slot_is_caught(table: str, slots: Facts, meta: Facts, old: str, new: str, word: str) -> None:
    assert table.count(old) == 1
    (message,) = wrong_slots(table.replace(old, new), slots, meta)
    assert word in message


def test_a_wrong_number_is_caught(table: str, enums: Facts) -> None:
    severity = SEVERITY.read_text(encoding="utf-8")
    assert wrong_numbers(table.replace("kBF16 = 7", "kBF16 = 6"), severity, enums) == ["DataType::kBF16 = 6"]
    swapped = severity.replace("error, warning", "warning, error")
    assert wrong_numbers(table, swapped, enums) == ["Severity::warning = 1", "Severity::error = 2"]
