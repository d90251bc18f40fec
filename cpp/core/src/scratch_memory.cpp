#include "trtlab/core/scratch_memory.hpp"

#include <algorithm>
#include <limits>

#include "upstream.hpp"

namespace trtlab::core {

ScratchMemory::ScratchMemory(std::shared_ptr<BlockArena> arena) : arena_(std::move(arena)) {
    if (arena_ == nullptr) throw InvalidArgument("scratch memory: the arena is null; give it one");
}

ScratchMemory::~ScratchMemory() {
    release(current_);
    for (const Block& block : full_) release(block);
}

void* ScratchMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    const std::uintptr_t end = current_.begin + current_.size_bytes;
    const std::uintptr_t at = aligned_up(cursor_, alignment);
    if (at >= cursor_ && at <= end && size_bytes <= end - at) [[likely]] {
        cursor_ = at + size_bytes;
        ++current_.live;
        return reinterpret_cast<void*>(at);
    }
    return allocate_in_next_block(size_bytes, alignment);
}

void* ScratchMemory::allocate_in_next_block(std::size_t size_bytes, std::size_t alignment) {
    const std::size_t room = alignment_room(alignment);
    if (size_bytes > std::numeric_limits<std::size_t>::max() - room) {
        throw_out_of_memory(*this, size_bytes, "with its alignment it is larger than the address space");
    }
    if (current_.live == 0) trim();  // first, so that its bytes may become part of the next
    const BlockArena::Block next = on_behalf_of(*this, size_bytes, alignment, [&] {
        full_.reserve(full_.size() + 1);
        return arena_->acquire(size_bytes + room);
    });
    if (current_.size_bytes != 0) {
        const auto place = std::upper_bound(full_.begin(), full_.end(), current_.begin,
                                            [](std::uintptr_t begin, const Block& full) { return begin < full.begin; });
        full_.insert(place, current_);  // cannot throw: reserved
    }
    current_ = {reinterpret_cast<std::uintptr_t>(next.data), next.size_bytes, 1};
    const std::uintptr_t at = aligned_up(current_.begin, alignment);
    cursor_ = at + size_bytes;
    return reinterpret_cast<void*>(at);
}

void ScratchMemory::do_deallocate(void* block, std::size_t, std::size_t) noexcept {
    const auto address = reinterpret_cast<std::uintptr_t>(block);
    if (address - current_.begin < current_.size_bytes && current_.live > 0) [[likely]] {
        if (--current_.live == 0) cursor_ = current_.begin;
        return;
    }
    deallocate_in_full_block(address);
}

void ScratchMemory::deallocate_in_full_block(std::uintptr_t address) noexcept {
    auto place = std::upper_bound(full_.begin(), full_.end(), address,
                                  [](std::uintptr_t at, const Block& full) { return at < full.begin; });
    if (place == full_.begin() || address - (--place)->begin >= place->size_bytes) {
        log_foreign_block(*this);
        return;
    }
    if (--place->live == 0) {
        release(*place);
        full_.erase(place);
    }
}

void ScratchMemory::release(const Block& block) noexcept {
    if (block.size_bytes != 0) arena_->release(reinterpret_cast<void*>(block.begin));
}

void ScratchMemory::trim() noexcept {
    if (current_.live != 0) return;
    release(current_);
    current_ = {};
    cursor_ = 0;
}

ScratchMemory::Stats ScratchMemory::stats() const noexcept {
    Stats stats{full_.size() + (current_.size_bytes != 0 ? 1 : 0), current_.size_bytes, current_.live};
    for (const Block& block : full_) {
        stats.bytes += block.size_bytes;
        stats.live += block.live;
    }
    return stats;
}

}  // namespace trtlab::core
