#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trtlab/core/block_arena.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/range_heap.hpp"

namespace trtlab::core {

/// Cuts blocks of any size out of slabs, the arena's blocks: best fit, neighbours that are free become one again, each call
/// in O(log n). For things of many sizes and lives over memory that is dear to allocate.
/// Owns: its slabs, and a share in the arena.
/// Threads: one at a time.
class [[gnu::visibility("default")]] BestFitMemory final : public MemoryResource {
public:
    struct Options {
        /// Of the slab that is taken at once; 0: none is before the first request.
        std::size_t first_slab_bytes = 0;
        /// Whether further slabs are taken when none has room. Otherwise `first_slab_bytes` are all there is.
        bool grow = true;
        /// Sizes are rounded up to multiples of it, a power of two up to kAlignment.
        std::size_t granule_bytes = kAlignment;
        /// A rest that is smaller stays with the block that it is left of.
        std::size_t min_split_bytes = kAlignment;
    };
    struct Stats {
        std::size_t slabs = 0;
        std::size_t bytes = 0;       ///< of the slabs
        std::size_t live_bytes = 0;  ///< as they were cut
        std::size_t live = 0;        ///< allocations that are not back
        std::size_t free_ranges = 0;
        std::size_t largest_free_bytes = 0;
    };

    /// Throws InvalidArgument (options), and as the arena for the first slab.
    BestFitMemory(std::shared_ptr<BlockArena> arena, const Options& options);
    explicit BestFitMemory(std::shared_ptr<BlockArena> arena) : BestFitMemory(std::move(arena), Options{}) {}
    /// With an arena of its own.
    explicit BestFitMemory(std::shared_ptr<MemoryResource> upstream, const BlockArena::Options& slabs = {})
        : BestFitMemory(std::make_shared<BlockArena>(std::move(upstream), slabs)) {}
    ~BestFitMemory() override;

    Device device() const noexcept override { return arena_->device(); }
    std::string name() const override { return "best-fit memory over " + arena_->name(); }

    /// Gives slabs that are wholly free back to the arena. One of them is otherwise kept.
    void trim() noexcept;
    Stats stats() const noexcept;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    void add_slab(std::size_t min_bytes);
    void release_empty_slab() noexcept;

    const std::shared_ptr<BlockArena> arena_;
    const Options options_;
    RangeHeap ranges_;
    std::vector<BlockArena::Block> slabs_;
    RangeHeap::Region empty_;  // a slab that is wholly free, if there is one
};

}  // namespace trtlab::core
