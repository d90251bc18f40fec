#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "trtlab/core/memory.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// Whole blocks for those who cut them up: takes them from another resource in sizes that follow a policy, and keeps those
/// that come back for reuse.
///
/// As a `MemoryResource` it gives a whole block for each request, the smallest kept one that suffices; `acquire` tells how
/// large it is. When the upstream has no more, what is kept goes back to it, and then the request's own size is asked for.
/// Owns: its blocks, all of which go back with it, and a share in the upstream.
/// Threads: all members may be called from any thread. The upstream is called under the arena's lock, one call at a time.
/// In a forked child it is dead, as the lock may be: `acquire` throws Closed, what is given back leaks.
class [[gnu::visibility("default")]] BlockArena final : public MemoryResource {
public:
    struct Options {
        std::size_t first_block_bytes = std::size_t{1} << 20;
        /// Each further block is larger by this factor; 1: all are alike. The size starts anew when no block is left.
        double growth = 2;
        /// Growing ends here. A request for more gets a block of just its size.
        std::size_t max_block_bytes = std::size_t{64} << 20;
        /// What comes back beyond this goes to the upstream at once.
        std::size_t max_cached_bytes = std::size_t{1} << 30;
    };
    struct Block {
        void* data = nullptr;
        std::size_t size_bytes = 0;
    };
    struct Stats {
        std::size_t blocks_in_use = 0;
        std::size_t bytes_in_use = 0;
        std::size_t blocks_cached = 0;
        std::size_t bytes_cached = 0;
        std::uint64_t reused = 0;         ///< requests that a kept block served
        std::uint64_t from_upstream = 0;  ///< blocks that the upstream gave
    };

    /// Throws InvalidArgument (no upstream, a size of 0, growth below 1).
    BlockArena(std::shared_ptr<MemoryResource> upstream, const Options& options);
    explicit BlockArena(std::shared_ptr<MemoryResource> upstream) : BlockArena(std::move(upstream), Options{}) {}
    ~BlockArena() override;

    Device device() const noexcept override { return upstream_->device(); }
    std::string name() const override { return "block arena over " + upstream_->name(); }

    /// A block of at least `min_bytes`. Throws as `allocate`.
    Block acquire(std::size_t min_bytes, std::size_t alignment = kAlignment);
    /// Gives back what `acquire` gave. An address that is no block's is logged.
    void release(void* block) noexcept;

    /// Takes blocks, each of the size that is next, until that many are kept. Throws OutOfMemory, InvalidArgument (they are
    /// more than `max_cached_bytes`); blocks that were taken by then stay.
    void reserve(std::size_t blocks);
    /// Gives kept blocks back to the upstream, the largest first, until no more than `keep_bytes` are kept. Returns the
    /// bytes that went.
    std::size_t trim(std::size_t keep_bytes = 0) noexcept;

    Stats stats() const;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    struct Record {
        std::size_t size_bytes = 0;
        std::size_t alignment = 0;
        bool cached = false;
    };
    using Records = std::map<void*, Record>;

    // All of these under the lock.
    Block make(std::size_t size_bytes, std::size_t alignment);
    Block take_cached(std::size_t min_bytes, std::size_t alignment) noexcept;
    std::size_t room_for_kept() const noexcept;
    void keep(Records::iterator record) noexcept;
    void give_back(Records::iterator record) noexcept;
    std::size_t trim_locked(std::size_t keep_bytes) noexcept;
    void require_own_process() const;

    const std::shared_ptr<MemoryResource> upstream_;
    const Options options_;
    const ForkGuard fork_;
    mutable std::mutex mutex_;
    Records records_;                        // of all blocks, those in use and those that are kept
    std::vector<Records::iterator> cached_;  // by size; has room for every record, so that keeping one cannot throw
    std::size_t next_block_bytes_;
    Stats stats_;
};

}  // namespace trtlab::core
