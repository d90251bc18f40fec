#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <vector>

#include "trtlab/core/size_class_memory.hpp"

namespace trtlab::core {

/// Classes are 16, 32, .. 128 bytes, and from there on four for each doubling. A multiple of a power of two `a` is rounded up
/// to a multiple of `a`, since classes that are further apart than `a` lie at multiples of their distance.
inline constexpr std::size_t kMaxClassBytes = std::size_t{1} << 20;

constexpr unsigned class_of(std::size_t size_bytes) noexcept {
    const auto top = static_cast<unsigned>(std::bit_width((size_bytes - 1) | 64)) - 1;
    return 4 * (top - 6) + static_cast<unsigned>((size_bytes - 1) >> (top - 2));
}

constexpr std::size_t class_bytes(unsigned index) noexcept {
    const unsigned top = index < 8 ? 6 : (index - 4) / 4 + 6;
    return std::size_t{index - 4 * (top - 6) + 1} << (top - 2);
}

inline constexpr unsigned kClasses = class_of(kMaxClassBytes) + 1;

/// Addresses of free blocks of one class, in the heap: the blocks themselves may be where the CPU cannot write.
struct Magazine {
    Magazine* next = nullptr;
    std::size_t count = 0;  // not kept while the magazine is loaded in a thread: there the top says it

    void** blocks() noexcept { return reinterpret_cast<void**>(this + 1); }
    static Magazine* of(void** blocks) noexcept { return reinterpret_cast<Magazine*>(blocks) - 1; }
    /// Null if the heap has no room.
    static Magazine* make(std::size_t capacity) noexcept {
        void* place = ::operator new(sizeof(Magazine) + capacity * sizeof(void*), std::nothrow);
        return place == nullptr ? nullptr : new (place) Magazine;
    }
    static void destroy(Magazine* magazine) noexcept { ::operator delete(magazine); }
};

/// One class in one thread: the magazine that is loaded, and a spare one that is full or empty.
struct Bin {
    void** top = nullptr;    // behind the last block of the loaded magazine
    void** begin = nullptr;  // null: none is loaded
    void** end = nullptr;
    Magazine* spare = nullptr;
};

struct SizeClassMemory::ThreadCache {
    std::array<Bin, kClasses> bins;
};

/// What all threads share of one resource.
struct SizeClassMemory::Depot {
    Depot(std::shared_ptr<MemoryResource> upstream_, const Options& options_, const SizeClassMemory& owner_);
    ~Depot();

    void* allocate_large(std::size_t size_bytes, std::size_t alignment);
    void deallocate_large(void* block, std::size_t size_bytes, std::size_t alignment) noexcept;

    /// A block for a bin that has none in its loaded magazine.
    void* refill(Bin& bin, unsigned index);
    /// Takes a block for a bin whose loaded magazine has no room.
    void spill(Bin& bin, unsigned index, void* block) noexcept;
    /// The same for a thread that has no cache.
    void* take_one(unsigned index);
    void put_one(unsigned index, void* block) noexcept;
    /// Everything that a thread keeps comes here.
    void retire(ThreadCache& cache) noexcept;

    std::size_t trim();
    void add_to(Stats& stats) const;
    void require_own_process() const;
    std::size_t capacity(unsigned index) const noexcept;

    struct Chunk {
        std::uintptr_t begin = 0;
        std::size_t size = 0;
    };
    struct alignas(64) Class {
        mutable std::mutex mutex;  // after `upstream_mutex`, guards what follows
        Magazine* full = nullptr;  // a list; all with as many blocks as fit
        Magazine* empty = nullptr;
        Magazine* partial = nullptr;         // what is left over, poured together
        std::uintptr_t cursor = 0, end = 0;  // of the newest chunk, what was never given out
        std::vector<Chunk> chunks;
        std::size_t free_blocks = 0;  // in magazines of the depot
        std::uint64_t visits = 0;
    };

    // Under the class's lock.
    Magazine* pop_blocks(Class& of, unsigned index);
    Magazine* pop_empty(Class& of, unsigned index) noexcept;
    void push_empty(Class& of, Magazine* magazine) noexcept;
    void push_blocks(Class& of, unsigned index, Magazine* magazine) noexcept;
    /// Takes whole free chunks out of the books.
    void collect_free_chunks(Class& of, unsigned index, std::vector<Chunk>& gone);

    void grow(unsigned index);

    const std::shared_ptr<MemoryResource> upstream;
    const Options options;
    const SizeClassMemory& owner;
    const ForkGuard fork;
    mutable std::mutex upstream_mutex;  // the upstream is called under it; guards large_bytes
    std::size_t large_bytes = 0;
    std::array<Class, kClasses> classes;
    std::vector<std::unique_ptr<ThreadCache>> caches;  // under the registry's lock
};

}  // namespace trtlab::core
