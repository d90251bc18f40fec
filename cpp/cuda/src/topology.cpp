#include "topology.hpp"

#include <algorithm>
#include <charconv>
#include <climits>
#include <fstream>
#include <utility>

namespace trtlab::cuda {
namespace {

// More than any kernel is built for: a longer list is no list of CPUs.
constexpr int kMostCpus = 1 << 16;

bool take_number(std::string_view& text, int& number) noexcept {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || number < 0 || number >= kMostCpus) return false;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return true;
}

struct CpuSet {
    explicit CpuSet(std::size_t cpus_) noexcept
        : cpus(cpus_), size_bytes(CPU_ALLOC_SIZE(cpus_)), set(CPU_ALLOC(cpus_)) {}
    CpuSet(CpuSet&& other) noexcept
        : cpus(other.cpus), size_bytes(other.size_bytes), set(std::exchange(other.set, nullptr)) {}
    ~CpuSet() {
        if (set != nullptr) CPU_FREE(set);
    }
    std::size_t cpus;
    std::size_t size_bytes;
    cpu_set_t* set;
};

/// CPUs that the calling thread may use; `set` is null if the kernel does not say.
CpuSet usable() noexcept {
    // The kernel refuses a set smaller than its own: grow until it fits.
    for (std::size_t cpus = 1024; cpus <= kMostCpus; cpus *= 4) {
        CpuSet usable(cpus);
        if (usable.set != nullptr && sched_getaffinity(0, usable.size_bytes, usable.set) == 0) return usable;
    }
    CpuSet none(1);
    CPU_FREE(none.set);
    none.set = nullptr;
    return none;
}

/// Leaves `set` with those that are in `cpus`, too. False if there are none.
bool intersect(CpuSet& set, std::span<const int> cpus) noexcept {
    for (std::size_t cpu = 0; cpu < set.cpus; ++cpu) {
        if (!std::binary_search(cpus.begin(), cpus.end(), static_cast<int>(cpu)))
            CPU_CLR_S(cpu, set.size_bytes, set.set);
    }
    return CPU_COUNT_S(set.size_bytes, set.set) > 0;
}

}  // namespace

std::vector<int> bits_of(std::span<const unsigned long> mask) {
    constexpr int kBits = sizeof(unsigned long) * CHAR_BIT;
    std::vector<int> bits;
    for (std::size_t word = 0; word < mask.size(); ++word) {
        for (int bit = 0; bit < kBits; ++bit) {
            if ((mask[word] >> bit & 1) != 0) bits.push_back(static_cast<int>(word) * kBits + bit);
        }
    }
    return bits;
}

std::vector<int> parse_cpu_list(std::string_view text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
    std::vector<int> cpus;
    while (!text.empty()) {
        int first = 0;
        if (!take_number(text, first)) return {};
        int last = first;
        if (text.starts_with('-')) {
            text.remove_prefix(1);
            if (!take_number(text, last) || last < first) return {};
        }
        for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
        if (text.empty()) break;
        if (!text.starts_with(',') || text.size() == 1) return {};
        text.remove_prefix(1);
    }
    std::sort(cpus.begin(), cpus.end());
    cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
    return cpus;
}

Nearest nearest_of_pci_device(const std::string& folder) {
    Nearest nearest;
    std::ifstream node(folder + "/numa_node");
    if (!(node >> nearest.numa_node) || nearest.numa_node < 0) nearest.numa_node = -1;
    std::ifstream cpus(folder + "/local_cpulist");
    std::string list;
    std::getline(cpus, list);
    nearest.cpus = parse_cpu_list(list);
    return nearest;
}

bool bind_this_thread_to(std::span<const int> cpus) noexcept {
    CpuSet set = usable();
    if (cpus.empty() || set.set == nullptr || !intersect(set, cpus)) return false;
    return sched_setaffinity(0, set.size_bytes, set.set) == 0;
}

BoundToCpus::BoundToCpus(std::span<const int> cpus) noexcept {
    if (cpus.empty()) return;
    CpuSet before = usable();
    if (before.set == nullptr || !bind_this_thread_to(cpus)) return;
    size_bytes_ = before.size_bytes;
    before_.reset(std::exchange(before.set, nullptr));
}

BoundToCpus::~BoundToCpus() {
    if (before_ != nullptr) (void)sched_setaffinity(0, size_bytes_, before_.get());
}

}  // namespace trtlab::cuda
