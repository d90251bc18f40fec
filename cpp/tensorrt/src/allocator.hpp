#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "call.hpp"
#include "interfaces.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/cuda/device.hpp"

namespace trtlab::tensorrt {

/// TensorRT's device memory, from a `core::MemoryResource`: the runtime's, or, for what is allocated while an engine is
/// deserialized, the engine's.
///
/// Owns: the blocks that TensorRT has not given back; each remembers where it came from.
/// Errors: TensorRT gets a null pointer, and the call that it fails for tells why.
/// Threads: all members may be called from any thread.
class Allocator final : public abi::GpuAllocator {
public:
    Allocator(std::shared_ptr<core::MemoryResource> memory, cuda::Device device, Log& log);
    Allocator(const Allocator&) = delete;
    Allocator& operator=(const Allocator&) = delete;
    ~Allocator();

    void* allocate(std::uint64_t size, std::uint64_t alignment, std::uint32_t flags) noexcept override;
    void* reallocate(void* memory, std::uint64_t alignment, std::uint64_t size) noexcept override;
    bool deallocate(void* memory) noexcept override;
    void* allocateAsync(std::uint64_t size, std::uint64_t alignment, std::uint32_t flags,
                        abi::Stream stream) noexcept override;
    bool deallocateAsync(void* memory, abi::Stream stream) noexcept override;

    std::size_t size_of(const Weights& weights) const noexcept;
    std::vector<core::BufferView> blocks_of(const Weights& weights) const;
    /// What is allocated and is nobody's weights.
    std::size_t other_bytes() const noexcept;

private:
    struct Block {
        std::shared_ptr<core::MemoryResource> memory;
        std::size_t size_bytes;
        std::size_t alignment;
        std::shared_ptr<Weights> weights;
    };
    void refuse(std::uint64_t size, std::uint64_t alignment, bool for_weights, const char* why,
                bool out_of_memory) noexcept;

    const std::shared_ptr<core::MemoryResource> memory_;
    const cuda::Device device_;
    Log& log_;
    mutable std::mutex mutex_;  // a leaf: nothing is called while it is held
    std::unordered_map<void*, Block> blocks_;
    std::size_t other_bytes_ = 0;
};

}  // namespace trtlab::tensorrt
