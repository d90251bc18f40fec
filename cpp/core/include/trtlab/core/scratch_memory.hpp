#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trtlab/core/block_arena.hpp"
#include "trtlab/core/memory.hpp"

namespace trtlab::core {

/// Scratch for requests: allocating moves a cursor through a block, giving back counts down, in any order. A block whose
/// count is zero goes back to the arena; the one that is being filled begins anew instead.
///
/// What is given back is usable again when all that was allocated from the same block is: for things that live about as
/// long as each other. The idea is the "transactional allocator" of the first tensorrt-laboratory.
/// Owns: its blocks, and a share in the arena.
/// Threads: one at a time. Several may have scratch of their own over one arena.
class [[gnu::visibility("default")]] ScratchMemory final : public MemoryResource {
public:
    struct Stats {
        std::size_t blocks = 0;
        std::size_t bytes = 0;  ///< of these blocks
        std::size_t live = 0;   ///< allocations that are not back
    };

    explicit ScratchMemory(std::shared_ptr<BlockArena> arena);
    /// With an arena of its own.
    explicit ScratchMemory(std::shared_ptr<MemoryResource> upstream, const BlockArena::Options& blocks = {})
        : ScratchMemory(std::make_shared<BlockArena>(std::move(upstream), blocks)) {}
    ~ScratchMemory() override;

    Device device() const noexcept override { return arena_->device(); }
    std::string name() const override { return "scratch memory over " + arena_->name(); }

    /// Gives the block that is being filled back to the arena if nothing in it is live.
    void trim() noexcept;
    Stats stats() const noexcept;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    struct Block {
        std::uintptr_t begin = 0;
        std::size_t size_bytes = 0;
        std::size_t live = 0;
    };
    void* allocate_in_next_block(std::size_t size_bytes, std::size_t alignment);
    void deallocate_in_full_block(std::uintptr_t address) noexcept;
    void release(const Block& block) noexcept;

    const std::shared_ptr<BlockArena> arena_;
    std::uintptr_t cursor_ = 0;
    Block current_;
    std::vector<Block> full_;  // by address
};

}  // namespace trtlab::core
