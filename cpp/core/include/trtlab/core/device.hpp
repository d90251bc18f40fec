#pragma once

#include <compare>
#include <cstdint>
#include <string>

namespace trtlab::core {

/// Kinds of memory. The values are DLPack's (https://dmlc.github.io/dlpack, DLDeviceType).
enum class DeviceType : std::uint8_t {
    cpu = 1,           ///< host memory
    cuda = 2,          ///< a GPU's own memory: the host can't read it
    cuda_host = 3,     ///< pinned host memory: both read it
    cuda_managed = 13  ///< moves between host and GPU as it is touched
};

/// Where memory is.
struct Device {
    DeviceType type = DeviceType::cpu;
    std::int32_t index = 0;  ///< of the GPU, as CUDA counts those that the process sees; 0 for host memory

    /// Whether a CPU can read and write the memory.
    constexpr bool host_accessible() const noexcept { return type != DeviceType::cuda; }
    /// "cpu", "cuda:0", "cuda_host", "cuda_managed:0"
    std::string to_string() const;
    friend constexpr auto operator<=>(const Device&, const Device&) = default;
};

}  // namespace trtlab::core
