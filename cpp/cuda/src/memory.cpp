#include "trtlab/cuda/memory.hpp"

#include <cstdint>
#include <string>

#include "api.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::cuda {
namespace {

[[noreturn]] void refuse_alignment(const core::MemoryResource& resource, std::size_t alignment) {
    throw core::InvalidArgument(
        resource.name() + ": an alignment of " + std::to_string(alignment) +
        " bytes was asked for, and CUDA, which promises 256, gave less; allocate more, and align "
        "within");
}

/// CUDA takes no alignment, and gives more than it promises: what it gave decides. TensorRT asks for 512.
bool aligned(const void* block, std::size_t alignment) noexcept {
    return reinterpret_cast<std::uintptr_t>(block) % alignment == 0;
}

std::string left_in_words(const Device& device) {
    try {
        const Device::Memory memory = device.memory();
        return std::to_string(memory.free_bytes) + " of " + std::to_string(memory.total_bytes) + " bytes of " +
               device.to_string() + " are free";
    } catch (const core::Error&) {
        return "how much is free is not known";  // the failed allocation is what matters
    }
}

void checked(const core::MemoryResource& resource, const Device& device, cudaError_t status, const char* call,
             std::size_t size_bytes) {
    if (status == cudaErrorMemoryAllocation) {
        (void)device.library()->api().GetLastError();
        throw core::OutOfMemory(resource.name() + ": cannot allocate " + std::to_string(size_bytes) + " bytes (" +
                                call + "); " + left_in_words(device));
    }
    device.library()->check(status, call, device.ordinal());
}

cudaMemLocation on_device(int ordinal) noexcept {
    cudaMemLocation location{};
    location.type = cudaMemLocationTypeDevice;
    location.id = ordinal;
    return location;
}

cudaMemLocation on_host() noexcept {
    cudaMemLocation location{};
    location.type = cudaMemLocationTypeHost;
    return location;
}

void prefetch(const core::BufferView& range, const StreamView& stream, const cudaMemLocation& to) {
    const Device& device = stream.device();
    if (range.device.type != core::DeviceType::cuda_managed) {
        throw core::InvalidArgument("a prefetch of " + std::to_string(range.size_bytes) + " bytes on " +
                                    range.device.to_string() + ": only managed memory moves");
    }
    if (range.size_bytes == 0) return;
    const Library::Api& api = device.library()->api();
    const DeviceGuard guard(device);
    device.library()->check(device.properties().concurrent_managed_access
                                ? api.MemPrefetchAsync(range.data, range.size_bytes, to, 0, stream.handle())
                                : cudaErrorNotSupported,
                            "cudaMemPrefetchAsync", device.ordinal());
}

}  // namespace

void* DeviceMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    const DeviceGuard guard(device_);
    void* block = nullptr;
    const cudaError_t status = device_.library()->api().Malloc(&block, size_bytes);
    checked(*this, device_, status, "cudaMalloc", size_bytes);
    if (aligned(block, alignment)) return block;
    do_deallocate(block, size_bytes, alignment);
    refuse_alignment(*this, alignment);
}

void DeviceMemory::do_deallocate(void* block, std::size_t, std::size_t) noexcept {
    if (fork_.forked()) return;
    call_quietly(device_, "cudaFree", [&](const Library::Api& api) { return api.Free(block); });
}

void* PinnedMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    const DeviceGuard guard(device_);
    // The kernel places a page near the CPU that touches it first, which the driver does here, on this thread.
    const core::ScopedAffinity near(device_.properties().cpus);
    void* block = nullptr;
    const cudaError_t status = device_.library()->api().HostAlloc(&block, size_bytes, cudaHostAllocPortable);
    checked(*this, device_, status, "cudaHostAlloc", size_bytes);
    if (aligned(block, alignment)) return block;
    do_deallocate(block, size_bytes, alignment);
    refuse_alignment(*this, alignment);
}

void PinnedMemory::do_deallocate(void* block, std::size_t, std::size_t) noexcept {
    if (fork_.forked()) return;
    call_quietly(device_, "cudaFreeHost", [&](const Library::Api& api) { return api.FreeHost(block); });
}

void* ManagedMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    const Library::Api& api = device_.library()->api();
    const DeviceGuard guard(device_);
    void* block = nullptr;
    const cudaError_t status = api.MallocManaged(&block, size_bytes, cudaMemAttachGlobal);
    checked(*this, device_, status, "cudaMallocManaged", size_bytes);
    if (!aligned(block, alignment)) {
        do_deallocate(block, size_bytes, alignment);
        refuse_alignment(*this, alignment);
    }
    // Where the two sides can't share, CUDA takes no advice, and there is nothing to be advised on.
    if (advice_ == Advice::none || !device_.properties().concurrent_managed_access) return block;
    const cudaError_t advised =
        api.MemAdvise(block, size_bytes,
                      advice_ == Advice::read_mostly ? cudaMemAdviseSetReadMostly : cudaMemAdviseSetPreferredLocation,
                      on_device(device_.ordinal()));
    if (advised != cudaSuccess) {
        do_deallocate(block, size_bytes, alignment);
        device_.library()->throw_error(advised, "cudaMemAdvise", device_.ordinal());
    }
    return block;
}

void ManagedMemory::do_deallocate(void* block, std::size_t, std::size_t) noexcept {
    if (fork_.forked()) return;
    call_quietly(device_, "cudaFree", [&](const Library::Api& api) { return api.Free(block); });
}

void ManagedMemory::prefetch_to_device(const core::BufferView& range, const StreamView& stream) {
    prefetch(range, stream, on_device(stream.device().ordinal()));
}

void ManagedMemory::prefetch_to_host(const core::BufferView& range, const StreamView& stream) {
    prefetch(range, stream, on_host());
}

StreamOrderedMemory::StreamOrderedMemory(StreamView stream) : stream_(std::move(stream)) {
    if (!stream_.device().properties().memory_pools) {
        throw core::InvalidArgument(name() + ": " + stream_.device().properties().name +
                                    " has no memory pools; use device memory");
    }
}

void* StreamOrderedMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    const Device& gpu = stream_.device();
    const DeviceGuard guard(gpu);
    void* block = nullptr;
    const cudaError_t status = gpu.library()->api().MallocAsync(&block, size_bytes, stream_.handle());
    checked(*this, gpu, status, "cudaMallocAsync", size_bytes);
    if (aligned(block, alignment)) return block;
    do_deallocate(block, size_bytes, alignment);
    refuse_alignment(*this, alignment);
}

void StreamOrderedMemory::do_deallocate(void* block, std::size_t, std::size_t) noexcept {
    if (fork_.forked()) return;
    call_quietly(stream_.device(), "cudaFreeAsync",
                 [&](const Library::Api& api) { return api.FreeAsync(block, stream_.handle()); });
}

core::Device device_of(const Library& library, const void* address) {
    cudaPointerAttributes attributes{};
    const cudaError_t status = library.api().PointerGetAttributes(&attributes, address);
    if (status == cudaErrorInsufficientDriver || status == cudaErrorNoDevice || status == cudaErrorInvalidValue) {
        // Nothing is CUDA's where there is no CUDA; and some drivers do not take an address they don't know.
        (void)library.api().GetLastError();
        return {};
    }
    library.check(status, "cudaPointerGetAttributes");
    switch (attributes.type) {
        case cudaMemoryTypeDevice:
            return {core::DeviceType::cuda, attributes.device};
        case cudaMemoryTypeHost:
            return {core::DeviceType::cuda_host, 0};
        case cudaMemoryTypeManaged:
            return {core::DeviceType::cuda_managed, attributes.device};
        case cudaMemoryTypeUnregistered:
            break;
    }
    return {};
}

}  // namespace trtlab::cuda
