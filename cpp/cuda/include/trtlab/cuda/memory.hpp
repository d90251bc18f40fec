#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "trtlab/core/memory.hpp"
#include "trtlab/core/wait.hpp"
#include "trtlab/cuda/device.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::cuda {

/// Memory of one GPU (cudaMalloc). Allocating and giving back may wait for the whole device: keep blocks.
class [[gnu::visibility("default")]] DeviceMemory final : public core::MemoryResource {
public:
    explicit DeviceMemory(Device device) : device_(std::move(device)) {}
    core::Device device() const noexcept override { return device_.core_device(); }
    std::string name() const override { return "device memory of " + device_.to_string(); }
    const Device& gpu() const noexcept { return device_; }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    Device device_;
    core::ForkGuard fork_;
};

/// Host memory that GPUs copy from and to at full speed and asynchronously (cudaHostAlloc, portable: for every GPU).
/// Pinned from the thread of the caller after binding it to the GPU's NUMA node where that is known, so that the pages lie
/// there.
class [[gnu::visibility("default")]] PinnedMemory final : public core::MemoryResource {
public:
    explicit PinnedMemory(Device near) : device_(std::move(near)) {}
    core::Device device() const noexcept override { return {core::DeviceType::cuda_host, 0}; }
    std::string name() const override { return "pinned host memory near " + device_.to_string(); }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    Device device_;
    core::ForkGuard fork_;
};

/// Memory that moves between host and GPU as it is touched (cudaMallocManaged): more of it than the GPU has can be
/// allocated.
class [[gnu::visibility("default")]] ManagedMemory final : public core::MemoryResource {
public:
    enum class Advice {
        none,
        read_mostly,    ///< copies may lie on both sides at once, for data that is only read, such as weights
        prefer_device,  ///< stays on the GPU if there is room
    };
    explicit ManagedMemory(Device device, Advice advice = Advice::none) : device_(std::move(device)), advice_(advice) {}
    core::Device device() const noexcept override { return {core::DeviceType::cuda_managed, device_.ordinal()}; }
    std::string name() const override { return "managed memory of " + device_.to_string(); }

    /// Has the pages moved: to the GPU, or to the host. Returns at once; the move is in `stream`. Throws InvalidArgument (the
    /// range is of other memory), CudaError (not supported where `concurrent_managed_access` is false).
    static void prefetch_to_device(const core::BufferView& range, const StreamView& stream);
    static void prefetch_to_host(const core::BufferView& range, const StreamView& stream);

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    Device device_;
    Advice advice_;
    core::ForkGuard fork_;
};

/// Memory of one GPU in the order of a stream (cudaMallocAsync, the device's default pool): no call waits for the device,
/// and a block may be used by work that is put into `stream` after its allocation and before its return.
class [[gnu::visibility("default")]] StreamOrderedMemory final : public core::MemoryResource {
public:
    /// The stream must outlive the resource and every block of it. Throws InvalidArgument where the device has no pools.
    explicit StreamOrderedMemory(StreamView stream);
    core::Device device() const noexcept override { return stream_.device().core_device(); }
    std::string name() const override { return "stream-ordered memory of " + stream_.device().to_string(); }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    StreamView stream_;
    core::ForkGuard fork_;
};

/// What CUDA knows of an address: where it is, and on which GPU; "cpu" for memory that CUDA does not know. Throws CudaError.
core::Device device_of(const Library& library, const void* address);

/// Gives another process access to a block of device memory. Send it the bytes; it makes an `IpcMemory` of them, while this
/// process keeps the block.
struct IpcMemoryHandle {
    std::array<std::byte, 64> bytes{};
    std::size_t size_bytes = 0;
};
/// `block` is a whole block of `DeviceMemory`. Throws InvalidArgument, CudaError.
IpcMemoryHandle ipc_handle(const core::BufferView& block, const Device& device);

/// Another process's block, mapped into this one until this object goes. In the same process CUDA refuses it.
class [[gnu::visibility("default")]] IpcMemory {
public:
    /// Throws CudaError.
    IpcMemory(const Device& device, const IpcMemoryHandle& handle);
    IpcMemory(IpcMemory&& other) noexcept;
    IpcMemory(const IpcMemory&) = delete;
    IpcMemory& operator=(const IpcMemory&) = delete;
    IpcMemory& operator=(IpcMemory&&) = delete;
    ~IpcMemory();
    const core::BufferView& view() const noexcept { return view_; }

private:
    Device device_;
    core::BufferView view_;
    core::ForkGuard fork_;
};

}  // namespace trtlab::cuda
