"""The cache of plans: found by content, safe for several processes, bounded.

<folder>/plans/<key>/model.plan, model.plan.json    a plan and its manifest
<folder>/locks/<key>.lock                           held by whoever builds it, so that one builds and others wait
<folder>/timing/<library>-<version>-<capability>    what TensorRT measured of kernels
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtlab.errors import EngineError, Error, InvalidArgument
from trtlab.manager import shown
from trtlab.plans.checking import read_vouched
from trtlab.plans.manifest import Manifest, manifest_path
from trtlab.plans.signing import Trust

__all__ = ["FOLDER_VARIABLE", "LIMIT_VARIABLE", "Store", "StoreInfo", "write_plan"]

FOLDER_VARIABLE = "TRTLAB_CACHE_DIR"
LIMIT_VARIABLE = "TRTLAB_CACHE_LIMIT"
_LIMIT_BYTES = 32 * 1024**3
_NOBODY = Trust((), False, "the cache")


@dataclass(frozen=True)
class StoreInfo:
    """What a cache holds: ``plans`` are key and manifest, the one used last first."""

    folder: Path
    plans: tuple[tuple[str, Manifest | None], ...]
    size_bytes: int
    limit_bytes: int


class Store:
    """A cache in a folder (None: $TRTLAB_CACHE_DIR, else $XDG_CACHE_HOME/trtlab, else ~/.cache/trtlab).

    Plans beyond $TRTLAB_CACHE_LIMIT bytes (32 GiB if unset) go, the one used longest ago first. Only its owner may read
    the folder: plans are native code, and whoever can write them decides what runs.

    Raises EngineError where the folder cannot be used, InvalidArgument for a limit that is no number.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = _folder(folder)
        self.limit_bytes = _limit()

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a lock between threads and processes; blocks, without the GIL, while another holds it."""
        with self._blamed():
            locks = self._make("locks")
            handle = os.open(locks / f"{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except BaseException:
                os.close(handle)
                raise
        try:
            yield
        finally:
            os.close(handle)

    def plan_path(self, key: str) -> Path:
        """Return where the plan of that key lies, or would."""
        return self.folder / "plans" / key / "model.plan"

    def find(self, key: str) -> tuple[bytes, Manifest] | None:
        """Return a plan and its manifest; None if it is not there, damaged, or another's. Notes that it was used."""
        plan = self.plan_path(key)
        try:
            data, manifest = read_vouched(plan, _NOBODY)
        except (Error, OSError):
            return None
        if manifest is None or manifest.key != key:
            return None
        with contextlib.suppress(OSError):
            os.utime(manifest_path(plan))
        return data, manifest

    def put(self, key: str, data: Any, manifest: Manifest) -> Path:
        """Write a plan, and remove others beyond the limit. The caller holds the key's lock."""
        plan = self.plan_path(key)
        with self._blamed():
            self._make("plans")
            plan.parent.mkdir(mode=0o700, exist_ok=True)
            for left in plan.parent.glob(".*"):  # by a process that died
                left.unlink()
            write_plan(plan, data, manifest)
            self._evict(key)
        return plan

    def info(self) -> StoreInfo:
        """Return what is there."""
        entries = self._entries()
        plans = []
        for entry, _, _ in reversed(entries):
            try:
                manifest = Manifest.from_json(manifest_path(self.plan_path(entry.name)).read_bytes())
            except (Error, OSError):
                manifest = None
            plans.append((entry.name, manifest))
        return StoreInfo(self.folder, tuple(plans), sum(size for _, _, size in entries), self.limit_bytes)

    def clear(self) -> StoreInfo:
        """Remove all plans and timing caches; return what was there. Whoever is building meanwhile writes its own."""
        before = self.info()
        for name in ("plans", "timing", "locks"):
            # Without the lock's file a second process may build the same plan at the same time: twice the work, and
            # whichever replaces the files last has written the same.
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return before

    def timing_path(self, name: str) -> Path:
        """Return the file of TensorRT's timing cache for a library and a GPU."""
        with self._blamed():
            return self._make("timing") / name

    def _make(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EngineError(
                f"the cache of plans in {self.folder} cannot be used: {error}; give cache_dir (--cache-dir), or set "
                f"{FOLDER_VARIABLE}, to a folder that may be written"
            ) from error

    def _entries(self) -> list[tuple[Path, float, int]]:
        """Return folder, time of last use and size of each plan, the one used longest ago first."""
        entries = []
        for entry in (self.folder / "plans").glob("*"):
            with contextlib.suppress(OSError):
                size = sum(file.stat().st_size for file in entry.iterdir())
                manifest = manifest_path(self.plan_path(entry.name))
                used = manifest.stat().st_mtime if manifest.exists() else entry.stat().st_mtime
                entries.append((entry, used, size))
        return sorted(entries, key=lambda item: item[1])

    def _evict(self, keep: str) -> None:
        entries = self._entries()
        total = sum(size for _, _, size in entries)
        for entry, _, size in entries:
            if total <= self.limit_bytes:
                return
            if entry.name == keep:
                continue
            handle = os.open(self.folder / "locks" / f"{entry.name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry, ignore_errors=True)
                total -= size
            except BlockingIOError:  # it is being built
                pass
            finally:
                os.close(handle)


def write_plan(plan: Path, data: Any, manifest: Manifest) -> None:
    """Write a plan and its manifest so that no reader takes the one for the other's. Raises OSError."""
    text = manifest.to_json()
    with _written(plan, data) as temporary:
        # In this order: a manifest that stands unchanged while the plan is read belongs to it (checking.py).
        manifest_path(plan).unlink(missing_ok=True)
        os.replace(temporary, plan)
    with _written(manifest_path(plan), text) as temporary:
        os.replace(temporary, manifest_path(plan))


def write_file(path: Path, data: Any) -> None:
    """Write a file in one go: whoever reads it never sees half of it. Raises OSError."""
    with _written(path, data) as temporary:
        os.replace(temporary, path)


@contextlib.contextmanager
def _written(path: Path, data: Any) -> Iterator[str]:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        yield temporary
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _folder(folder: Any) -> Path:
    if folder is not None:
        try:
            text = os.fspath(folder)
        except TypeError:
            text = b""
        if not isinstance(text, str) or not text or "\0" in text:
            raise InvalidArgument(f"cache_dir: expected a path, got {shown(folder)}")
        return Path(text).absolute()
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "trtlab"
    try:
        return Path.home() / ".cache" / "trtlab"
    except RuntimeError as error:
        raise EngineError(f"the cache of plans has no place ({error}): set {FOLDER_VARIABLE} to a folder") from None


def _limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return _LIMIT_BYTES
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidArgument(f"{LIMIT_VARIABLE}: expected a number of bytes, got {shown(text)}")
    return int(text)
