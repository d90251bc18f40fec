"""Memory that several processes see, from Python."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trtlab import errors, memory

Shared, SystemV = memory.SharedMemory, memory.SystemVMemory
TEN = Shared.create(10)


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def in_child(body: Callable[[], bool]) -> bool:
    """Return whether ``body`` returned True in a forked child of this process."""
    child = os.fork()
    if child == 0:
        result = 1
        try:
            result = 0 if body() else 2
        finally:
            os._exit(result)
    return os.waitpid(child, 0)[1] == 0


def test_two_attachments_see_the_same_bytes() -> None:
    first = Shared.create(10_000)
    second = Shared.attach(first.fd, 10_000)
    assert (first.size_bytes, second.size_bytes, second.access) == (10_000, 10_000, "read_write")
    array = second.buffer.tensor("float32", (50, 50)).numpy()
    assert not array.any()
    array[3, 4] = 5
    assert first.buffer.numpy().view("float32")[154] == 5


def test_a_program_that_was_given_the_descriptor_writes_into_it(python: Callable[..., str]) -> None:
    import subprocess

    shared = Shared.create(4096)
    code = (
        "import sys; from trtlab import memory; m = memory.SharedMemory.attach(int(sys.argv[1]), 4096); "
        "m.buffer.numpy()[:5] = list(b'hello')"
    )
    os.set_inheritable(shared.fd, False)
    subprocess.run([sys.executable, "-c", code, str(shared.fd)], pass_fds=[shared.fd], check=True, timeout=60)
    assert bytes(shared.buffer.numpy()[:5]) == b"hello"


def test_a_forked_child_has_it(monkeypatch: Any) -> None:
    shared = Shared.create(16)
    view = shared.buffer.numpy()

    def write() -> bool:
        view[3] = 9
        shared.close()
        return True

    assert in_child(write)
    assert view[3] == 9


def test_the_descriptor_goes_through_a_socket() -> None:
    here, there = socket.socketpair()
    with here, there:
        shared = Shared.create(100)

        def write() -> bool:
            fd = memory.receive_descriptor(there, timeout=60)
            with Shared.attach(fd, 100) as mine:
                os.close(fd)
                mine.buffer.numpy()[99] = 42
            return not os.get_inheritable(shared.fd)

        memory.send_descriptor(here, shared)
        assert in_child(write)
        assert shared.buffer.numpy()[99] == 42


def test_a_peer_that_sends_something_else_is_refused_and_nothing_is_kept() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        before = open_files()
        for count in (0, 2, 3, 5, 100):
            socket.send_fds(here, [b"x"], [0] * count)
            with pytest.raises(errors.InvalidArgument, match="one descriptor"):
                memory.receive_descriptor(there, timeout=60)
            assert open_files() == before


def test_receiving_waits_without_the_gil_and_as_long_as_it_is_told() -> None:
    here, there = socket.socketpair()
    with here, there:
        with pytest.raises(errors.Timeout):
            memory.receive_descriptor(there, timeout=0.002)
        sender = threading.Thread(target=memory.send_descriptor, args=(here, 0))
        sender.start()
        os.close(memory.receive_descriptor(there))
        sender.join()
        here.close()
        with pytest.raises(errors.Closed):
            memory.receive_descriptor(there)
    with pytest.raises(errors.InvalidArgument, match="socket"):
        memory.receive_descriptor("here")


def test_ctrl_c_ends_the_wait() -> None:
    here, there = socket.socketpair()

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        with here, there, pytest.raises(Interrupted):
            memory.receive_descriptor(there)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_readers_cannot_write() -> None:
    shared = Shared.create(100, others="read_only")
    with pytest.raises(errors.InvalidArgument, match="read_only"):
        Shared.attach(shared.fd)
    reader = Shared.attach(shared.fd, access="read_only")
    assert reader.access == "read_only"
    shared.buffer.numpy()[0] = 7
    array = reader.buffer.numpy()
    assert array[0] == 7
    assert not array.flags.writeable
    assert memoryview(reader.buffer).readonly
    assert not np.from_dlpack(reader.buffer).flags.writeable
    assert not np.asarray(reader.buffer.slice(0, 10).tensor("uint8", (10,))).flags.writeable


def test_a_view_keeps_the_memory_after_close() -> None:
    before = open_files()
    shared = Shared.create(100)
    array = shared.buffer.numpy()
    shared.close()
    shared.close()
    array[:] = 1
    assert open_files() == before + 1
    for use in (lambda: shared.fd, lambda: shared.buffer, lambda: shared.size_bytes):
        with pytest.raises(errors.Closed):
            use()
    del array
    assert open_files() == before


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Shared.create(0), "at least 1"),
        (lambda: Shared.create(-5), "-5"),
        (lambda: Shared.create("much"), "'much'"),
        (lambda: Shared.create(10, others="all"), "'all'"),
        (lambda: Shared.create(10, name="x" * 300), "too long"),
        (lambda: Shared.attach(-1), "-1"),
        (lambda: Shared.attach(10**6), "not open"),
        (lambda: Shared.attach(TEN.fd, 11), "10 bytes"),
        (lambda: Shared.attach(TEN.fd, access="all"), "'all'"),
        (lambda: SystemV.create(0), "at least 1"),
        (lambda: SystemV.create(10, 0), "key"),
        (lambda: SystemV.attach(-1), "at least 0"),
        (lambda: SystemV.attach(2**31 - 1), "2147483647"),
        (lambda: SystemV.attach_key(0), "key"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(call: Callable[[], Any], word: str) -> None:
    before = open_files()
    with pytest.raises(errors.InvalidArgument, match=word):
        call()
    assert open_files() == before


NUMBERS = st.integers(0, 12_000) | st.integers(0, 2**63 - 1) | st.sampled_from([4096, 10_000, 2**63 - 10_000])


@given(offset=NUMBERS, size=NUMBERS)
def test_attach_takes_exactly_the_ranges_that_are_inside(offset: int, size: int) -> None:
    shared = Shared.create(10_000)
    try:
        part = Shared.attach(shared.fd, size, offset_bytes=offset)
    except errors.InvalidArgument:
        assert size == 0 or offset + size > 10_000
    else:
        assert 0 < size <= 10_000 - offset
        part.buffer.numpy()[-1] = 7
        assert shared.buffer.numpy()[offset + size - 1] == 7


def system_v(size: int, *key: int) -> memory.SystemVMemory:
    try:
        return SystemV.create(size, *key)
    except errors.OutOfMemory as error:
        pytest.skip(str(error))


def test_a_system_v_segment_is_attached_to_by_its_number() -> None:
    with system_v(5000) as segment:

        def write() -> bool:
            mine = SystemV.attach(segment.id, 5000)
            mine.buffer.numpy()[4999] = 8
            return mine.size_bytes == 5000

        assert in_child(write)
        assert segment.buffer.numpy()[4999] == 8
        number = segment.id
    with pytest.raises(errors.InvalidArgument, match=str(number)):
        SystemV.attach(number)


def test_attachment_can_be_disabled() -> None:
    segment = system_v(100)
    view = SystemV.attach(segment.id).buffer.numpy()
    segment.disable_attachment()
    segment.disable_attachment()
    with pytest.raises(errors.InvalidArgument):
        SystemV.attach(segment.id)
    view[0] = 3
    assert segment.buffer.numpy()[0] == 3


def test_a_key_is_found_until_its_maker_closes() -> None:
    key = 0x54524C00 + os.getpid() % 256
    segment = system_v(100, key)
    assert SystemV.attach_key(key, 100).id == segment.id
    with pytest.raises(errors.InvalidArgument, match="taken"):
        SystemV.create(100, key)
    segment.close()
    with pytest.raises(errors.InvalidArgument):
        SystemV.attach_key(key)
