#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "trtlab/core/thread_pool.hpp"

namespace trtlab::core {
namespace {

std::size_t affinity_cpus() noexcept {
    // The kernel refuses a set smaller than its own: grow until it fits, for machines with more than 1,024 CPUs.
    for (std::size_t cpus = 1024; cpus <= (1u << 20); cpus *= 4) {
        cpu_set_t* set = CPU_ALLOC(cpus);
        if (set == nullptr) break;
        const std::size_t size = CPU_ALLOC_SIZE(cpus);
        const int failed = sched_getaffinity(0, size, set);
        const int count = failed == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (failed == 0) return static_cast<std::size_t>(std::max(count, 1));
    }
    return static_cast<std::size_t>(std::max(sysconf(_SC_NPROCESSORS_ONLN), 1L));
}

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
    const std::size_t cpus = affinity_cpus();
    try {
        const std::size_t quota = cgroup_cpus();
        return quota == 0 ? cpus : std::min(cpus, quota);
    } catch (...) {
        return cpus;
    }
}

}  // namespace trtlab::core
