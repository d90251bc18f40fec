#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>

#include "nearest.hpp"
#include "trtlab/cuda/device.hpp"

namespace trtlab::cuda {

/// NVIDIA's management library, which the driver brings along: opened when it is first asked, and without it nothing is
/// known. GPUs are named by UUID.
/// Threads: all members may be called from any thread. None throws for what NVML can't say.
class Nvml {
public:
    explicit Nvml(std::string file = "libnvidia-ml.so.1");
    Nvml(const Nvml&) = delete;
    Nvml& operator=(const Nvml&) = delete;
    ~Nvml();

    bool available() const noexcept;
    Nearest nearest(const std::string& uuid) const;
    /// 0 if unknown.
    std::size_t total_memory_bytes(const std::string& uuid) const noexcept;
    Device::Load load(const std::string& uuid) const noexcept;

private:
    struct Functions;
    struct Handle;  // what nvmlDevice_t points to
    const Functions* functions() const noexcept;
    Handle* find(const Functions& nvml, const std::string& uuid) const noexcept;

    const std::string file_;
    mutable std::unique_ptr<const Functions> functions_;
    mutable std::once_flag opened_;
};

}  // namespace trtlab::cuda
