"""Where threads run and memory lies: CPU sets, the machine's topology, and pinning.

    machine = trtlab.affinity.Topology.system()
    near = machine.node(machine.nearest_node(gpu.cpus)).cpus
    with trtlab.affinity.ScopedAffinity(near) as pin:
        if pin.reason:
            print("unpinned:", pin.reason)

Pinning asks for what the process may use anyway, and fails softly, since a container may refuse it.
"""

from trtlab._bindings._core import (
    Cache,
    Core,
    CpuSet,
    NumaNode,
    Package,
    ScopedAffinity,
    ScopedMemoryNode,
    Topology,
    process_cpus,
    thread_affinity,
)

__all__ = [
    "Cache",
    "Core",
    "CpuSet",
    "NumaNode",
    "Package",
    "ScopedAffinity",
    "ScopedMemoryNode",
    "Topology",
    "process_cpus",
    "thread_affinity",
]
