#include "trtlab/core/range_heap.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <new>

#include "upstream.hpp"

namespace trtlab::core {

RangeHeap::RangeHeap(std::size_t granule_bytes, std::size_t min_split_bytes)
    : granule_(granule_bytes),
      granule_shift_(static_cast<unsigned>(std::countr_zero(granule_bytes))),
      min_split_(std::max(granule_bytes, min_split_bytes)),
      forests_(1) {
    if (!std::has_single_bit(granule_bytes)) {
        throw InvalidArgument("a heap of ranges: a granule of " + std::to_string(granule_bytes) +
                              " bytes; expected a power of two");
    }
}

RangeHeap::~RangeHeap() = default;

RangeHeap::Owner RangeHeap::add_owner() {
    forests_.emplace_back();
    return static_cast<Owner>(forests_.size() - 1);
}

void RangeHeap::add_region(const Region& region, Owner owner) {
    reserve_nodes(1);
    const std::size_t size = region.size_bytes & ~(granule_ - 1);
    if (size == 0) return;
    insert(make_node(reinterpret_cast<std::uintptr_t>(region.data), size, owner));
}

bool RangeHeap::remove_region(const Region& region, Owner owner) noexcept {
    const auto begin = reinterpret_cast<std::uintptr_t>(region.data);
    const std::size_t size = region.size_bytes & ~(granule_ - 1);
    const Index node = first_from(owner, {size, begin});
    if (node == kNone || nodes_[node].begin != begin || nodes_[node].size != size) return false;
    erase(node);
    drop_node(node);
    return true;
}

void* RangeHeap::take(std::size_t size_bytes, std::size_t alignment, Owner owner) {
    if (size_bytes > std::numeric_limits<std::size_t>::max() - granule_) return nullptr;
    const std::size_t size = (size_bytes + granule_ - 1) & ~(granule_ - 1);
    const Index node = find(owner, size, alignment);
    if (node == kNone) return nullptr;
    reserve_nodes(2);
    reserve_slot();
    erase(node);
    if (const std::size_t gap = aligned_up(nodes_[node].begin, alignment) - nodes_[node].begin; gap != 0) {
        // The block is the second part: what `node` names stays free.
        cut_tail(node, gap);
        const Index block = nodes_[node].next;
        erase(block);
        insert(node);
        if (nodes_[block].size - size >= min_split_) cut_tail(block, size);
        insert_live(block);
        return reinterpret_cast<void*>(nodes_[block].begin);
    }
    if (nodes_[node].size - size >= min_split_) cut_tail(node, size);
    insert_live(node);
    return reinterpret_cast<void*>(nodes_[node].begin);
}

/// Of a range that is in no tree, what lies behind `size` becomes a free range.
void RangeHeap::cut_tail(Index node, std::size_t size) noexcept {
    const Index tail = make_node(nodes_[node].begin + size, nodes_[node].size - size, nodes_[node].owner);
    Node& head = nodes_[node];
    head.size = size;
    nodes_[tail].previous = node;
    nodes_[tail].next = head.next;
    if (head.next != kNone) nodes_[head.next].previous = tail;
    head.next = tail;
    insert(tail);
}

RangeHeap::Freed RangeHeap::put(void* block, Owner owner) noexcept {
    const Index node = erase_live(reinterpret_cast<std::uintptr_t>(block));
    if (node == kNone) return {};
    Freed freed{nodes_[node].size};
    nodes_[node].owner = owner;
    coalesce(node);
    const Node& range = nodes_[node];
    if (range.previous == kNone && range.next == kNone)
        freed.region = {reinterpret_cast<void*>(range.begin), range.size};
    return freed;
}

bool RangeHeap::joinable(Index node, Owner owner) const noexcept {
    return node != kNone && !nodes_[node].live && nodes_[node].owner == owner;
}

/// Takes in the neighbours of a range that is in no tree, and puts it into its owner's.
void RangeHeap::coalesce(Index node) noexcept {
    Node& range = nodes_[node];
    if (const Index next = range.next; joinable(next, range.owner)) {
        erase(next);
        range.size += nodes_[next].size;
        range.next = nodes_[next].next;
        if (range.next != kNone) nodes_[range.next].previous = node;
        drop_node(next);
    }
    if (const Index previous = range.previous; joinable(previous, range.owner)) {
        erase(previous);
        range.begin = nodes_[previous].begin;
        range.size += nodes_[previous].size;
        range.previous = nodes_[previous].previous;
        if (range.previous != kNone) nodes_[range.previous].next = node;
        drop_node(previous);
    }
    insert(node);
}

void RangeHeap::hand_over(Owner from, Owner to) noexcept {
    if (from == to) return;
    const Forest& forest = forests_[from];
    for (unsigned bin = 0; (bin = first_occupied(forest, bin)) < kBins;) {
        const Index node = forest.roots[bin];
        erase(node);
        nodes_[node].owner = to;
        coalesce(node);
    }
}

std::size_t RangeHeap::largest(Owner owner) const noexcept {
    const Forest& forest = forests_[owner];
    std::size_t size = 0;
    for (unsigned bin = kBins; size == 0 && bin-- > 0;) {
        for (Index node = forest.roots[bin]; node != kNone; node = nodes_[node].right) size = nodes_[node].size;
    }
    return size;
}

unsigned RangeHeap::bin_of(std::size_t size) const noexcept {
    const std::size_t granules = size >> granule_shift_;
    if (granules < 16) return static_cast<unsigned>(granules);
    const auto top = static_cast<unsigned>(std::bit_width(granules)) - 1;
    return 16 + (top - 4) * 8 + (static_cast<unsigned>(granules >> (top - 3)) & 7);
}

/// The first bin from `bin` on that is not empty; kBins if there is none.
unsigned RangeHeap::first_occupied(const Forest& forest, unsigned bin) noexcept {
    if (bin >= kBins) return kBins;
    std::size_t word = bin / 64;
    std::uint64_t bits = forest.occupied[word] & (~std::uint64_t{0} << bin % 64);
    while (bits == 0) {
        if (++word == forest.occupied.size()) return kBins;
        bits = forest.occupied[word];
    }
    return static_cast<unsigned>(word * 64) + static_cast<unsigned>(std::countr_zero(bits));
}

bool RangeHeap::fits(Index node, std::size_t size, std::size_t alignment) const noexcept {
    const Node& range = nodes_[node];
    const std::uintptr_t at = aligned_up(range.begin, alignment);
    return at >= range.begin && at - range.begin <= range.size && size <= range.size - (at - range.begin);
}

RangeHeap::Index RangeHeap::first_in(Index root, const Key& key) const noexcept {
    Index found = kNone;
    for (Index node = root; node != kNone;) {
        if (before(node, key)) {
            node = nodes_[node].right;
        } else {
            found = node;
            node = nodes_[node].left;
        }
    }
    return found;
}

RangeHeap::Index RangeHeap::first_from(Owner owner, const Key& key) const noexcept {
    const Forest& forest = forests_[owner];
    unsigned bin = bin_of(key.size);
    if (const Index found = first_in(forest.roots[bin], key); found != kNone) return found;
    bin = first_occupied(forest, bin + 1);
    return bin < kBins ? first_in(forest.roots[bin], key) : kNone;
}

RangeHeap::Index RangeHeap::find(Owner owner, std::size_t size, std::size_t alignment) const noexcept {
    Index node = first_from(owner, {size, 0});
    if (alignment <= granule_) return node;
    // A few that may or may not be aligned; then one that is large enough wherever it lies. Only if there is none such
    // are the others looked through.
    constexpr int kTries = 8;
    const auto following = [&](Index n) { return first_from(owner, {nodes_[n].size, nodes_[n].begin + 1}); };
    for (int i = 0; i < kTries && node != kNone; ++i, node = following(node)) {
        if (fits(node, size, alignment)) return node;
    }
    const std::size_t room = alignment - granule_;
    if (node == kNone || size > std::numeric_limits<std::size_t>::max() - room) return kNone;
    if (const Index large = first_from(owner, {size + room, 0}); large != kNone) return large;
    while (node != kNone && !fits(node, size, alignment)) node = following(node);
    return node;
}

// The trees are treaps (Seidel and Aragon, 1996): ordered by key, and a heap by priorities that are drawn at random, which
// makes them balanced whatever the order of insertions. A tree operation allocates nothing and cannot fail.

void RangeHeap::insert(Index node) noexcept {
    Node& range = nodes_[node];
    const Key key{range.size, range.begin};
    range.live = false;
    random_ ^= random_ << 13, random_ ^= random_ >> 17, random_ ^= random_ << 5;
    range.priority = random_;
    Forest& forest = forests_[range.owner];
    const unsigned bin = bin_of(range.size);
    forest.occupied[bin / 64] |= std::uint64_t{1} << bin % 64;
    Index* link = &forest.roots[bin];
    while (*link != kNone && nodes_[*link].priority >= range.priority) {
        Node& there = nodes_[*link];
        link = before(*link, key) ? &there.right : &there.left;
    }
    // What is below is cut in two along the key, and hangs on both sides of the new node.
    Index below = *link;
    *link = node;
    Index *less = &range.left, *more = &range.right;
    while (below != kNone) {
        Node& there = nodes_[below];
        if (before(below, key)) {
            *less = below;
            less = &there.right;
            below = *less;
        } else {
            *more = below;
            more = &there.left;
            below = *more;
        }
    }
    *less = *more = kNone;
    stats_.free_bytes += range.size;
    ++stats_.free_ranges;
}

void RangeHeap::erase(Index node) noexcept {
    Node& range = nodes_[node];
    const Key key{range.size, range.begin};
    Forest& forest = forests_[range.owner];
    const unsigned bin = bin_of(range.size);
    Index* link = &forest.roots[bin];
    while (*link != node) link = before(*link, key) ? &nodes_[*link].right : &nodes_[*link].left;
    *link = merged(range.left, range.right);
    if (forest.roots[bin] == kNone) forest.occupied[bin / 64] &= ~(std::uint64_t{1} << bin % 64);
    stats_.free_bytes -= range.size;
    --stats_.free_ranges;
}

/// Every key in `left` is before every key in `right`.
RangeHeap::Index RangeHeap::merged(Index left, Index right) noexcept {
    Index root = kNone;
    Index* link = &root;
    while (left != kNone && right != kNone) {
        if (nodes_[left].priority >= nodes_[right].priority) {
            *link = left;
            link = &nodes_[left].right;
            left = *link;
        } else {
            *link = right;
            link = &nodes_[right].left;
            right = *link;
        }
    }
    *link = left != kNone ? left : right;
    return root;
}

void RangeHeap::reserve_nodes(std::size_t count) {
    while (spare_.size() < count) {
        if (nodes_.size() >= kNone - 1) throw std::bad_alloc();
        if (spare_.capacity() <= nodes_.size()) spare_.reserve(std::max<std::size_t>(64, nodes_.size() * 2));
        nodes_.emplace_back();
        spare_.push_back(static_cast<Index>(nodes_.size() - 1));
    }
}

RangeHeap::Index RangeHeap::make_node(std::uintptr_t begin, std::size_t size, Owner owner) noexcept {
    const Index node = spare_.back();
    spare_.pop_back();
    nodes_[node] = Node{};
    nodes_[node].begin = begin;
    nodes_[node].size = size;
    nodes_[node].owner = owner;
    return node;
}

void RangeHeap::drop_node(Index node) noexcept { spare_.push_back(node); }  // cannot throw: reserved

std::size_t RangeHeap::slot_of(std::uintptr_t begin) const noexcept {
    // Fibonacci hashing (Knuth, volume 3, 6.4): the upper bits of the product are the well mixed ones.
    return static_cast<std::size_t>((std::uint64_t{begin} * 0x9e3779b97f4a7c15u) >> slot_shift_);
}

void RangeHeap::reserve_slot() {
    if ((stats_.live_ranges + 1) * 2 <= slots_.size()) return;
    std::vector<Slot> old(std::max<std::size_t>(64, slots_.size() * 2));
    old.swap(slots_);
    slot_shift_ = static_cast<unsigned>(64 - std::countr_zero(slots_.size()));
    for (const Slot& slot : old) {
        if (slot.begin == 0) continue;
        std::size_t at = slot_of(slot.begin);
        while (slots_[at].begin != 0) at = (at + 1) & (slots_.size() - 1);
        slots_[at] = slot;
    }
}

void RangeHeap::insert_live(Index node) noexcept {
    Node& range = nodes_[node];
    range.live = true;
    std::size_t at = slot_of(range.begin);
    while (slots_[at].begin != 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = {range.begin, node};
    stats_.live_bytes += range.size;
    ++stats_.live_ranges;
}

RangeHeap::Index RangeHeap::erase_live(std::uintptr_t begin) noexcept {
    if (slots_.empty() || begin == 0) return kNone;
    const std::size_t mask = slots_.size() - 1;
    std::size_t hole = slot_of(begin);
    while (slots_[hole].begin != begin) {
        if (slots_[hole].begin == 0) return kNone;
        hole = (hole + 1) & mask;
    }
    const Index node = slots_[hole].node;
    // Whoever was put behind the hole because it was taken moves into it, so that no search ends too early.
    for (std::size_t at = (hole + 1) & mask; slots_[at].begin != 0; at = (at + 1) & mask) {
        const std::size_t wanted = slot_of(slots_[at].begin);
        if (((at - wanted) & mask) >= ((at - hole) & mask)) {
            slots_[hole] = slots_[at];
            hole = at;
        }
    }
    slots_[hole] = {};
    nodes_[node].live = false;
    stats_.live_bytes -= nodes_[node].size;
    --stats_.live_ranges;
    return node;
}

}  // namespace trtlab::core
