#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace trtlab::core {

/// Which ranges of memory are free: best fit, with coalescing. Pure book-keeping on addresses; touches no memory.
///
/// A region is cut into ranges, each live or free. A free one has an owner, a number: there is one owner at first, and may
/// be more, such as the streams of a GPU. A block is cut from what one owner has free, the smallest range that suffices and
/// of those the lowest; what comes back is its owner's, and one with the neighbours that are free and of the same owner.
/// All of it in O(log n): an owner's free ranges are in balanced trees by size and address, one for each eighth of a doubling.
/// Threads: one at a time.
class [[gnu::visibility("default")]] RangeHeap {
public:
    using Owner = std::uint32_t;
    struct Region {
        void* data = nullptr;
        std::size_t size_bytes = 0;
    };
    struct Freed {
        std::size_t size_bytes = 0;  ///< of the block as it was cut; 0: there is no such live block
        Region region = {};          ///< the region, if all of it is now free and one owner's
    };
    struct Stats {
        std::size_t free_bytes = 0;
        std::size_t live_bytes = 0;
        std::size_t free_ranges = 0;
        std::size_t live_ranges = 0;
    };

    /// Sizes are rounded up to multiples of `granule_bytes`, a power of two; regions begin at multiples of it. What would be
    /// left of a range and is less than `min_split_bytes` goes with the block.
    RangeHeap(std::size_t granule_bytes, std::size_t min_split_bytes);
    ~RangeHeap();
    RangeHeap(const RangeHeap&) = delete;
    RangeHeap& operator=(const RangeHeap&) = delete;

    /// Another owner, who has nothing. Owner 0 is there from the start. Throws std::bad_alloc.
    Owner add_owner();
    /// Everything in it is free. Throws std::bad_alloc.
    void add_region(const Region& region, Owner owner = 0);
    /// Forgets a region if all of it is free and the owner's; false otherwise.
    bool remove_region(const Region& region, Owner owner = 0) noexcept;

    /// Null if nothing fits. Throws std::bad_alloc; then nothing has changed.
    void* take(std::size_t size_bytes, std::size_t alignment, Owner owner = 0);
    Freed put(void* block, Owner owner = 0) noexcept;
    /// What is free and `from`'s becomes `to`'s. Takes the longer the more ranges it is.
    void hand_over(Owner from, Owner to) noexcept;

    /// Of the largest free range.
    std::size_t largest(Owner owner = 0) const noexcept;
    Stats stats() const noexcept { return stats_; }

private:
    using Index = std::uint32_t;
    static constexpr Index kNone = ~Index{0};

    /// A range: its neighbours by address in the same region, and its place in one of its owner's trees while it is free.
    struct Node {
        std::uintptr_t begin = 0;
        std::size_t size = 0;
        Index previous = kNone, next = kNone;
        Index left = kNone, right = kNone;
        std::uint32_t priority = 0;
        Owner owner = 0;
        bool live = false;
    };
    struct Key {
        std::size_t size;
        std::uintptr_t begin;
    };
    struct Slot {
        std::uintptr_t begin = 0;  // 0: empty
        Index node = kNone;
    };

    /// Sizes in granules: below 16 each has its bin, and from there on eight do for each doubling.
    static constexpr unsigned kBins = 16 + 60 * 8;
    /// One tree for each bin, so that they are shallow; and which of them are not empty.
    struct Forest {
        Forest() noexcept { roots.fill(kNone); }
        std::array<Index, kBins> roots;
        std::array<std::uint64_t, (kBins + 63) / 64> occupied{};
    };

    unsigned bin_of(std::size_t size) const noexcept;
    static unsigned first_occupied(const Forest& forest, unsigned bin) noexcept;
    bool before(Index node, const Key& key) const noexcept {
        const Node& n = nodes_[node];
        return n.size != key.size ? n.size < key.size : n.begin < key.begin;
    }
    bool fits(Index node, std::size_t size, std::size_t alignment) const noexcept;
    Index first_from(Owner owner, const Key& key) const noexcept;
    Index first_in(Index root, const Key& key) const noexcept;
    Index find(Owner owner, std::size_t size, std::size_t alignment) const noexcept;

    void insert(Index node) noexcept;
    void erase(Index node) noexcept;
    Index merged(Index left, Index right) noexcept;
    bool joinable(Index node, Owner owner) const noexcept;
    void coalesce(Index node) noexcept;
    void cut_tail(Index node, std::size_t size) noexcept;

    void reserve_nodes(std::size_t count);
    Index make_node(std::uintptr_t begin, std::size_t size, Owner owner) noexcept;
    void drop_node(Index node) noexcept;

    std::size_t slot_of(std::uintptr_t begin) const noexcept;
    void reserve_slot();
    void insert_live(Index node) noexcept;
    Index erase_live(std::uintptr_t begin) noexcept;

    const std::size_t granule_;
    const unsigned granule_shift_;
    const std::size_t min_split_;
    std::vector<Node> nodes_;
    std::vector<Index> spare_;     // has room for every node, so that dropping one cannot throw
    std::vector<Forest> forests_;  // by owner
    std::vector<Slot> slots_;      // live ranges by their address: open addressing, a power of two, half of it empty
    unsigned slot_shift_ = 64;
    std::uint32_t random_ = 0x9e3779b9;
    Stats stats_;
};

}  // namespace trtlab::core
