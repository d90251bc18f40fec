"""`trtlab.affinity`, as Python sees it."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtlab import errors
from trtlab.affinity import (
    CpuSet,
    ScopedAffinity,
    ScopedMemoryNode,
    Topology,
    process_cpus,
    thread_affinity,
)

CPUS = st.sets(st.integers(0, 2**16 - 1), max_size=60)


@given(CPUS, CPUS)
@settings(max_examples=200, deadline=None)
def test_a_cpu_set_is_a_set(a: set[int], b: set[int]) -> None:
    one, other = CpuSet(a), CpuSet(b)
    assert list(one) == sorted(a)
    assert len(one) == len(a)
    assert bool(one) == bool(a)
    assert CpuSet(str(one)) == one
    assert set(one | other) == a | b
    assert set(one & other) == a & b
    assert set(one - other) == a - b
    assert (one <= other) == (a <= b)
    assert (one == other) == (a == b)
    assert hash(one) == hash(CpuSet(sorted(a)))
    assert (one.first, one.last) == ((min(a), max(a)) if a else (None, None))
    assert pickle.loads(pickle.dumps(one)) == one
    assert all(cpu in one for cpu in a)


def test_a_cpu_set_is_written_as_the_kernel_does() -> None:
    assert str(CpuSet([8, 0, 1, 2, 3])) == "0-3,8"
    assert repr(CpuSet("0-3,8")) == "CpuSet('0-3,8')"
    assert CpuSet() == CpuSet("") == CpuSet(None) == CpuSet([])
    assert CpuSet("1") != "1"


@pytest.mark.parametrize("text", ["0-", "0-4000000000", "a", "1,,2", "3-1", [65536], [-1], [2**70], ["1"], 3, 1.5])
def test_a_cpu_set_of_anything_else_is_refused(text: Any) -> None:
    with pytest.raises(errors.InvalidArgument):
        CpuSet(text)


def test_an_imaginary_machine_has_what_its_description_says() -> None:
    machine = Topology.synthetic("Package:2 NUMANode:1(memory=1073741824) L2Cache:4(size=1048576) Core:1 PU:2")
    assert str(machine.cpus) == "0-15"
    assert [node.id for node in machine.nodes] == [0, 1]
    assert machine.node(1).cpus == CpuSet("8-15")
    assert machine.node(1).memory_bytes == 2**30
    assert machine.package(0).cpus == CpuSet("0-7")
    assert machine.core(4).cpus == CpuSet("8-9")
    assert machine.core_of(9).id == 4
    assert machine.one_cpu_per_core() == CpuSet(range(0, 16, 2))
    assert machine.one_cpu_per_core("1,3") == CpuSet([1, 3])
    assert machine.nearest_node([7, 8, 9]) == 1
    assert machine.nearest_node([]) is None
    assert {(cache.level, cache.kind, cache.size_bytes) for cache in machine.caches} == {(2, "unified", 2**20)}
    with pytest.raises(errors.NotFound, match="there are 0-1"):
        machine.node(5)
    with pytest.raises(errors.InvalidArgument, match="hwloc"):
        Topology.synthetic("nonsense")


def test_this_machine_has_the_cpus_that_the_process_may_use() -> None:
    machine = Topology.system()
    assert machine.usable_cpus <= machine.cpus
    assert set(machine.usable_cpus) >= os.sched_getaffinity(0)
    assert process_cpus() == machine.usable_cpus
    assert machine.nodes


def test_a_scope_pins_its_thread_and_nothing_else() -> None:
    before = thread_affinity()
    first = process_cpus().first
    assert first is not None
    with ScopedAffinity([first]) as pin:
        assert pin.reason == ""
        assert os.sched_getaffinity(0) == {first}
        assert thread_affinity() == CpuSet([first])
    assert thread_affinity() == before
    with pytest.raises(KeyError), ScopedAffinity([first]):
        raise KeyError
    assert thread_affinity() == before


def test_a_pin_that_is_refused_says_why_and_runs_unpinned() -> None:
    before = thread_affinity()
    with ScopedAffinity("60000") as pin:
        assert "60000" in pin.reason
        assert thread_affinity() == before


def test_a_scope_is_for_one_block_on_one_thread() -> None:
    pin = ScopedAffinity(process_cpus())
    with pin, pytest.raises(errors.InvalidArgument, match="entered before"):
        pin.__enter__()
    with ThreadPoolExecutor(1) as threads, ScopedAffinity(process_cpus()) as other:
        left = threads.submit(other.__exit__, None, None, None)
        assert isinstance(left.exception(60), errors.InvalidArgument)


def test_memory_may_come_from_a_node_for_a_block() -> None:
    node = Topology.system().nodes[0].id
    for strict in (False, True):
        with ScopedMemoryNode(node, strict=strict) as scope:
            assert scope.reason == "" or "NUMA node" in scope.reason
            assert sum(bytearray(1 << 20)) == 0
    with ScopedMemoryNode(1000) as scope:
        assert "NUMA node 1000" in scope.reason


def test_a_scope_that_a_dead_thread_left_open_harms_nobody() -> None:
    before = thread_affinity()
    scopes: list[ScopedAffinity] = []
    first = process_cpus().first

    def leave_open() -> None:
        scopes.append(ScopedAffinity([first] if first is not None else []))
        scopes[0].__enter__()

    thread = threading.Thread(target=leave_open)
    thread.start()
    thread.join()
    scopes.clear()
    assert thread_affinity() == before
