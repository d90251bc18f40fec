#include "trtlab/core/ring_memory.hpp"

#include <algorithm>

#include "upstream.hpp"

namespace trtlab::core {
namespace {

std::size_t required_capacity(std::size_t capacity_bytes) {
    if (capacity_bytes == 0) throw InvalidArgument("ring memory: a capacity of 0 bytes; at least 1 is needed");
    return capacity_bytes;
}

}  // namespace

RingMemory::RingMemory(std::shared_ptr<MemoryResource> upstream, std::size_t capacity_bytes)
    : upstream_(required_upstream(std::move(upstream), "ring memory")),
      capacity_(required_capacity(capacity_bytes)),
      base_(reinterpret_cast<std::uintptr_t>(upstream_->allocate(capacity_bytes))) {}

RingMemory::~RingMemory() { upstream_->deallocate(reinterpret_cast<void*>(base_), capacity_); }

void* RingMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    // An offset, if there is room between it and `end`; otherwise `end`.
    const auto place = [&](std::size_t offset, std::size_t end) {
        const std::uintptr_t at = aligned_up(base_ + offset, alignment);
        const bool fits = at >= base_ + offset && at <= base_ + end && size_bytes <= base_ + end - at;
        return fits ? static_cast<std::size_t>(at - base_) : end;
    };
    const std::uint64_t lap = head_ - head_ % capacity_;
    const std::uint64_t limit = tail_ + capacity_;
    std::uint64_t begin = lap + place(head_ - lap, std::min<std::uint64_t>(limit - lap, capacity_));
    if (begin == std::min(limit, lap + capacity_) && limit > lap + capacity_) {
        begin = lap + capacity_ + place(0, limit - lap - capacity_);  // over the end, to the beginning of the block
    }
    if (begin == limit) {
        throw_out_of_memory(*this, size_bytes,
                            std::to_string(head_ - tail_) + " of " + std::to_string(capacity_) +
                                " bytes are in use, and the oldest of them must come back first");
    }
    on_behalf_of(*this, size_bytes, alignment, [&] { make_room_for_a_range(); });
    head_ = begin + size_bytes;
    range(count_++) = {begin, head_, true};
    ++live_;
    return reinterpret_cast<void*>(base_ + begin % capacity_);
}

void RingMemory::make_room_for_a_range() {
    if (count_ < ranges_.size()) return;
    std::vector<Range> larger(std::max<std::size_t>(16, ranges_.size() * 2));
    for (std::size_t i = 0; i < count_; ++i) larger[i] = range(i);
    ranges_ = std::move(larger);
    first_ = 0;
}

void RingMemory::do_deallocate(void* block, std::size_t, std::size_t) noexcept {
    const std::size_t offset = reinterpret_cast<std::uintptr_t>(block) - base_;
    const std::size_t tail_offset = tail_ % capacity_;
    const std::uint64_t position = tail_ - tail_offset + offset + (offset < tail_offset ? std::uint64_t{capacity_} : 0);
    std::size_t low = 0, high = count_;
    while (low < high) {
        const std::size_t middle = low + (high - low) / 2;
        range(middle).begin < position ? low = middle + 1 : high = middle;
    }
    if (offset >= capacity_ || low == count_ || range(low).begin != position || !range(low).live) {
        log_foreign_block(*this);
        return;
    }
    range(low).live = false;
    --live_;
    while (count_ > 0 && !range(0).live) {
        tail_ = range(0).end;
        first_ = (first_ + 1) & (ranges_.size() - 1);
        --count_;
    }
    // With nothing live the whole block is free, in one piece if it is begun anew.
    if (count_ == 0) head_ = tail_ = (tail_ + capacity_ - 1) / capacity_ * capacity_;
}

RingMemory::Stats RingMemory::stats() const noexcept {
    return {capacity_, static_cast<std::size_t>(head_ - tail_), live_};
}

}  // namespace trtlab::core
