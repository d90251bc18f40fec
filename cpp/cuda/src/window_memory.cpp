#include "trtlab/cuda/window_memory.hpp"

#include <algorithm>
#include <cstring>

#include "trtlab/core/error.hpp"
#include "trtlab/cuda/memory.hpp"

namespace trtlab::cuda {
namespace {

/// So much is copied at once: the CPU fills one chunk while the GPU reads others.
constexpr std::size_t kLeastChunk = 4 << 10, kMostChunk = 512 << 10;

core::Buffer make_ring(const Device& device, const core::WindowStream::Options& options,
                       std::shared_ptr<core::MemoryResource> memory) {
    if (memory == nullptr) memory = std::make_shared<DeviceMemory>(device);
    const core::Device of = memory->device();
    if ((of.type != core::DeviceType::cuda && of.type != core::DeviceType::cuda_managed) ||
        of.index != device.ordinal()) {
        throw core::InvalidArgument("window stream '" + options.name + "': " + memory->name() + " is not of " +
                                    device.to_string() + ", where the ring was to be");
    }
    return core::Buffer(std::move(memory), core::WindowStream::ring_bytes(options));
}

}  // namespace

void WindowMemory::Chunk::reached(int) noexcept {
    // What failed is told by the next call of CUDA's. Release pairs with `room`: the copy has read the chunk.
    state.store(free, std::memory_order_release);
    owner->on_room();
}

WindowMemory::WindowMemory(const Device& device, const core::WindowStream::Options& options,
                           std::shared_ptr<core::MemoryResource> memory)
    : core::WindowMemory(make_ring(device, options, std::move(memory))),
      stream_(device),
      fences_(device),
      chunk_bytes_(std::max(options.element_bytes, std::clamp(ring_.size_bytes() / 2, kLeastChunk, kMostChunk))),
      completions_(device) {
    staging_ = core::Buffer(std::make_shared<PinnedMemory>(device), core::checked_mul(chunks_.size(), chunk_bytes_));
    auto* data = static_cast<std::byte*>(staging_.data());
    for (Chunk& chunk : chunks_) {
        chunk.owner = this;
        chunk.data = data;
        chunk.copied = std::make_unique<Event>(device);
        data += chunk_bytes_;
    }
}

WindowMemory::~WindowMemory() {
    try {
        stream_.synchronize();
    } catch (...) {
        core::log_current_exception("the end of a ring of windows on " + stream_.device().to_string());
    }
}

std::size_t WindowMemory::room() {
    Chunk& chunk = chunks_[next_];
    switch (chunk.state.load(std::memory_order_acquire)) {  // pairs with `reached`
        case Chunk::watched:
            return 0;
        case Chunk::copying:
            if (!chunk.copied->done()) return 0;
            chunk.state.store(Chunk::free,
                              std::memory_order_relaxed);  // only this thread knows it, until it is watched
            break;
        case Chunk::free:
            break;
    }
    return chunk_bytes_;
}

void WindowMemory::call_when_room() {
    Chunk& chunk = chunks_[next_];
    switch (chunk.state.load(std::memory_order_acquire)) {  // pairs with `reached`
        case Chunk::watched:
            return;
        case Chunk::copying:
            chunk.state.store(Chunk::watched, std::memory_order_relaxed);  // handed over by `watch`
            completions_.watch(*chunk.copied, chunk);
            return;
        case Chunk::free:
            on_room();
    }
}

void WindowMemory::write(void* to, const void* from, std::size_t size_bytes) {
    Chunk& chunk = chunks_[next_];
    std::memcpy(chunk.data, from, size_bytes);
    stream_.copy_unchecked(to, chunk.data, size_bytes);
    try {
        chunk.copied->record(stream_);
    } catch (...) {
        stream_.synchronize();  // or the chunk would be written while it is read
        throw;
    }
    chunk.state.store(Chunk::copying, std::memory_order_relaxed);  // only this thread knows it, until it is watched
    next_ = (next_ + 1) % chunks_.size();
}

void WindowMemory::replicate(void* to, const void* from, std::size_t size_bytes) {
    stream_.copy_unchecked(to, from, size_bytes);
}

core::Ref<const core::Fence> WindowMemory::fence() { return fences_.record(stream_); }

bool WindowMemory::knows(const core::Fence& fence) const noexcept {
    return dynamic_cast<const EventFence*>(&fence) != nullptr;
}

void WindowMemory::wait_for(const core::Fence& fence) { stream_.wait(static_cast<const EventFence&>(fence).event()); }

}  // namespace trtlab::cuda
