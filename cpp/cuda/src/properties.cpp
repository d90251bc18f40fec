#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

#include "api.hpp"
#include "nearest.hpp"

namespace trtlab::cuda {
namespace {

/// "GPU-00112233-4455-6677-8899-aabbccddeeff"
std::string uuid_text(const unsigned char* bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text = "GPU-";
    for (int i = 0; i < 16; ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
        text += kDigits[bytes[i] >> 4];
        text += kDigits[bytes[i] & 15];
    }
    return text;
}

void read_name_and_uuid(const Library& library, int device, DeviceProperties& properties) {
    // Of cudaDeviceProp, which differs between CUDA 12 and 13, the first two members: they have always stood here. It has
    // some 1,000 bytes in both.
    constexpr std::size_t kName = 256;
    alignas(std::max_align_t) std::array<char, 16384> raw{};
    library.check(library.api().GetDeviceProperties(raw.data(), device), "cudaGetDeviceProperties", device);
    properties.name.assign(raw.data(), strnlen(raw.data(), kName));
    std::array<unsigned char, 16> uuid{};
    std::memcpy(uuid.data(), raw.data() + kName, uuid.size());
    properties.uuid = uuid_text(uuid.data());
}

std::string pci_bus_id(const Library& library, int device) {
    std::array<char, 32> text{};
    library.check(library.api().DeviceGetPCIBusId(text.data(), static_cast<int>(text.size()) - 1, device),
                  "cudaDeviceGetPCIBusId", device);
    std::string id = text.data();
    // As the kernel names the folder.
    std::transform(id.begin(), id.end(), id.begin(), [](unsigned char c) { return std::tolower(c); });
    return id;
}

}  // namespace

DeviceProperties query_properties(const Library& library, int device) {
    Library::Api const& api = library.api();
    const auto attribute = [&](cudaDeviceAttr which) {
        int value = 0;
        library.check(api.DeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute", device);
        return value;
    };
    DeviceProperties properties;
    read_name_and_uuid(library, device, properties);
    properties.pci_bus_id = pci_bus_id(library, device);
    properties.compute_major = attribute(cudaDevAttrComputeCapabilityMajor);
    properties.compute_minor = attribute(cudaDevAttrComputeCapabilityMinor);
    properties.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
    properties.l2_bytes = static_cast<std::size_t>(attribute(cudaDevAttrL2CacheSize));
    properties.copy_engines = attribute(cudaDevAttrAsyncEngineCount);
    properties.integrated = attribute(cudaDevAttrIntegrated) != 0;
    properties.managed_memory = attribute(cudaDevAttrManagedMemory) != 0;
    properties.concurrent_managed_access = attribute(cudaDevAttrConcurrentManagedAccess) != 0;
    properties.memory_pools = attribute(cudaDevAttrMemoryPoolsSupported) != 0;

    // NVML first: CUDA's own answer starts a context, some hundred MiB of the GPU's memory, just to be asked.
    properties.total_memory_bytes = api.nvml.total_memory_bytes(properties.uuid);
    if (properties.total_memory_bytes == 0) {
        int before = 0;
        library.check(api.GetDevice(&before), "cudaGetDevice", device);
        library.check(api.SetDevice(device), "cudaSetDevice", device);
        std::size_t free_bytes = 0;
        const cudaError_t status = api.MemGetInfo(&free_bytes, &properties.total_memory_bytes);
        library.report(before != device ? api.SetDevice(before) : cudaSuccess, "cudaSetDevice", before);
        library.check(status, "cudaMemGetInfo", device);
    }

    Nearest nearest = api.nvml.nearest(properties.uuid);
    const Nearest kernel = nearest_of_pci_device("/sys/bus/pci/devices/" + properties.pci_bus_id);
    if (nearest.cpus.empty()) nearest.cpus = kernel.cpus;
    if (nearest.numa_node < 0) nearest.numa_node = kernel.numa_node;
    properties.numa_node = nearest.numa_node;
    properties.cpus = std::move(nearest.cpus);
    return properties;
}

}  // namespace trtlab::cuda
