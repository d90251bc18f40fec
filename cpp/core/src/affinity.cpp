#include "trtlab/core/affinity.hpp"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <system_error>

namespace trtlab::core {
namespace {

constexpr std::size_t kBitsPerWord = sizeof(unsigned long) * CHAR_BIT;

// What a mask's length goes up to: more CPUs, and more nodes, than any kernel is built for.
constexpr std::size_t kMostWords = CpuSet::kMost / kBitsPerWord;
constexpr std::size_t kMostNodeWords = 4096 / kBitsPerWord;

/// The affinity mask of a thread, 0 being the calling one; empty if the kernel does not say.
CpuSet affinity_of(pid_t thread) {
    // The kernel refuses a mask smaller than its own: grow until it fits, for machines with more than 1,024 CPUs.
    for (std::size_t words = 1024 / kBitsPerWord; words <= kMostWords; words *= 4) {
        std::vector<unsigned long> mask(words);
        // The system call itself, since the C library's types are of a fixed size.
        if (syscall(SYS_sched_getaffinity, thread, words * sizeof(unsigned long), mask.data()) > 0)
            return CpuSet::of_mask(mask);
        if (errno != EINVAL) break;
    }
    return {};
}

bool set_affinity(const CpuSet& cpus) noexcept {
    const auto mask = cpus.mask();
    return syscall(SYS_sched_setaffinity, 0, mask.size_bytes(), mask.data()) == 0;
}

std::string named(const CpuSet& cpus) { return cpus.empty() ? "none" : cpus.to_string(); }

/// What the kernel said, in its words.
std::string error_text(int error) { return std::generic_category().message(error); }

/// CPUs' worth of time that cgroup v2 allows this process, rounded up; 0 if there is no limit to be read.
std::size_t cgroup_cpus() {
    std::string group;
    std::ifstream membership("/proc/self/cgroup");
    for (std::string line; std::getline(membership, line);) {
        if (line.rfind("0::", 0) == 0) group = line.substr(3);
    }
    std::size_t least = 0;
    // A limit may sit on any ancestor.
    for (;;) {
        std::ifstream file("/sys/fs/cgroup" + group + "/cpu.max");
        std::string quota;
        double period = 0;
        if (file >> quota >> period && quota != "max" && period > 0) {
            const double cpus = std::strtod(quota.c_str(), nullptr) / period;
            const auto whole = static_cast<std::size_t>(std::max(1.0, cpus + 0.999));
            least = least == 0 ? whole : std::min(least, whole);
        }
        if (group.empty() || group == "/") return least;
        group.erase(group.find_last_of('/'));
    }
}

}  // namespace

std::size_t usable_cpus() noexcept {
    auto cpus = static_cast<std::size_t>(std::max(sysconf(_SC_NPROCESSORS_ONLN), 1L));
    try {
        if (const std::size_t allowed = thread_affinity().count(); allowed > 0) cpus = allowed;
        const std::size_t quota = cgroup_cpus();
        return quota == 0 ? cpus : std::min(cpus, quota);
    } catch (...) {
        return cpus;  // no memory to find out more
    }
}

const CpuSet& process_cpus() {
    static const CpuSet cpus = affinity_of(getpid()) | affinity_of(0);
    return cpus;
}

CpuSet thread_affinity() { return affinity_of(0); }

std::string try_pin_thread(const CpuSet& cpus) {
    const CpuSet target = cpus & process_cpus();
    if (target.empty()) {
        return "pinning a thread to CPUs " + named(cpus) + ": the process may use none of them, but " +
               named(process_cpus());
    }
    if (set_affinity(target)) return {};
    return "pinning a thread to CPUs " + named(target) + ": the kernel refused: " + error_text(errno);
}

ScopedAffinity::ScopedAffinity(const CpuSet& cpus) noexcept {
    try {
        CpuSet before = thread_affinity();
        reason_ = before.empty() ? "the kernel does not say which CPUs the thread may use" : try_pin_thread(cpus);
        if (reason_.empty()) before_ = std::move(before);
    } catch (...) {
        reason_ = "out of memory";  // short: it needs none
    }
}

ScopedAffinity::~ScopedAffinity() {
    if (pinned()) (void)set_affinity(before_);  // what the kernel gave it cannot well refuse
}

ScopedMemoryNode::ScopedMemoryNode(int node, NodePolicy policy) noexcept {
    try {
        const std::string what = "memory from NUMA node " + std::to_string(node);
        if (node < 0 || node >= CpuSet::kMost) {
            reason_ = what + ": there is no node of this number";
            return;
        }
        // The kernel refuses to write a mask shorter than its own.
        nodes_before_.resize(kMostNodeWords);
        if (syscall(SYS_get_mempolicy, &mode_before_, nodes_before_.data(), kMostNodeWords * kBitsPerWord, nullptr,
                    0) != 0) {
            reason_ = what + ": the kernel does not tell the policy in force: " + error_text(errno);
            return;
        }
        std::vector<unsigned long> nodes(static_cast<std::size_t>(node) / kBitsPerWord + 1);
        nodes.back() = 1UL << static_cast<std::size_t>(node) % kBitsPerWord;
        // One more than there are bits, since the kernel takes the highest off.
        if (syscall(SYS_set_mempolicy, policy == NodePolicy::bind ? MPOL_BIND : MPOL_PREFERRED, nodes.data(),
                    nodes.size() * kBitsPerWord + 1) != 0) {
            reason_ = what + ": the kernel refused: " + error_text(errno);
            return;
        }
        bound_ = true;
    } catch (...) {
        reason_ = "out of memory";
    }
}

ScopedMemoryNode::~ScopedMemoryNode() {
    if (!bound_) return;
    const bool no_nodes = std::ranges::all_of(nodes_before_, [](unsigned long word) { return word == 0; });
    // A mode without nodes takes none.
    (void)syscall(SYS_set_mempolicy, mode_before_, no_nodes ? nullptr : nodes_before_.data(),
                  no_nodes ? 0 : nodes_before_.size() * kBitsPerWord + 1);
}

}  // namespace trtlab::core
