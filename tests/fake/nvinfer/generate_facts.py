"""Write the verified slots of TensorRT as a C++ header, for the fake library: generate_facts.py FACTS HEADER.

The fake is built from the facts and not from the layer's own table, so that a wrong slot in that table meets a function
that it did not expect.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def number(release: str) -> int:
    """Return a release as getInferLibVersion counts: "10.7.0" -> 100700; 0 for words."""
    match = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if match is None:
        return 0
    major, minor, patch = (int(part or 0) for part in match.groups())
    return major * 10000 + minor * 100 + patch


def main() -> None:
    """Read the facts and write the header."""
    facts, header = Path(sys.argv[1]), Path(sys.argv[2])
    slots = json.loads((facts / "slots.json").read_text(encoding="utf-8"))
    meta = json.loads((facts / "meta.json").read_text(encoding="utf-8"))
    lines = [
        "// Written by generate_facts.py.",
        "#pragma once",
        "namespace fake_nvinfer {",
        "struct Fact { const char* table; const char* name; const char* method; int slot; int since; };",
        "inline constexpr Fact kFacts[] = {",
    ]
    for table, classes in slots.items():
        since = meta["since"].get(table, {})
        for name, methods in classes.items():
            for method, slot in methods.items():
                release = number(since.get(name, {}).get(method, ""))
                lines.append(f'    {{"{table}", "{name}", "{method}", {slot}, {release}}},')
    lines += ["};", "}  // namespace fake_nvinfer", ""]
    header.write_text("\n".join(lines), encoding="utf-8")


main()
