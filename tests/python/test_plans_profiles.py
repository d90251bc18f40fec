"""Optimization profiles: the text, the Python form, and what a model makes of them."""

from __future__ import annotations

import contextlib
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtlab.errors import InvalidArgument
from trtlab.plans import parse_profile, profile_text
from trtlab.plans.onnx_file import Input
from trtlab.plans.profiles import read_profiles, resolve

DATA = Input("data", "float32", ("N", 3, 224, 224))
FREE = Input("x", "float32", (None, 3, None, None))
FIXED = Input("fixed", "float32", (1, 4))
SIZES = Input("sizes", "int64", (2,))

extents = st.integers(0, 2**31 - 1)
ranges = st.lists(st.tuples(extents, extents, extents), min_size=1, max_size=6).map(
    lambda axes: tuple(zip(*[sorted(axis) for axis in axes], strict=True))
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def resolved(text: Any, *inputs: Input) -> Any:
    return resolve(read_profiles(text), inputs, "model.onnx")


@pytest.mark.parametrize(
    "text",
    [
        "data=1x3x224x224:8x3x224x224:32x3x224x224",
        "data=1x...:8x...:32x...",
        "data=1x...x224:8x3x...:32x3x224x224",
    ],
)
def test_dots_stand_for_what_the_model_fixes(text: str) -> None:
    assert resolved(text, DATA) == [{"data": ((1, 3, 224, 224), (8, 3, 224, 224), (32, 3, 224, 224))}]


def test_one_shape_is_always_that_shape() -> None:
    assert resolved("data=8x...", DATA) == [{"data": ((8, 3, 224, 224),) * 3}]


def test_several_inputs_and_several_profiles() -> None:
    found = resolved(["data=1x...,x=1x3x32x32", "x=2x3x64x64,data=2x..."], DATA, FREE)
    assert [sorted(profile) for profile in found] == [["data", "x"], ["data", "x"]]
    assert found[1]["x"] == ((2, 3, 64, 64),) * 3


@pytest.mark.parametrize("name", ["input:0", "a,b", "a=b", "x", "é[0]", "1x2:3"])
def test_a_name_may_hold_what_separates_shapes(name: str) -> None:
    assert parse_profile(f"{name}=1x2:3x4:5x6") == {name: ((1, 2), (3, 4), (5, 6))}


@pytest.mark.parametrize(
    "profiles",
    [
        {"data": ((1, ...), (8, ...), (32, ...))},
        [{"data": [[1, 3, 224, 224], "8x...", (32, ...)]}],
        {"data": "1x...:8x...:32x..."},
    ],
)
def test_python_values_say_the_same_as_text(profiles: Any) -> None:
    assert resolved(profiles, DATA) == resolved("data=1x...:8x...:32x...", DATA)


def test_values_of_a_small_integer_input_are_taken_as_they_are() -> None:
    assert resolved("sizes=32x32:64x64:128x512", SIZES) == [{"sizes": ((32, 32), (64, 64), (128, 512))}]


def test_a_model_without_open_axes_needs_no_profile() -> None:
    assert resolved(None, FIXED) == []


def test_open_axes_without_a_profile_are_refused_with_a_command_that_names_them() -> None:
    with pytest.raises(InvalidArgument) as refused:
        resolved(None, DATA, FREE, FIXED)
    message = str(refused.value)
    assert "data[Nx3x224x224], x[?x3x?x?]" in message
    command = shlex.split(message[message.index("trtlab build") :])
    # What it shows must be what the parser takes.
    assert resolved(command[command.index("--profile") + 1], DATA, FREE, FIXED)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "NAME=min:opt:max"),
        ("data", "NAME=min:opt:max"),
        ("=1x3", "NAME=min:opt:max"),
        ("data=1x3x224x224:8x3x224x224", "one shape, or three"),
        ("data=1:2:3:4", "one shape, or three"),
        ("data=", "a shape is missing"),
        ("data=1x...::2x...", "a shape is missing"),
        ("data=1xx3", "expected a shape like"),
        ("data=99999999999x...", "no axis above 2147483647"),
        ("data=...x...", "'...' at most once"),
        ("data=1x...,data=1x...", "given twice"),
        ("daten=1x...", "no input 'daten'; its inputs are 'data'"),
        ("data=1x...x...:1x...:1x...", "at most once"),
        ("data=1x3:1x3:1x3", "min: expected 4 axes, the model has [Nx3x224x224], got 1x3"),
        ("data=1x4x224x224", "axis 1 is 3 in the model [Nx3x224x224], got 4"),
        ("data=8x...:1x...:32x...", "axis 0: expected min <= opt <= max, got 8:1:32"),
        ("data=...", "'...' stands for axis 0, which the model [Nx3x224x224] leaves open"),
        ("data=1x3x224x224x1x...", "expected 4 axes"),
        ("x" * 30_000, "at most 20000 characters"),
    ],
)
def test_a_wrong_profile_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        resolved(text, DATA)
    assert words in str(refused.value)


def test_an_open_input_that_a_profile_leaves_out_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"profile 1: no shapes for x\[\?x3x\?x\?\]"):
        resolved(["data=1x...,x=1x3x8x8", "data=1x..."], DATA, FREE)


@pytest.mark.parametrize(
    "profiles",
    [7, b"data=1", [7], {7: ((1,), (1,), (1,))}, {"data": 7}, {"data": ((1,), (2,))}, {"data": ((-1,), (2,), (3,))}]
    + [{"data": ((True, 3, 224, 224),) * 3}, {"data": (("1", 3), (1,), (1,))}, [["data=1"]], [None] * 2000],
)
def test_python_values_of_another_kind_are_refused(profiles: Any) -> None:
    with pytest.raises(InvalidArgument):
        resolved(profiles, DATA)


@given(st.dictionaries(st.text("abc:xé0_", min_size=1), ranges, min_size=1, max_size=4))
def test_what_is_written_is_read_back(profile: Any) -> None:
    assert parse_profile(profile_text(profile)) == profile


@given(st.one_of(st.text(), st.text("x.:=,0123456789data ")), names)
def test_no_text_raises_anything_else(text: str, name: str) -> None:
    for attempt in (text, f"{name}={text}", f"data={text}"):
        with contextlib.suppress(InvalidArgument):
            resolve([parse_profile(attempt)], [DATA, FREE, SIZES], "model.onnx")
