#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "nvml.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/wait.hpp"
#include "trtlab/cuda/device.hpp"
#include "trtlab/cuda/library.hpp"

namespace trtlab::cuda {

/// Every function of CUDA's runtime that this layer calls, under its name less the prefix `cuda`, and with the prototype of
/// CUDA 13, which those of CUDA 12 share.
#define TRTLAB_CUDA_FUNCTIONS(F)    \
    F(RuntimeGetVersion)            \
    F(DriverGetVersion)             \
    F(GetErrorName)                 \
    F(GetErrorString)               \
    F(GetLastError)                 \
    F(GetDeviceCount)               \
    F(GetDevice)                    \
    F(SetDevice)                    \
    F(DeviceGetAttribute)           \
    F(DeviceGetPCIBusId)            \
    F(DeviceSynchronize)            \
    F(DeviceCanAccessPeer)          \
    F(DeviceGetStreamPriorityRange) \
    F(MemGetInfo)                   \
    F(StreamCreateWithPriority)     \
    F(StreamDestroy)                \
    F(StreamSynchronize)            \
    F(StreamQuery)                  \
    F(StreamWaitEvent)              \
    F(StreamBeginCapture)           \
    F(StreamEndCapture)             \
    F(StreamIsCapturing)            \
    F(EventCreateWithFlags)         \
    F(EventDestroy)                 \
    F(EventRecord)                  \
    F(EventQuery)                   \
    F(EventSynchronize)             \
    F(EventElapsedTime)             \
    F(GraphGetNodes)                \
    F(GraphInstantiate)             \
    F(GraphDestroy)                 \
    F(GraphExecDestroy)             \
    F(GraphLaunch)                  \
    F(GraphUpload)                  \
    F(Malloc)                       \
    F(Free)                         \
    F(HostAlloc)                    \
    F(FreeHost)                     \
    F(MallocManaged)                \
    F(MallocAsync)                  \
    F(FreeAsync)                    \
    F(MemcpyAsync)                  \
    F(MemsetAsync)                  \
    F(PointerGetAttributes)         \
    F(IpcGetMemHandle)              \
    F(IpcOpenMemHandle)             \
    F(IpcCloseMemHandle)            \
    F(IpcGetEventHandle)            \
    F(IpcOpenEventHandle)

/// Those that CUDA 12 (from 12.2 on) exports with the suffix `_v2`, and CUDA 13 without.
#define TRTLAB_CUDA_FUNCTIONS_V2(F) \
    F(MemPrefetchAsync)             \
    F(MemAdvise)

struct Library::Api {
#define TRTLAB_CUDA_DECLARE(name) decltype(&::cuda##name) name = nullptr;
    TRTLAB_CUDA_FUNCTIONS(TRTLAB_CUDA_DECLARE)
    TRTLAB_CUDA_FUNCTIONS_V2(TRTLAB_CUDA_DECLARE)
#undef TRTLAB_CUDA_DECLARE
    /// Also `_v2` in CUDA 12. The structure that it fills differs between the two but for its first members.
    cudaError_t (*GetDeviceProperties)(void* properties, int device) = nullptr;

    const core::ForkGuard opened{};
    Nvml nvml{};
    mutable std::atomic<bool> loss_logged{false};  // a flag and no more: relaxed

    mutable std::mutex mutex{};                                              // leaf: guards what follows
    mutable std::vector<std::shared_ptr<const DeviceProperties>> devices{};  // asked for so far, by ordinal
};

/// What `device` says of itself.
DeviceProperties query_properties(const Library& library, int device);

/// A call of a destructor's, made on `device`: what fails is logged.
template <class Call>
void call_quietly(const Device& device, const char* name, Call call) noexcept {
    try {
        const DeviceGuard guard(device);
        device.library()->report(call(device.library()->api()), name, device.ordinal());
    } catch (...) {
        core::log_current_exception(name);
    }
}

}  // namespace trtlab::cuda
