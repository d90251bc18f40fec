#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "trtlab/core/block_arena.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/range_heap.hpp"
#include "trtlab/core/wait.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::cuda {

/// Device memory in the order of streams, cut out of slabs that all streams share: best fit, with no call of CUDA's while a
/// stream lives on what it gave back itself.
///
/// What comes back is at once its stream's own, whose later work runs after all that used it before. Where that does not
/// suffice, what other streams have free is taken, and the stream made to wait (on the GPU, not here) for what those were
/// given to do by then; only then is a slab taken. When there is none to be had, the device is waited for, slabs that are
/// wholly free go back, and one of another size is asked for. A stream that is being captured has what it has free itself, and no more:
/// what the capture needs is taken, or taken and given back, before it begins.
/// For memory that only work in streams touches: the host must not write to a block that another use may still be read from.
/// Owns: its slabs, and a share in the arena. Gives them back once the GPU is done.
/// Threads: all members, and the resources of all streams, may be called from any thread. In a forked child it is dead.
class [[gnu::visibility("default")]] StreamPool : public std::enable_shared_from_this<StreamPool> {
public:
    struct Stats {
        std::size_t slabs = 0;
        std::size_t bytes = 0;       ///< of the slabs
        std::size_t live_bytes = 0;  ///< as blocks were cut
        std::size_t live = 0;
        std::size_t streams = 0;       ///< whose resources live
        std::uint64_t taken_over = 0;  ///< blocks that were cut from what another stream had free
        std::uint64_t gathered = 0;    ///< times that what all streams had free was joined
    };

    /// `arena` is of memory of `device`. Throws InvalidArgument (none).
    static std::shared_ptr<StreamPool> create(Device device, std::shared_ptr<core::BlockArena> arena);
    ~StreamPool();
    StreamPool(const StreamPool&) = delete;
    StreamPool& operator=(const StreamPool&) = delete;

    /// Memory in the order of `stream`, which must outlive the resource. What is taken from one stream's resource may be given
    /// back to another's, if that stream's work comes after what used the block. When it goes, what its stream has free is
    /// kept for the next stream. Throws InvalidArgument (of another device, or being captured), CudaError.
    std::shared_ptr<core::MemoryResource> on(const StreamView& stream);

    /// Blocks until the device is done with everything, then gives slabs that are wholly free back to the arena. Returns the
    /// bytes that went. Throws CudaError.
    std::size_t trim();
    Stats stats() const;

private:
    class OnStream;
    /// One stream's side. Left behind by a stream whose resource went: the event is where it ended, for its successor.
    struct Side {
        explicit Side(const Device& device) : reached(device) {}
        std::optional<StreamView> stream;
        Event reached;
    };

    StreamPool(Device device, std::shared_ptr<core::BlockArena> arena);
    void* allocate(const core::MemoryResource& who, core::RangeHeap::Owner side, std::size_t size_bytes,
                   std::size_t alignment);
    void deallocate(const core::MemoryResource& who, core::RangeHeap::Owner side, void* block) noexcept;
    void leave(core::RangeHeap::Owner side) noexcept;

    // All of these under the lock.
    bool capturing(const StreamView& stream) const noexcept;
    void* take_over(core::RangeHeap::Owner side, std::size_t size_bytes, std::size_t alignment);
    void* gather(core::RangeHeap::Owner side, std::size_t size_bytes, std::size_t alignment);
    void* grow(core::RangeHeap::Owner side, std::size_t size_bytes, std::size_t alignment);
    std::size_t trim_locked();
    void follow(const Side& first, const StreamView& then) const;

    const Device device_;
    const std::shared_ptr<core::BlockArena> arena_;
    const core::ForkGuard fork_;
    mutable std::mutex mutex_;
    core::RangeHeap ranges_;
    std::vector<Side> sides_;  // by owner
    std::vector<core::BlockArena::Block> slabs_;
    std::size_t bytes_ = 0;
    std::uint64_t taken_over_ = 0, gathered_ = 0;
};

}  // namespace trtlab::cuda
