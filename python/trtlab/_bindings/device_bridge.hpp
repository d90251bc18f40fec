#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "python.hpp"
#include "trtlab/core/tensor.hpp"
#include "trtlab/core/window_stream.hpp"

namespace trtlab::bindings {

/// What the core module asks of CUDA when GPU memory comes from Python or goes there, so that it needs none itself. The
/// CUDA module has the one implementation; it is registered when the first such memory comes.
///
/// Threads: all members need the GIL, and let others have it where they may block.
class [[gnu::visibility("default")]] DeviceBridge {
public:
    DeviceBridge() = default;
    DeviceBridge(const DeviceBridge&) = delete;
    DeviceBridge& operator=(const DeviceBridge&) = delete;
    virtual ~DeviceBridge() = default;

    /// A stream of ours (a cudaStream_t, never null), for an exporter that makes it wait for its own work. Throws CudaError.
    virtual std::uintptr_t stream(int device) = 0;

    /// A fence at the present end of `stream`: 1 is CUDA's legacy default stream, 2 the thread's default one, and anything
    /// else a handle, as in https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html. Throws CudaError.
    virtual core::Ref<const core::Fence> fence_after(int device, std::uintptr_t stream) = 0;

    /// Where an address is; `cpu` where CUDA does not know it. Throws CudaError.
    virtual core::Device device_of(const void* address) = 0;

    /// A dense copy in host memory of a tensor that is dense in GPU memory, behind its fence. Blocks without the GIL.
    /// Throws InvalidArgument (not dense), OutOfMemory, CudaError.
    virtual core::Tensor to_host(const core::Tensor& tensor) = 0;

    /// Blocks without the GIL until `fence` is reached. Throws CudaError.
    virtual void wait(const core::Fence& fence) = 0;

    /// A ring for windows in the memory of `device`, "cuda:0". Throws InvalidArgument, NotFound, OutOfMemory, CudaError.
    virtual std::unique_ptr<core::WindowMemory> window_memory(std::string_view device,
                                                              const core::WindowStream::Options& options) = 0;

    /// Gives back what is kept for use again.
    virtual void free_idle() noexcept = 0;
};

}  // namespace trtlab::bindings
