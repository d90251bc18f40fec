"""What the commands print, and how."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 1000


def console(stderr: bool = False) -> Console:
    """Return rich's view of stdout or stderr; takes text as it is, for names may look like markup."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # What is not read on a terminal is not cut to a terminal's width.
    width = None if stream.isatty() else _WIDE
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False, soft_wrap=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", left: int = 1) -> None:
    """Print a table on stdout; the first ``left`` columns are flush left, the others right. Empty names: no header."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD if any(columns) else None,
        show_header=any(columns),
        pad_edge=False,
        padding=(0, 2, 0, 0) if not any(columns) else (0, 1),
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    out = console()
    if title:
        # A line of its own: a table's title is broken at the table's width.
        out.print(f"\n{title}", style="bold", soft_wrap=True)
    out.print(table)


def print_json(value: Any) -> None:
    """Print ``value`` on stdout as JSON; numbers that JSON cannot say become strings ("nan", "inf")."""
    print(json.dumps(_sayable(value), indent=2))


def note(text: str) -> None:
    """Print a line on stderr that is no part of the answer."""
    print(text, file=sys.stderr)


def size(size_bytes: float) -> str:
    """Return "4.7 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"


def time(time_us: float) -> str:
    """Return "12.3 us", "4.56 ms" or "1.20 s": three or four digits."""
    for unit, factor in (("us", 1.0), ("ms", 1e3), ("s", 1e6)):
        value = time_us / factor
        if value < 999.5 or unit == "s":
            break
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def number(value: float) -> str:
    """Return a rate or an element in four digits or so."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sayable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sayable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
