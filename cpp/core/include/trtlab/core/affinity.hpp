#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "trtlab/core/cpu_set.hpp"

namespace trtlab::core {

/// CPUs that the calling thread may run on: its affinity mask, capped by the cgroup's CPU quota. At least 1.
std::size_t usable_cpus() noexcept;

/// CPUs that the process was given: the affinity masks of its main thread and of the calling one, as they were when this
/// was first asked, which whoever pins does. Empty if the kernel does not say.
const CpuSet& process_cpus();

/// CPUs that the calling thread may run on. Empty if the kernel does not say.
CpuSet thread_affinity();

/// Asks the kernel to run the calling thread only on those of `cpus` that the process may use. Empty if it does, else the
/// reason why not, with nothing changed: a container may refuse it, and the program works without.
[[nodiscard]] std::string try_pin_thread(const CpuSet& cpus);

/// Pins the calling thread for the length of a scope.
///
/// Threads: made and destroyed by the same one.
/// Errors: none; where the kernel refuses, or the process may use none of the CPUs, `reason` says so, and nothing changes.
class [[gnu::visibility("default")]] ScopedAffinity {
public:
    explicit ScopedAffinity(const CpuSet& cpus) noexcept;
    ~ScopedAffinity();
    ScopedAffinity(const ScopedAffinity&) = delete;
    ScopedAffinity& operator=(const ScopedAffinity&) = delete;

    bool pinned() const noexcept { return !before_.empty(); }
    /// Why the thread is not pinned; empty if it is.
    const std::string& reason() const noexcept { return reason_; }

private:
    CpuSet before_;
    std::string reason_;
};

/// Whether memory may come from elsewhere when the node has no more.
enum class NodePolicy {
    prefer,  ///< it may
    bind,    ///< it may not: the kernel would rather end a process
};

/// Lets pages that the calling thread touches first come from a NUMA node, for the length of a scope.
///
/// Threads, Errors: as ScopedAffinity.
class [[gnu::visibility("default")]] ScopedMemoryNode {
public:
    explicit ScopedMemoryNode(int node, NodePolicy policy = NodePolicy::prefer) noexcept;
    ~ScopedMemoryNode();
    ScopedMemoryNode(const ScopedMemoryNode&) = delete;
    ScopedMemoryNode& operator=(const ScopedMemoryNode&) = delete;

    bool bound() const noexcept { return bound_; }
    /// Why the policy is as it was; empty if the node is in force.
    const std::string& reason() const noexcept { return reason_; }

private:
    bool bound_ = false;
    int mode_before_ = 0;
    std::vector<unsigned long> nodes_before_;
    std::string reason_;
};

}  // namespace trtlab::core
