#include "allocator.hpp"

#include <algorithm>

#include "trtlab/core/error.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::tensorrt {

Allocator::Allocator(std::shared_ptr<core::MemoryResource> memory, cuda::Device device, Log& log)
    : memory_(std::move(memory)), device_(std::move(device)), log_(log) {}

Allocator::~Allocator() {
    if (blocks_.empty()) return;
    std::size_t size_bytes = 0;
    for (const auto& [address, block] : blocks_) {
        size_bytes += block.size_bytes;
        block.memory->deallocate(address, block.size_bytes, block.alignment);
    }
    core::log("TensorRT has not given back " + std::to_string(blocks_.size()) + " blocks, " +
              std::to_string(size_bytes) + " bytes, before its runtime was destroyed; they are freed");
}

void* Allocator::allocate(std::uint64_t size, std::uint64_t alignment, std::uint32_t) noexcept {
    if (size == 0) return nullptr;
    std::shared_ptr<Weights> weights;
    try {
        weights = Call::weights_for(log_);
        const std::shared_ptr<core::MemoryResource>& memory = weights && weights->memory ? weights->memory : memory_;
        // Zero is any; cudaMalloc's own alignment costs nothing.
        const std::size_t wanted = std::max<std::size_t>(alignment, core::MemoryResource::kAlignment);
        void* const address = memory->allocate(size, wanted);
        try {
            std::lock_guard lock(mutex_);
            blocks_.emplace(address, Block{memory, size, wanted, weights});
            if (weights) {
                weights->blocks.push_back({address, size, memory->device()});
                weights->size_bytes += size;
            } else {
                other_bytes_ += size;
            }
        } catch (...) {
            {
                std::lock_guard lock(mutex_);
                blocks_.erase(address);
            }
            memory->deallocate(address, size, wanted);
            throw;
        }
        return address;
    } catch (const core::OutOfMemory& error) {
        refuse(size, alignment, weights != nullptr, error.what(), true);
    } catch (const std::bad_alloc& error) {
        refuse(size, alignment, weights != nullptr, error.what(), true);
    } catch (const std::exception& error) {
        refuse(size, alignment, weights != nullptr, error.what(), false);
    } catch (...) {
        refuse(size, alignment, weights != nullptr, "the memory resource threw something that is no exception", false);
    }
    return nullptr;
}

void Allocator::refuse(std::uint64_t size, std::uint64_t alignment, bool for_weights, const char* why,
                       bool out_of_memory) noexcept {
    try {
        std::string text = "TensorRT asked for " + std::to_string(size) + " bytes " +
                           (for_weights ? "for weights" : "of working memory") + " (alignment " +
                           std::to_string(alignment) + ") and got none: " + why;
        try {
            const cuda::Device::Memory memory = device_.memory();
            text += "; " + device_.to_string() + " has " + std::to_string(memory.free_bytes) + " of " +
                    std::to_string(memory.total_bytes) + " bytes free";
        } catch (const core::Error&) {
            // The numbers are an extra; the reason stands without them.
        }
        Call::could_not_allocate(log_, std::move(text), out_of_memory);
    } catch (...) {
        core::log_current_exception("TensorRT's allocator");
    }
}

// Null says that a block can't be changed where it lies; TensorRT then allocates another and copies.
void* Allocator::reallocate(void*, std::uint64_t, std::uint64_t) noexcept { return nullptr; }

bool Allocator::deallocate(void* memory) noexcept {
    if (memory == nullptr) return true;
    Block block;
    {
        std::lock_guard lock(mutex_);
        const auto found = blocks_.find(memory);
        if (found == blocks_.end()) return false;
        block = std::move(found->second);
        blocks_.erase(found);
        if (block.weights) {
            std::erase_if(block.weights->blocks, [&](const core::BufferView& view) { return view.data == memory; });
            block.weights->size_bytes -= block.size_bytes;
        } else {
            other_bytes_ -= block.size_bytes;
        }
    }
    block.memory->deallocate(memory, block.size_bytes, block.alignment);
    return true;
}

// Memory that is ready at once is ready in any stream.
void* Allocator::allocateAsync(std::uint64_t size, std::uint64_t alignment, std::uint32_t flags, abi::Stream) noexcept {
    return allocate(size, alignment, flags);
}

bool Allocator::deallocateAsync(void* memory, abi::Stream stream) noexcept {
    try {
        // What is in the stream may still use the block, and the resource may lend it to somebody else at once.
        cuda::StreamView(device_, stream).synchronize();
    } catch (...) {
        core::log_current_exception("TensorRT's allocator, before it frees memory in the order of a stream");
    }
    return deallocate(memory);
}

std::size_t Allocator::size_of(const Weights& weights) const noexcept {
    std::lock_guard lock(mutex_);
    return weights.size_bytes;
}

std::vector<core::BufferView> Allocator::blocks_of(const Weights& weights) const {
    std::lock_guard lock(mutex_);
    return weights.blocks;
}

std::size_t Allocator::other_bytes() const noexcept {
    std::lock_guard lock(mutex_);
    return other_bytes_;
}

}  // namespace trtlab::tensorrt
