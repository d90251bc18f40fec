#include "nvml.hpp"

#include <dlfcn.h>

#include <array>
#include <span>

namespace trtlab::cuda {

/// The prototypes of NVML's API, as its reference gives them; all return nvmlReturn_t, 0 for success.
struct Nvml::Functions {
    struct Memory {
        unsigned long long total, free, used;
    };
    struct Utilization {
        unsigned gpu, memory;
    };
    int (*init)() = nullptr;
    int (*find)(const char* uuid, Handle** device) = nullptr;
    int (*memory)(Handle*, Memory*) = nullptr;
    int (*cpu_affinity)(Handle*, unsigned words, unsigned long* cpus) = nullptr;
    int (*memory_affinity)(Handle*, unsigned words, unsigned long* nodes, unsigned scope) = nullptr;
    int (*utilization)(Handle*, Utilization*) = nullptr;
    int (*power)(Handle*, unsigned* milliwatts) = nullptr;
    int (*power_limit)(Handle*, unsigned* milliwatts) = nullptr;
    int (*temperature)(Handle*, unsigned sensor, unsigned* celsius) = nullptr;
};

namespace {

// Words of 64 CPUs (nodes): NVML fails if it needs more than it is given, and takes any number.
constexpr std::size_t kCpuWords = 64;
constexpr std::size_t kNodeWords = 16;
constexpr unsigned kScopeNode = 0;       // NVML_AFFINITY_SCOPE_NODE
constexpr unsigned kSensorOfTheGpu = 0;  // NVML_TEMPERATURE_GPU

template <class Function>
void look_up(void* library, const char* name, Function& function) noexcept {
    function = reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace

Nvml::Nvml(std::string file) : file_(std::move(file)) {}
Nvml::~Nvml() = default;

const Nvml::Functions* Nvml::functions() const noexcept {
    try {
        std::call_once(opened_, [this] {
            // Never closed: it is the driver's, and others in the process use it.
            void* library = dlopen(file_.c_str(), RTLD_NOW | RTLD_LOCAL);
            if (library == nullptr) return;
            auto found = std::make_unique<Functions>();
            look_up(library, "nvmlInit_v2", found->init);
            look_up(library, "nvmlDeviceGetHandleByUUID", found->find);
            look_up(library, "nvmlDeviceGetMemoryInfo", found->memory);
            look_up(library, "nvmlDeviceGetCpuAffinity", found->cpu_affinity);
            look_up(library, "nvmlDeviceGetMemoryAffinity", found->memory_affinity);
            look_up(library, "nvmlDeviceGetUtilizationRates", found->utilization);
            look_up(library, "nvmlDeviceGetPowerUsage", found->power);
            look_up(library, "nvmlDeviceGetEnforcedPowerLimit", found->power_limit);
            look_up(library, "nvmlDeviceGetTemperature", found->temperature);
            if (found->init != nullptr && found->find != nullptr && found->init() == 0) functions_ = std::move(found);
        });
    } catch (...) {
        return nullptr;  // no memory for the table
    }
    return functions_.get();
}

bool Nvml::available() const noexcept { return functions() != nullptr; }

Nvml::Handle* Nvml::find(const Functions& nvml, const std::string& uuid) const noexcept {
    Handle* device = nullptr;
    return nvml.find(uuid.c_str(), &device) == 0 ? device : nullptr;
}

Nearest Nvml::nearest(const std::string& uuid) const {
    Nearest nearest;
    const Functions* nvml = functions();
    Handle* device = nvml != nullptr ? find(*nvml, uuid) : nullptr;
    if (device == nullptr) return nearest;
    std::array<unsigned long, kCpuWords> cpus{};
    if (nvml->cpu_affinity != nullptr && nvml->cpu_affinity(device, cpus.size(), cpus.data()) == 0)
        nearest.cpus = core::CpuSet::of_mask(cpus);
    std::array<unsigned long, kNodeWords> nodes{};
    if (nvml->memory_affinity != nullptr &&
        nvml->memory_affinity(device, nodes.size(), nodes.data(), kScopeNode) == 0) {
        nearest.numa_node = core::CpuSet::of_mask(nodes).first();  // a mask is a mask
    }
    return nearest;
}

std::size_t Nvml::total_memory_bytes(const std::string& uuid) const noexcept {
    const Functions* nvml = functions();
    Handle* device = nvml != nullptr ? find(*nvml, uuid) : nullptr;
    Functions::Memory memory{};
    if (device == nullptr || nvml->memory == nullptr || nvml->memory(device, &memory) != 0) return 0;
    return memory.total;
}

Device::Load Nvml::load(const std::string& uuid) const noexcept {
    Device::Load load;
    const Functions* nvml = functions();
    Handle* device = nvml != nullptr ? find(*nvml, uuid) : nullptr;
    if (device == nullptr) return load;
    Functions::Utilization utilization{};
    if (nvml->utilization != nullptr && nvml->utilization(device, &utilization) == 0)
        load.gpu_percent = static_cast<int>(utilization.gpu);
    unsigned value = 0;
    if (nvml->power != nullptr && nvml->power(device, &value) == 0) load.power_watts = value / 1000.0;
    if (nvml->power_limit != nullptr && nvml->power_limit(device, &value) == 0) load.power_limit_watts = value / 1000.0;
    if (nvml->temperature != nullptr && nvml->temperature(device, kSensorOfTheGpu, &value) == 0)
        load.temperature_celsius = static_cast<int>(value);
    return load;
}

}  // namespace trtlab::cuda
