#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "simulation.hpp"

namespace fake {
namespace {

/// What an H100 says.
int default_attribute(int attribute) {
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor:
            return 9;
        case cudaDevAttrMultiProcessorCount:
            return 132;
        case cudaDevAttrL2CacheSize:
            return 50 << 20;
        case cudaDevAttrAsyncEngineCount:
            return 3;
        case cudaDevAttrManagedMemory:
        case cudaDevAttrConcurrentManagedAccess:
        case cudaDevAttrMemoryPoolsSupported:
            return 1;
        default:
            return 0;
    }
}

cudaError_t get_properties(const char* name, void* properties, int device) {
    Call call(name, Call::a_driver);
    if (call.failed()) return call.result();
    if (!call.world_.valid(device)) return call.done(cudaErrorInvalidDevice);
    cudaDeviceProp filled{};
    std::snprintf(filled.name, sizeof(filled.name), "Fake GPU %d", device);
    for (std::size_t i = 0; i < sizeof(filled.uuid.bytes); ++i) filled.uuid.bytes[i] = static_cast<char>(0xF0 + i);
    filled.uuid.bytes[15] = static_cast<char>(device);
    std::memcpy(properties, &filled, sizeof(filled));
    return call.done(0);
}

struct IpcBytes {
    std::uint64_t magic = 0x46414b45435544ULL;
    std::int64_t process = 0;
    std::uintptr_t address = 0;
};

}  // namespace
}  // namespace fake

extern "C" {

cudaError_t cudaRuntimeGetVersion(int* version) {
    fake::Call call("cudaRuntimeGetVersion", fake::Call::nothing);
    if (call.failed()) return call.result();
    *version = call.world_.version;
    return call.done(0);
}

cudaError_t cudaDriverGetVersion(int* version) {
    fake::Call call("cudaDriverGetVersion", fake::Call::nothing);
    if (call.failed()) return call.result();
    *version = call.world_.devices.empty() ? 0 : call.world_.version;
    return call.done(0);
}

const char* cudaGetErrorName(cudaError_t error) {
    switch (static_cast<int>(error)) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation:
            return "cudaErrorMemoryAllocation";
        case cudaErrorInitializationError:
            return "cudaErrorInitializationError";
        case cudaErrorInsufficientDriver:
            return "cudaErrorInsufficientDriver";
        case cudaErrorNoDevice:
            return "cudaErrorNoDevice";
        case cudaErrorInvalidDevice:
            return "cudaErrorInvalidDevice";
        case cudaErrorDeviceUninitialized:
            return "cudaErrorDeviceUninitialized";
        case cudaErrorECCUncorrectable:
            return "cudaErrorECCUncorrectable";
        case cudaErrorInvalidResourceHandle:
            return "cudaErrorInvalidResourceHandle";
        case cudaErrorNotReady:
            return "cudaErrorNotReady";
        case cudaErrorIllegalAddress:
            return "cudaErrorIllegalAddress";
        case cudaErrorLaunchFailure:
            return "cudaErrorLaunchFailure";
        case cudaErrorNotSupported:
            return "cudaErrorNotSupported";
        case cudaErrorStreamCaptureUnsupported:
            return "cudaErrorStreamCaptureUnsupported";
        case cudaErrorStreamCaptureInvalidated:
            return "cudaErrorStreamCaptureInvalidated";
        case cudaErrorStreamCaptureUnjoined:
            return "cudaErrorStreamCaptureUnjoined";
        case cudaErrorStreamCaptureIsolation:
            return "cudaErrorStreamCaptureIsolation";
        default:
            return "cudaErrorUnknown";
    }
}

const char* cudaGetErrorString(cudaError_t error) {
    switch (static_cast<int>(error)) {
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorInsufficientDriver:
            return "CUDA driver version is insufficient for CUDA runtime version";
        case cudaErrorNoDevice:
            return "no CUDA-capable device is detected";
        case cudaErrorIllegalAddress:
            return "an illegal memory access was encountered";
        default:
            return "a fake error";
    }
}

cudaError_t cudaGetLastError() {
    fake::Call call("cudaGetLastError", fake::Call::nothing);
    fake::ThreadState& thread = call.world_.thread();
    const int before = thread.last_error;
    const int lost =
        call.world_.valid(thread.device) ? call.world_.devices[static_cast<std::size_t>(thread.device)].lost : 0;
    thread.last_error = 0;
    return static_cast<cudaError_t>(lost != 0 ? lost : before);
}

cudaError_t cudaGetDeviceCount(int* count) {
    fake::Call call("cudaGetDeviceCount", fake::Call::a_driver);
    if (call.failed()) return call.result();
    *count = static_cast<int>(call.world_.devices.size());
    return call.done(0);
}

cudaError_t cudaGetDevice(int* device) {
    fake::Call call("cudaGetDevice", fake::Call::a_driver);
    if (call.failed()) return call.result();
    *device = call.world_.thread().device;
    return call.done(0);
}

cudaError_t cudaSetDevice(int device) {
    fake::Call call("cudaSetDevice", fake::Call::a_driver);
    if (call.failed()) return call.result();
    if (!call.world_.valid(device)) return call.done(cudaErrorInvalidDevice);
    call.world_.thread().device = device;
    return call.done(0);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    fake::Call call("cudaDeviceGetAttribute", fake::Call::a_driver);
    if (call.failed()) return call.result();
    if (!call.world_.valid(device)) return call.done(cudaErrorInvalidDevice);
    const auto& set = call.world_.devices[static_cast<std::size_t>(device)].attributes;
    const auto found = set.find(attribute);
    *value = found != set.end() ? found->second : fake::default_attribute(attribute);
    return call.done(0);
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
    fake::Call call("cudaDeviceGetPCIBusId", fake::Call::a_driver);
    if (call.failed()) return call.result();
    if (!call.world_.valid(device)) return call.done(cudaErrorInvalidDevice);
    // A domain that no machine has, so that nothing is read about a device of the machine's own.
    std::snprintf(text, static_cast<std::size_t>(size), "FA4E:%02X:00.0", device + 1);
    return call.done(0);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    return fake::get_properties("cudaGetDeviceProperties", properties, device);
}
cudaError_t cudaGetDeviceProperties_v2(void* properties, int device) {
    return fake::get_properties("cudaGetDeviceProperties_v2", properties, device);
}

cudaError_t cudaDeviceSynchronize() {
    fake::Call call("cudaDeviceSynchronize");
    if (call.failed()) return call.result();
    const int device = call.world_.thread().device;
    std::vector<std::pair<std::shared_ptr<fake::Stream>, std::uint64_t>> waited;
    for (const auto& stream : call.world_.streams) {
        if (stream->device == device) waited.emplace_back(stream, stream->accepted);
    }
    call.world_.changed.wait(call.lock, [&] {
        for (const auto& [stream, ticket] : waited) {
            if (stream->done < ticket) return false;
        }
        return true;
    });
    return call.done(call.world_.trouble(device));
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
    fake::Call call("cudaDeviceCanAccessPeer", fake::Call::a_driver);
    if (call.failed()) return call.result();
    if (!call.world_.valid(device) || !call.world_.valid(peer)) return call.done(cudaErrorInvalidDevice);
    *can = device != peer ? 1 : 0;
    return call.done(0);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
    fake::Call call("cudaDeviceGetStreamPriorityRange");
    if (call.failed()) return call.result();
    *lowest = 0;
    *highest = -5;
    return call.done(0);
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* block) {
    fake::Call call("cudaIpcGetMemHandle");
    if (call.failed()) return call.result();
    const auto found = call.world_.block_at(block);
    if (found == call.world_.blocks.end() || found->second.kind != fake::Memory::device)
        return call.done(cudaErrorInvalidValue);
    const fake::IpcBytes bytes{.process = getpid(), .address = found->first};
    *handle = {};
    std::memcpy(static_cast<void*>(handle), &bytes, sizeof(bytes));
    return call.done(0);
}

cudaError_t cudaIpcOpenMemHandle(void** block, cudaIpcMemHandle_t handle, unsigned) {
    fake::Call call("cudaIpcOpenMemHandle");
    if (call.failed()) return call.result();
    fake::IpcBytes bytes;
    std::memcpy(static_cast<void*>(&bytes), &handle, sizeof(bytes));
    *block = nullptr;
    if (bytes.magic != fake::IpcBytes{}.magic) return call.done(cudaErrorInvalidValue);
    // CUDA refuses its own process; the memory of another is out of this fake's reach.
    return call.done(bytes.process == getpid() ? cudaErrorDeviceUninitialized : cudaErrorMapBufferObjectFailed);
}

cudaError_t cudaIpcCloseMemHandle(void*) {
    fake::Call call("cudaIpcCloseMemHandle");
    return call.failed() ? call.result() : call.done(cudaErrorInvalidValue);
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t event) {
    fake::Call call("cudaIpcGetEventHandle");
    if (call.failed()) return call.result();
    if (call.world_.find_event(event) == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    const fake::IpcBytes bytes{.process = getpid(), .address = reinterpret_cast<std::uintptr_t>(event)};
    *handle = {};
    std::memcpy(static_cast<void*>(handle), &bytes, sizeof(bytes));
    return call.done(0);
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* event, cudaIpcEventHandle_t) {
    fake::Call call("cudaIpcOpenEventHandle");
    if (call.failed()) return call.result();
    *event = nullptr;
    return call.done(cudaErrorDeviceUninitialized);
}

}  // extern "C"
