#include <cstring>

#include "api.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/cuda/memory.hpp"

namespace trtlab::cuda {

static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(IpcMemoryHandle::bytes));

IpcMemoryHandle ipc_handle(const core::BufferView& block, const Device& device) {
    if (block.device != device.core_device() || block.data == nullptr) {
        throw core::InvalidArgument("a handle for other processes was asked for " + std::to_string(block.size_bytes) +
                                    " bytes on " + (block.data == nullptr ? "no address" : block.device.to_string()) +
                                    "; expected a block of device memory of " + device.to_string());
    }
    const DeviceGuard guard(device);
    cudaIpcMemHandle_t raw;
    device.library()->check(device.library()->api().IpcGetMemHandle(&raw, block.data), "cudaIpcGetMemHandle",
                            device.ordinal());
    IpcMemoryHandle handle;
    std::memcpy(handle.bytes.data(), &raw, sizeof(raw));
    handle.size_bytes = block.size_bytes;
    return handle;
}

IpcMemory::IpcMemory(const Device& device, const IpcMemoryHandle& handle) : device_(device) {
    const DeviceGuard guard(device);
    cudaIpcMemHandle_t raw;
    std::memcpy(&raw, handle.bytes.data(), sizeof(raw));
    void* address = nullptr;
    device.library()->check(device.library()->api().IpcOpenMemHandle(&address, raw, cudaIpcMemLazyEnablePeerAccess),
                            "cudaIpcOpenMemHandle", device.ordinal());
    view_ = {address, handle.size_bytes, device.core_device()};
}

IpcMemory::IpcMemory(IpcMemory&& other) noexcept
    : device_(other.device_), view_(std::exchange(other.view_, core::BufferView{})), fork_(other.fork_) {}

IpcMemory::~IpcMemory() {
    if (view_.data == nullptr || fork_.forked()) return;
    call_quietly(device_, "cudaIpcCloseMemHandle",
                 [&](const Library::Api& api) { return api.IpcCloseMemHandle(view_.data); });
}

}  // namespace trtlab::cuda
