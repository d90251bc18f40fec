#include "trtlab/core/block_arena.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "upstream.hpp"

namespace trtlab::core {

BlockArena::BlockArena(std::shared_ptr<MemoryResource> upstream, const Options& options)
    : upstream_(required_upstream(std::move(upstream), "block arena")),
      options_(options),
      next_block_bytes_(options.first_block_bytes) {
    if (options.first_block_bytes == 0 || options.max_block_bytes < options.first_block_bytes ||
        !(options.growth >= 1)) {
        throw InvalidArgument(name() + ": blocks from " + std::to_string(options.first_block_bytes) + " to " +
                              std::to_string(options.max_block_bytes) + " bytes, growing by a factor of " +
                              std::to_string(options.growth) +
                              ": expected a first size of at least 1, a largest that " +
                              "is not less, and a factor of at least 1");
    }
}

BlockArena::~BlockArena() {
    if (fork_.forked()) return;
    for (const auto& [block, record] : records_) upstream_->deallocate(block, record.size_bytes, record.alignment);
}

void BlockArena::require_own_process() const {
    if (fork_.forked()) throw Closed(name() + " stayed in the parent process: make one after the fork");
}

BlockArena::Block BlockArena::acquire(std::size_t min_bytes, std::size_t alignment) {
    require_own_process();
    if (!std::has_single_bit(alignment)) {
        throw InvalidArgument(name() + ": an alignment of " + std::to_string(alignment) +
                              " bytes was asked for; expected a power of two");
    }
    return on_behalf_of(*this, min_bytes, alignment, [&] {
        const std::lock_guard lock(mutex_);
        Block block = take_cached(min_bytes, alignment);
        if (block.data != nullptr) return block;
        if (records_.empty()) next_block_bytes_ = options_.first_block_bytes;
        try {
            block = make(std::max(min_bytes, next_block_bytes_), alignment);
        } catch (const OutOfMemory&) {
            if (trim_locked(0) == 0 && min_bytes >= next_block_bytes_) throw;
            return make(min_bytes, alignment);
        }
        if (min_bytes <= next_block_bytes_) {
            const double grown = static_cast<double>(next_block_bytes_) * options_.growth;
            next_block_bytes_ = grown < static_cast<double>(options_.max_block_bytes) ? static_cast<std::size_t>(grown)
                                                                                      : options_.max_block_bytes;
        }
        return block;
    });
}

BlockArena::Block BlockArena::make(std::size_t size_bytes, std::size_t alignment) {
    cached_.reserve(records_.size() + 1);
    void* const data = upstream_->allocate(size_bytes, alignment);
    try {
        records_.emplace(data, Record{size_bytes, alignment, false});
    } catch (...) {
        upstream_->deallocate(data, size_bytes, alignment);
        throw;
    }
    ++stats_.blocks_in_use;
    ++stats_.from_upstream;
    stats_.bytes_in_use += size_bytes;
    return {data, size_bytes};
}

BlockArena::Block BlockArena::take_cached(std::size_t min_bytes, std::size_t alignment) noexcept {
    auto place =
        std::lower_bound(cached_.begin(), cached_.end(), min_bytes,
                         [](Records::iterator kept, std::size_t wanted) { return kept->second.size_bytes < wanted; });
    const auto aligned = [alignment](Records::iterator kept) {
        return reinterpret_cast<std::uintptr_t>(kept->first) % alignment == 0;
    };
    place = std::find_if(place, cached_.end(), aligned);
    if (place == cached_.end()) return {};
    const Records::iterator record = *place;
    cached_.erase(place);
    record->second.cached = false;
    const std::size_t size_bytes = record->second.size_bytes;
    --stats_.blocks_cached;
    stats_.bytes_cached -= size_bytes;
    ++stats_.blocks_in_use;
    stats_.bytes_in_use += size_bytes;
    ++stats_.reused;
    return {record->first, size_bytes};
}

void BlockArena::release(void* block) noexcept {
    if (fork_.forked()) return;
    {
        const std::lock_guard lock(mutex_);
        const auto record = records_.find(block);
        if (record != records_.end() && !record->second.cached) {
            const std::size_t size_bytes = record->second.size_bytes;
            --stats_.blocks_in_use;
            stats_.bytes_in_use -= size_bytes;
            size_bytes <= room_for_kept() ? keep(record) : give_back(record);
            return;
        }
    }
    log_foreign_block(*this);
}

std::size_t BlockArena::room_for_kept() const noexcept {
    return options_.max_cached_bytes - std::min(stats_.bytes_cached, options_.max_cached_bytes);
}

void BlockArena::keep(Records::iterator record) noexcept {
    const auto place = std::upper_bound(
        cached_.begin(), cached_.end(), record->second.size_bytes,
        [](std::size_t size_bytes, Records::iterator kept) { return size_bytes < kept->second.size_bytes; });
    cached_.insert(place, record);  // cannot throw: reserved by make()
    record->second.cached = true;
    ++stats_.blocks_cached;
    stats_.bytes_cached += record->second.size_bytes;
}

void BlockArena::give_back(Records::iterator record) noexcept {
    upstream_->deallocate(record->first, record->second.size_bytes, record->second.alignment);
    records_.erase(record);
}

void BlockArena::reserve(std::size_t blocks) {
    require_own_process();
    const std::lock_guard lock(mutex_);
    while (stats_.blocks_cached < blocks) {
        if (next_block_bytes_ > room_for_kept()) {
            throw InvalidArgument(name() + ": " + std::to_string(blocks) + " blocks of " +
                                  std::to_string(next_block_bytes_) + " bytes were to be reserved, and " +
                                  std::to_string(options_.max_cached_bytes) +
                                  " bytes may be kept: reserve less, or raise max_cached_bytes");
        }
        const Block block =
            on_behalf_of(*this, next_block_bytes_, kAlignment, [&] { return make(next_block_bytes_, kAlignment); });
        --stats_.blocks_in_use;
        stats_.bytes_in_use -= block.size_bytes;
        keep(records_.find(block.data));
    }
}

std::size_t BlockArena::trim(std::size_t keep_bytes) noexcept {
    if (fork_.forked()) return 0;
    const std::lock_guard lock(mutex_);
    return trim_locked(keep_bytes);
}

std::size_t BlockArena::trim_locked(std::size_t keep_bytes) noexcept {
    std::size_t gone = 0;
    while (!cached_.empty() && stats_.bytes_cached > keep_bytes) {
        const Records::iterator record = cached_.back();
        cached_.pop_back();
        --stats_.blocks_cached;
        stats_.bytes_cached -= record->second.size_bytes;
        gone += record->second.size_bytes;
        give_back(record);
    }
    return gone;
}

BlockArena::Stats BlockArena::stats() const {
    require_own_process();
    const std::lock_guard lock(mutex_);
    return stats_;
}

void* BlockArena::do_allocate(std::size_t size_bytes, std::size_t alignment) {
    return acquire(size_bytes, alignment).data;
}

void BlockArena::do_deallocate(void* block, std::size_t, std::size_t) noexcept { release(block); }

}  // namespace trtlab::core
