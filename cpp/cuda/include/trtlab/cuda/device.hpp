#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/cpu_set.hpp"
#include "trtlab/core/device.hpp"
#include "trtlab/cuda/library.hpp"

namespace trtlab::cuda {

/// What a GPU says of itself. Fixed for the life of the process.
struct DeviceProperties {
    std::string name;        ///< "NVIDIA H100 80GB HBM3"
    std::string uuid;        ///< "GPU-xxxxxxxx-...", as nvidia-smi prints it; names the same GPU in every process
    std::string pci_bus_id;  ///< "0000:06:00.0"
    int compute_major = 0;   ///< compute capability
    int compute_minor = 0;
    int multiprocessors = 0;
    std::size_t total_memory_bytes = 0;
    std::size_t l2_bytes = 0;
    int copy_engines = 0;
    bool integrated = false;      ///< shares the host's memory
    bool managed_memory = false;  ///< cudaMallocManaged works
    bool concurrent_managed_access =
        false;                  ///< and may be touched by the CPU while the GPU works; needed for prefetches
    bool memory_pools = false;  ///< stream-ordered allocation works
    int numa_node = -1;         ///< nearest to the GPU; -1 where nobody knows
    core::CpuSet cpus;          ///< nearest to the GPU, of those in the machine; empty where nobody knows
};

/// One GPU, as CUDA counts those that the process may see. A cheap handle.
///
/// NVML, which counts all GPUs of the machine, is asked by UUID: CUDA_VISIBLE_DEVICES changes CUDA's ordinals and not
/// NVML's. Where NVML is not installed, NUMA node and CPUs come from the kernel (/sys/bus/pci).
/// Threads: all members may be called from any thread.
class [[gnu::visibility("default")]] Device {
public:
    /// Throws NotFound if there is no such device, saying how many there are or why there are none.
    Device(std::shared_ptr<const Library> library, int ordinal);
    /// "cuda:1", "cuda" (the first), or "cuda:GPU-<uuid>". Throws InvalidArgument (not of this form), NotFound.
    static Device named(const std::shared_ptr<const Library>& library, std::string_view name);
    /// All of them; empty where there are none.
    static std::vector<Device> list(const std::shared_ptr<const Library>& library);

    int ordinal() const noexcept { return ordinal_; }
    const DeviceProperties& properties() const noexcept { return *properties_; }
    const std::shared_ptr<const Library>& library() const noexcept { return library_; }
    core::Device core_device() const noexcept { return {core::DeviceType::cuda, ordinal_}; }
    /// "cuda:0"
    std::string to_string() const;

    struct Memory {
        std::size_t free_bytes = 0;
        std::size_t total_bytes = 0;
    };
    /// As the driver sees it now, other processes included. Throws CudaError.
    Memory memory() const;

    struct Load {
        int gpu_percent = -1;  ///< of the last sample period, in which a kernel ran; -1 unknown, as are those below
        double power_watts = -1;
        double power_limit_watts = -1;
        int temperature_celsius = -1;
    };
    /// What NVML says now; all -1 without NVML. Never throws.
    Load load() const noexcept;

    /// Blocks until everything that was sent to the device is done. Throws CudaError.
    void synchronize() const;
    /// Makes this the calling thread's current device. Throws CudaError.
    void make_current() const;
    /// Binds the calling thread to the CPUs nearest to the GPU, as far as it may use them. False, and nothing changed, if
    /// that is not known, not allowed, or leaves none. Never throws.
    bool bind_this_thread() const noexcept;
    /// Whether `other`'s memory can be reached from here directly. Throws CudaError.
    bool can_access(const Device& other) const;

private:
    std::shared_ptr<const Library> library_;
    std::shared_ptr<const DeviceProperties> properties_;
    int ordinal_ = 0;
};

/// Makes a device current for the length of a scope.
class [[gnu::visibility("default")]] DeviceGuard {
public:
    explicit DeviceGuard(const Device& device);
    ~DeviceGuard();
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

private:
    const Library& library_;
    int before_ = 0;
    bool changed_ = false;
};

}  // namespace trtlab::cuda
