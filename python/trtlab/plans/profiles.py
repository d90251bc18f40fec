"""Optimization profiles: the ranges of shapes that a plan serves, as text and as Python values, checked with a model.

data=1x3x224x224:8x3x224x224:32x3x224x224     least : most likely : most
data=1x...:8x...:32x...                       "..." repeats what the model itself says of the other axes
data=8x3x224x224                              always this
a=1x64:8x64:8x512,b=1x...:8x...:8x...         several inputs; several profiles are several texts
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any

from trtlab.errors import InvalidArgument
from trtlab.manager import shown
from trtlab.plans.onnx_file import Input

__all__ = ["Pattern", "Profile", "Range", "Shape", "parse_profile", "profile_text", "read_profiles", "resolve"]

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]
"""Least, most likely, most."""
Profile = dict[str, Range]
Pattern = tuple["int | EllipsisType", ...]
"""A shape in which "..." may stand for axes that the model fixes."""
Patterns = dict[str, tuple[Pattern, Pattern, Pattern]]

MOST_EXTENT = 2**31 - 1
_MOST_TEXT = 20_000
_MOST_PROFILES = 1000
_MOST_AXES = 64
_ITEM = re.compile(r"(.+?)=([0-9x.:]*)(?:,|$)", re.DOTALL)
_WORDS = ("min", "opt", "max")


def parse_profile(text: str) -> Patterns:
    """Read one profile: ``name=min:opt:max``, with commas between inputs. Raises InvalidArgument saying where."""
    if not isinstance(text, str):
        raise InvalidArgument(f"profile: expected text like 'data=1x...:8x...:32x...', got {shown(text)}")
    if len(text) > _MOST_TEXT:
        raise InvalidArgument(f"profile: at most {_MOST_TEXT} characters, got {len(text)}")
    found: Patterns = {}
    place = 0
    while place < len(text) or not found:
        match = _ITEM.match(text, place)
        if match is None:
            raise InvalidArgument(
                f"profile: expected NAME=min:opt:max like 'data=1x3x224x224:8x3x224x224:32x3x224x224', "
                f"got {shown(text[place:])}"
            )
        name, shapes = match[1], match[2].split(":")
        if name in found:
            raise InvalidArgument(f"profile: input {name!r} is given twice in {shown(text)}")
        if len(shapes) == 1:
            shapes = shapes * 3
        if len(shapes) != 3:
            raise InvalidArgument(
                f"profile: input {name!r}: expected one shape, or three (min:opt:max), got {shown(match[2])}"
            )
        least, likely, most = (_parse_shape(name, shape) for shape in shapes)
        found[name] = (least, likely, most)
        place = match.end()
    return found


def read_profiles(profiles: Any) -> list[Patterns]:
    """Read what Python code gives: None, a text, a dict ``{name: (min, opt, max)}``, or a sequence of such.

    A shape is a sequence of ints, in which ``...`` may stand once, or a text like "1x...". Raises InvalidArgument.
    """
    if profiles is None:
        return []
    if isinstance(profiles, (str, Mapping)):
        profiles = [profiles]
    if not isinstance(profiles, Sequence) or isinstance(profiles, (bytes, bytearray)):
        raise InvalidArgument(f"profiles: expected a list of dicts name -> (min, opt, max), got {shown(profiles)}")
    if len(profiles) > _MOST_PROFILES:
        raise InvalidArgument(f"profiles: at most {_MOST_PROFILES}, got {len(profiles)}")
    return [parse_profile(item) if isinstance(item, str) else _from_mapping(item) for item in profiles]


def profile_text(profile: Profile) -> str:
    """Return the text that ``parse_profile`` reads as this."""
    items = []
    for name, shapes in profile.items():
        texts = ["x".join(map(str, shape)) for shape in shapes]
        items.append(f"{name}={texts[0] if len(set(texts)) == 1 else ':'.join(texts)}")
    return ",".join(items)


def resolve(profiles: list[Patterns], inputs: Sequence[Input], model: str) -> list[Profile]:
    """Check the profiles against a model's inputs and return them with every axis a number.

    An integer input of rank 0 or 1 may be one whose values decide shapes: there the numbers are those values, and the
    builder says whether they were wanted. Raises InvalidArgument naming input, axis, what the model has, what came.
    """
    dynamic = [one for one in inputs if one.dynamic]
    if not profiles:
        if dynamic:
            listed = ", ".join(f"{one.name}[{one.shape_text}]" for one in dynamic)
            raise InvalidArgument(
                f"{model}: its inputs {listed} have axes of no fixed size, so the plan needs a profile: the least, the "
                f"most likely and the greatest shape. For example: {example_command(model, dynamic)}"
            )
        return []
    known = {one.name: one for one in inputs}
    resolved = []
    for number, profile in enumerate(profiles):
        where = f"{model}: profile {number}" if len(profiles) > 1 else f"{model}: profile"
        for name in profile:
            if name not in known:
                raise InvalidArgument(
                    f"{where}: the model has no input {name!r}; its inputs are {', '.join(map(repr, known)) or 'none'}"
                )
        missing = [one for one in dynamic if one.name not in profile]
        if missing:
            raise InvalidArgument(
                f"{where}: no shapes for {', '.join(f'{one.name}[{one.shape_text}]' for one in missing)}; "
                f"every input with an axis of no fixed size needs them"
            )
        resolved.append({name: _ranges(where, known[name], patterns) for name, patterns in profile.items()})
    return resolved


def example_command(model: str, dynamic: Sequence[Input]) -> str:
    """Return a command line that builds, with sizes to be replaced by one's own."""
    items = []
    for one in dynamic:
        shapes = []
        for batch, other in ((1, 32), (8, 128), (32, 512)):
            shape = one.shape if one.shape is not None else (None, None)
            open_sizes = [
                size if isinstance(size, int) else batch if axis == 0 else other for axis, size in enumerate(shape)
            ]
            if all(isinstance(size, int) for size in shape[1:]) and len(shape) > 1:
                shapes.append(f"{open_sizes[0]}x...")
            else:
                shapes.append("x".join(map(str, open_sizes)))
        items.append(f"{one.name}={':'.join(shapes)}")
    return f"trtlab build {shlex.quote(model)} --profile {shlex.quote(','.join(items))}"


def _parse_shape(name: str, text: str) -> Pattern:
    if text == "":
        raise InvalidArgument(f"profile: input {name!r}: a shape is missing; expected one like 8x3x224x224")
    axes: list[int | EllipsisType] = []
    for part in text.split("x"):
        if part == "...":
            axes.append(...)
        elif part.isdigit() and len(part) <= 10 and int(part) <= MOST_EXTENT:
            axes.append(int(part))
        else:
            raise InvalidArgument(
                f"profile: input {name!r}: expected a shape like 8x3x224x224 or 8x..., no axis above {MOST_EXTENT}, "
                f"got {shown(text)}"
            )
    return _checked(name, tuple(axes))


def _from_mapping(profile: Any) -> Patterns:
    if not isinstance(profile, Mapping):
        raise InvalidArgument(f"profiles: expected dicts name -> (min, opt, max), got {shown(profile)}")
    found: Patterns = {}
    for name, shapes in profile.items():
        if not isinstance(name, str):
            raise InvalidArgument(f"profiles: expected the names of inputs, got {shown(name)}")
        if isinstance(shapes, str):
            found.update(parse_profile(f"{name}={shapes}"))
            continue
        if not isinstance(shapes, Sequence) or len(shapes) != 3:
            raise InvalidArgument(f"profiles: input {name!r}: expected (min, opt, max), got {shown(shapes)}")
        least, likely, most = (_shape_of(name, shape) for shape in shapes)
        found[name] = (least, likely, most)
    return found


def _shape_of(name: str, shape: Any) -> Pattern:
    if isinstance(shape, str):
        return _parse_shape(name, shape)
    if not isinstance(shape, Sequence):
        raise InvalidArgument(f"profiles: input {name!r}: expected a shape like (8, 3, 224, 224), got {shown(shape)}")
    for size in shape:
        if size is not ... and (type(size) is not int or not 0 <= size <= MOST_EXTENT):
            raise InvalidArgument(
                f"profiles: input {name!r}: expected axes from 0 to {MOST_EXTENT}, or '...', got {shown(shape)}"
            )
    return _checked(name, tuple(shape))


def _checked(name: str, pattern: Pattern) -> Pattern:
    if len(pattern) > _MOST_AXES or pattern.count(...) > 1:
        raise InvalidArgument(
            f"profile: input {name!r}: expected at most {_MOST_AXES} axes and '...' at most once, got {shown(pattern)}"
        )
    return pattern


def _ranges(where: str, one: Input, patterns: tuple[Pattern, Pattern, Pattern]) -> Range:
    where = f"{where}: input {one.name!r}"
    least, likely, most = (_shape(where, word, one, pattern) for word, pattern in zip(_WORDS, patterns, strict=True))
    if not len(least) == len(likely) == len(most):
        raise InvalidArgument(f"{where}: min, opt and max have {len(least)}, {len(likely)} and {len(most)} axes")
    for axis, (low, middle, high) in enumerate(zip(least, likely, most, strict=True)):
        if not low <= middle <= high:
            raise InvalidArgument(f"{where}: axis {axis}: expected min <= opt <= max, got {low}:{middle}:{high}")
    return least, likely, most


def _shape(where: str, word: str, one: Input, pattern: Pattern) -> Shape:
    if one.shape is None:
        if ... in pattern:
            raise InvalidArgument(f"{where}: the model fixes no rank, so '...' says nothing: give every axis")
        return tuple(size for size in pattern if isinstance(size, int))
    sizes: Pattern = pattern
    if ... in pattern:
        place = pattern.index(...)
        count = len(one.shape) - (len(pattern) - 1)
        repeated = one.shape[place : place + max(count, 0)]
        for axis, size in enumerate(repeated, place):
            if not isinstance(size, int):
                raise InvalidArgument(
                    f"{where}: {word}: '...' stands for axis {axis}, which the model [{one.shape_text}] leaves open: "
                    "give it a number"
                )
        sizes = (*pattern[:place], *(size for size in repeated if isinstance(size, int)), *pattern[place + 1 :])
        if count < 0:
            sizes = pattern
    given = tuple(size for size in sizes if isinstance(size, int))
    if one.may_hold_a_shape and len(given) == one.elements:
        return given
    if len(given) != len(one.shape) or len(given) != len(sizes):
        raise InvalidArgument(
            f"{where}: {word}: expected {len(one.shape)} axes, the model has [{one.shape_text}], "
            f"got {'x'.join('...' if size is ... else str(size) for size in pattern)}"
        )
    for axis, (size, fixed) in enumerate(zip(given, one.shape, strict=True)):
        if isinstance(fixed, int) and size != fixed:
            raise InvalidArgument(
                f"{where}: {word}: axis {axis} is {fixed} in the model [{one.shape_text}], got {size}"
            )
    return given
