#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "trtlab/core/memory.hpp"

namespace trtlab::core {

/// A ring for streams of requests: allocates at the head of one block of the upstream, takes back in any order, and frees
/// from the tail on, as far as everything there is back. One allocation that is kept holds up all that came after it.
///
/// What does not fit now, or ever, is OutOfMemory: the caller decides whether to wait for something to come back.
/// Owns: the block, and a share in the upstream.
/// Threads: one at a time.
class [[gnu::visibility("default")]] RingMemory final : public MemoryResource {
public:
    struct Stats {
        std::size_t capacity_bytes = 0;
        std::size_t used_bytes = 0;  ///< from tail to head, gaps and what is back behind the tail included
        std::size_t live = 0;        ///< allocations that are not back
    };

    /// Takes its block at once. Throws as the upstream, InvalidArgument (no upstream, a capacity of 0).
    RingMemory(std::shared_ptr<MemoryResource> upstream, std::size_t capacity_bytes);
    ~RingMemory() override;

    Device device() const noexcept override { return upstream_->device(); }
    std::string name() const override { return "ring memory over " + upstream_->name(); }
    Stats stats() const noexcept;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    /// Positions only ever grow; modulo the capacity they are offsets into the block. 2^64 bytes are never reached.
    struct Range {
        std::uint64_t begin = 0, end = 0;
        bool live = false;
    };
    Range& range(std::size_t index) noexcept { return ranges_[(first_ + index) & (ranges_.size() - 1)]; }
    void make_room_for_a_range();

    const std::shared_ptr<MemoryResource> upstream_;
    const std::size_t capacity_;
    const std::uintptr_t base_;
    std::vector<Range> ranges_;  // a ring as well, from the tail on: a power of two of places
    std::size_t first_ = 0, count_ = 0, live_ = 0;
    std::uint64_t head_ = 0, tail_ = 0;
};

}  // namespace trtlab::core
