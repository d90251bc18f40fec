#include "trtlab/core/best_fit_memory.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include "upstream.hpp"

namespace trtlab::core {

BestFitMemory::BestFitMemory(std::shared_ptr<BlockArena> arena, const Options& options)
    : arena_(std::move(arena)), options_(options), ranges_(options.granule_bytes, options.min_split_bytes) {
    if (arena_ == nullptr) throw InvalidArgument("best-fit memory: the arena is null; give it one");
    if (options.granule_bytes > kAlignment) {
        throw InvalidArgument(name() + ": a granule of " + std::to_string(options.granule_bytes) +
                              " bytes; expected a power of two up to " + std::to_string(kAlignment));
    }
    if (!options.grow && options.first_slab_bytes == 0)
        throw InvalidArgument(name() + ": it may not grow, and first_slab_bytes is 0; allow one of them");
    if (options.first_slab_bytes != 0) add_slab(options.first_slab_bytes);
}

BestFitMemory::~BestFitMemory() {
    for (const BlockArena::Block& slab : slabs_) arena_->release(slab.data);
}

void BestFitMemory::add_slab(std::size_t min_bytes) {
    slabs_.reserve(slabs_.size() + 1);
    const BlockArena::Block slab = arena_->acquire(min_bytes);
    try {
        ranges_.add_region({slab.data, slab.size_bytes});
    } catch (...) {
        arena_->release(slab.data);
        throw;
    }
    slabs_.push_back(slab);
}

void* BestFitMemory::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    void* block = on_behalf_of(*this, size_bytes, alignment, [&] {
        void* found = ranges_.take(size_bytes, alignment);
        if (found != nullptr || !options_.grow) return found;
        const std::size_t room = alignment_room(alignment) + options_.granule_bytes;
        if (size_bytes > std::numeric_limits<std::size_t>::max() - room)
            throw OutOfMemory("with its alignment it is larger than the address space");
        release_empty_slab();  // first, so that its bytes may become part of the next
        add_slab((size_bytes + room - 1) & ~(options_.granule_bytes - 1));
        return ranges_.take(size_bytes, alignment);
    });
    if (block == nullptr) {
        throw_out_of_memory(*this, size_bytes,
                            "it may not grow, and of its " + std::to_string(stats().bytes) +
                                " bytes the largest free range has " + std::to_string(ranges_.largest()));
    }
    if (reinterpret_cast<std::uintptr_t>(block) - reinterpret_cast<std::uintptr_t>(empty_.data) < empty_.size_bytes)
        empty_ = {};
    return block;
}

void BestFitMemory::do_deallocate(void* block, std::size_t, std::size_t) noexcept {
    const RangeHeap::Freed freed = ranges_.put(block);
    if (freed.size_bytes == 0) {
        log_foreign_block(*this);
        return;
    }
    if (freed.region.data == nullptr || !options_.grow) return;
    // One empty slab is kept, so that a lone block that comes and goes does not take one and give one back each time.
    release_empty_slab();
    empty_ = freed.region;
}

void BestFitMemory::release_empty_slab() noexcept {
    if (empty_.data == nullptr) return;
    ranges_.remove_region(empty_);
    std::erase_if(slabs_, [this](const BlockArena::Block& slab) { return slab.data == empty_.data; });
    arena_->release(empty_.data);
    empty_ = {};
}

void BestFitMemory::trim() noexcept {
    if (options_.grow) release_empty_slab();
}

BestFitMemory::Stats BestFitMemory::stats() const noexcept {
    const RangeHeap::Stats ranges = ranges_.stats();
    Stats stats{slabs_.size(), 0, ranges.live_bytes, ranges.live_ranges, ranges.free_ranges, ranges_.largest()};
    for (const BlockArena::Block& slab : slabs_) stats.bytes += slab.size_bytes;
    return stats;
}

}  // namespace trtlab::core
