#include "nearest.hpp"

#include <fstream>

#include "trtlab/core/error.hpp"

namespace trtlab::cuda {

Nearest nearest_of_pci_device(const std::string& folder) {
    Nearest nearest;
    std::ifstream node(folder + "/numa_node");
    if (!(node >> nearest.numa_node) || nearest.numa_node < 0) nearest.numa_node = -1;
    std::ifstream cpus(folder + "/local_cpulist");
    std::string list;
    std::getline(cpus, list);
    try {
        nearest.cpus = core::CpuSet::parse(list);
    } catch (const core::InvalidArgument&) {
        // As if the kernel said nothing.
    }
    return nearest;
}

}  // namespace trtlab::cuda
