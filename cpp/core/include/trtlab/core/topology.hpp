#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "trtlab/core/cpu_set.hpp"

namespace trtlab::core {

/// What a machine consists of, as it was when this was made.
///
/// Threads: immutable; everything may be called from any thread.
/// Errors: NotFound for a node, package, core or CPU that there is not, saying which there are.
class [[gnu::visibility("default")]] Topology {
public:
    struct NumaNode {
        int id = 0;   ///< the kernel's number
        CpuSet cpus;  ///< local to the node; none where it is memory alone, far from all
        std::size_t memory_bytes = 0;
        std::vector<int> distances;  ///< to each of `nodes()`, in that order, 10 being local; empty: unknown
    };
    struct Package {
        int id = 0;  ///< the kernel's number
        CpuSet cpus;
    };
    struct Core {
        int id = 0;  ///< from 0 on, through all packages
        CpuSet cpus;
    };
    enum class CacheKind { unified, data, instruction };
    struct Cache {
        int level = 0;
        CacheKind kind = CacheKind::unified;
        std::size_t size_bytes = 0;
        std::size_t line_bytes = 0;  ///< 0: unknown
        CpuSet cpus;                 ///< that share it
    };

    /// This machine's, read when first asked: some milliseconds, without a GPU's or any other driver. Throws Error if it
    /// cannot be read.
    static const Topology& system();
    /// An imaginary machine's, all of whose CPUs may be used: "Package:2 NUMANode:1 Core:4 PU:2", which is hwloc's
    /// notation. Throws InvalidArgument.
    static Topology synthetic(const std::string& description);

    /// CPUs that are online.
    const CpuSet& cpus() const noexcept { return cpus_; }
    /// Those of them that the process was given: `process_cpus()`.
    const CpuSet& usable_cpus() const noexcept { return usable_cpus_; }
    /// By id.
    const std::vector<NumaNode>& nodes() const noexcept { return nodes_; }
    const std::vector<Package>& packages() const noexcept { return packages_; }
    const std::vector<Core>& cores() const noexcept { return cores_; }
    /// By level, and within it by the lowest CPU.
    const std::vector<Cache>& caches() const noexcept { return caches_; }

    const NumaNode& node(int id) const;
    const Package& package(int id) const;
    const Core& core(int id) const;
    /// The core that a CPU belongs to: its CPUs compete for the same units.
    const Core& core_of(int cpu) const;

    /// The lowest CPU of each core among `cpus`: what to pin one thread each to.
    CpuSet one_cpu_per_core(const CpuSet& cpus) const;
    CpuSet one_cpu_per_core() const { return one_cpu_per_core(usable_cpus_); }

    /// The node that most of `cpus` are local to, of several the one with the fewest CPUs, then the lowest; -1 if none is.
    int nearest_node(const CpuSet& cpus) const noexcept;

private:
    class Reader;
    Topology() = default;

    CpuSet cpus_;
    CpuSet usable_cpus_;
    std::vector<NumaNode> nodes_;
    std::vector<Package> packages_;
    std::vector<Core> cores_;
    std::vector<Cache> caches_;
};

}  // namespace trtlab::core
