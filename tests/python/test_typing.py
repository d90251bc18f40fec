"""What a type checker and a reader of documentation find in the installed package."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import trtlab

PACKAGE = Path(trtlab.__file__).parent


@pytest.mark.parametrize("layer", ["core", "openvino"])
def test_a_stub_lies_beside_each_module_and_parses(layer: str) -> None:
    names = {
        node.name
        for node in ast.parse((PACKAGE / "_bindings" / f"_{layer}.pyi").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    module = __import__(f"trtlab._bindings._{layer}", fromlist=["_"])
    public = {name for name in dir(module) if not name.startswith("_")}
    assert public
    assert public <= names


@pytest.mark.parametrize("name", trtlab.__all__)
def test_a_public_name_exists_and_is_documented(name: str) -> None:
    thing = getattr(trtlab, name)
    assert name in dir(trtlab)
    if name == "__version__":
        return
    assert inspect.getdoc(thing)


@pytest.mark.parametrize(
    "kind", [getattr(trtlab, name) for name in trtlab.__all__ if inspect.isclass(getattr(trtlab, name))]
)
def test_every_public_member_is_documented(kind: type) -> None:
    undocumented = [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_") and (callable(member) or inspect.isdatadescriptor(member)) and not member.__doc__
    ]
    assert undocumented == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'telepathy'"):
        trtlab.telepathy  # type: ignore[attr-defined]  # noqa: B018
