#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "trtlab/core/memory.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// Small blocks for many threads: sizes are rounded up to classes, four for each doubling, and every thread keeps free
/// blocks of each class for itself. What is larger, or aligned to more than `kAlignment`, is the upstream's.
///
/// A thread keeps at most two magazines of a class, each an array of addresses; full ones and empty ones are exchanged with
/// a depot that all threads share, under a lock (Bonwick and Adams, "Magazines and Vmem", 2001). So a block may come back
/// on any thread, and threads that only give back feed those that only take. A thread's blocks go to the depot when it ends.
/// Memory that became a class's stays its until `trim`, which a request does for itself when the upstream has no more.
/// Owns: its chunks, all of which go back with it, and a share in the upstream. It may go before threads that used it.
/// Threads: all members may be called from any thread. The upstream is called by one at a time.
/// In a forked child it is dead, as its locks may be: once a thread's own blocks are used up `allocate` throws Closed.
class [[gnu::visibility("default")]] SizeClassMemory final : public MemoryResource {
public:
    struct Options {
        /// What is larger goes to the upstream. A power of two, from 256 bytes to 1 MiB.
        std::size_t max_size_bytes = std::size_t{32} << 10;
        /// Of what a class takes from the upstream at a time: begins with 16 KiB, or one block, and doubles up to this.
        std::size_t max_chunk_bytes = std::size_t{1} << 20;
        /// Of one magazine of one class in one thread, which has at least 2 blocks and at most 128.
        std::size_t magazine_bytes = std::size_t{32} << 10;
    };
    struct Stats {
        std::size_t reserved_bytes = 0;  ///< taken from the upstream for classes
        std::size_t depot_bytes = 0;     ///< of these, free and in no thread's hands
        std::size_t large_bytes = 0;     ///< passed through from the upstream, as they were asked for
        std::size_t thread_caches = 0;   ///< threads that keep blocks
        std::uint64_t depot_visits = 0;  ///< requests and returns that a thread's own magazines could not serve
    };

    /// Throws InvalidArgument (no upstream, options).
    SizeClassMemory(std::shared_ptr<MemoryResource> upstream, const Options& options);
    explicit SizeClassMemory(std::shared_ptr<MemoryResource> upstream)
        : SizeClassMemory(std::move(upstream), Options{}) {}
    ~SizeClassMemory() override;

    Device device() const noexcept override;
    std::string name() const override;

    /// Gives chunks back of which every block is in the depot, after those of the calling thread were put there. Returns the
    /// bytes that went. Takes long: it sorts what is free.
    std::size_t trim();
    Stats stats() const;

    /// What a block takes that is asked for with this size and alignment; 0: it is the upstream's.
    std::size_t block_bytes(std::size_t size_bytes, std::size_t alignment = kAlignment) const noexcept;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    struct Depot;
    struct ThreadCache;
    friend struct ThreadCaches;

    template <class Take>
    void* trimmed_if_short(Take take);
    void* allocate_slowly(unsigned index);
    void deallocate_slowly(unsigned index, void* block) noexcept;

    const std::size_t max_size_;
    const std::uint64_t id_;
    std::unique_ptr<Depot> depot_;
};

}  // namespace trtlab::core
