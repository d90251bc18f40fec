#pragma once

#include <string>

#include "trtlab/core/cpu_set.hpp"

namespace trtlab::cuda {

/// What of the machine is nearest to a GPU.
struct Nearest {
    int numa_node = -1;  ///< -1: unknown
    core::CpuSet cpus;   ///< empty: unknown
};

/// What the kernel knows of the device in `folder`, such as /sys/bus/pci/devices/0000:06:00.0.
Nearest nearest_of_pci_device(const std::string& folder);

}  // namespace trtlab::cuda
