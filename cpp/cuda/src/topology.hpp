#pragma once

#include <sched.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trtlab::cuda {

/// What of the machine is nearest to a GPU.
struct Nearest {
    int numa_node = -1;     ///< -1: unknown
    std::vector<int> cpus;  ///< ascending; empty: unknown
};

/// The numbers of the bits that are set, ascending: a mask of CPUs or nodes as NVML gives it.
std::vector<int> bits_of(std::span<const unsigned long> mask);

/// "0-3,8,10-11", as the kernel writes lists of CPUs. Empty if the text is anything else.
std::vector<int> parse_cpu_list(std::string_view text);

/// What the kernel knows of the device in `folder`, such as /sys/bus/pci/devices/0000:06:00.0.
Nearest nearest_of_pci_device(const std::string& folder);

/// Binds the calling thread to those of `cpus` that it may use. False, and nothing changed, if there are none, or the kernel
/// refuses.
bool bind_this_thread_to(std::span<const int> cpus) noexcept;

/// The same for the length of a scope.
class BoundToCpus {
public:
    explicit BoundToCpus(std::span<const int> cpus) noexcept;
    ~BoundToCpus();
    BoundToCpus(const BoundToCpus&) = delete;
    BoundToCpus& operator=(const BoundToCpus&) = delete;

private:
    struct Free {
        void operator()(cpu_set_t* set) const noexcept { CPU_FREE(set); }
    };
    std::unique_ptr<cpu_set_t, Free> before_;
    std::size_t size_bytes_ = 0;
};

}  // namespace trtlab::cuda
