// NVIDIA's management library as far as trtlab asks it, for one GPU of a machine with 160 CPUs. The environment variable
// FAKE_NVML_MUTE makes its initialization fail, as where the driver is not loaded.

#include <cstdlib>
#include <cstring>

namespace {

constexpr int kNotFound = 6, kInsufficientSize = 7, kUninitialized = 1;
constexpr unsigned kCpuWords = 3;  // what a real one refuses to go below

int gpu;
bool initialized = false;

}  // namespace

extern "C" {

int nvmlInit_v2() {
    initialized = std::getenv("FAKE_NVML_MUTE") == nullptr;
    return initialized ? 0 : kUninitialized;
}

int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
    if (!initialized) return kUninitialized;
    if (std::strcmp(uuid, "GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfe00") != 0) return kNotFound;
    *device = &gpu;
    return 0;
}

struct Memory {
    unsigned long long total, free, used;
};

int nvmlDeviceGetMemoryInfo(void*, Memory* memory) {
    *memory = {85520809984ULL, 85000000000ULL, 520809984ULL};
    return 0;
}

// CPUs 0, 1 and 130.
int nvmlDeviceGetCpuAffinity(void*, unsigned words, unsigned long* cpus) {
    if (words < kCpuWords) return kInsufficientSize;
    cpus[0] = 3;
    cpus[2] = 4;
    return 0;
}

// Node 1.
int nvmlDeviceGetMemoryAffinity(void*, unsigned words, unsigned long* nodes, unsigned scope) {
    if (words < 1 || scope != 0) return kInsufficientSize;
    nodes[0] = 2;
    return 0;
}

struct Utilization {
    unsigned gpu, memory;
};

int nvmlDeviceGetUtilizationRates(void*, Utilization* utilization) {
    *utilization = {87, 12};
    return 0;
}

int nvmlDeviceGetPowerUsage(void*, unsigned* milliwatts) {
    *milliwatts = 412500;
    return 0;
}

int nvmlDeviceGetEnforcedPowerLimit(void*, unsigned* milliwatts) {
    *milliwatts = 700000;
    return 0;
}

int nvmlDeviceGetTemperature(void*, unsigned sensor, unsigned* celsius) {
    if (sensor != 0) return kNotFound;
    *celsius = 61;
    return 0;
}

}  // extern "C"
