#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace trtlab::core {

template <class T>
class DeadlineHeap;

/// Base of what can be in one `DeadlineHeap<T>` at a time.
class DeadlineNode {
    template <class>
    friend class DeadlineHeap;
    static constexpr std::size_t kNowhere = std::numeric_limits<std::size_t>::max();
    std::size_t place_ = kNowhere;
};

/// What is due when: the earliest first, and of equal deadlines the one that came first. Pure logic: it knows no clock, the
/// time is passed in.
///
/// Each item knows its place, so that any of them can be taken out at once: what was cancelled costs nothing.
/// Owns nothing. Not synchronised. Errors: `push` throws std::bad_alloc and changes nothing.
/// Cost: O(log n) comparisons; the heap is 4-ary, as its children then share a cache line and a half.
template <class T>
class DeadlineHeap {
public:
    using TimePoint = std::chrono::steady_clock::time_point;

    bool empty() const noexcept { return slots_.empty(); }
    std::size_t size() const noexcept { return slots_.size(); }
    static bool holds(const DeadlineNode& item) noexcept { return item.place_ != DeadlineNode::kNowhere; }

    /// The earliest deadline; `TimePoint::max()` if there is nothing.
    TimePoint next() const noexcept { return empty() ? TimePoint::max() : slots_.front().at; }

    void push(T& item, TimePoint at) {
        slots_.push_back({});
        rise(slots_.size() - 1, {at, arrivals_++, &item});
    }

    /// `item` is in this heap.
    void remove(T& item) noexcept {
        const std::size_t hole = item.place_;
        static_cast<DeadlineNode&>(item).place_ = DeadlineNode::kNowhere;
        const Slot last = slots_.back();
        slots_.pop_back();
        if (hole == slots_.size()) return;
        if (hole > 0 && last.before(slots_[(hole - 1) / kArity])) {
            rise(hole, last);
        } else {
            sink(hole, last);
        }
    }

    /// Takes out the first that is due at `now`; null if none is.
    T* pop_due(TimePoint now) noexcept { return empty() || slots_.front().at > now ? nullptr : pop(); }

    /// Takes out the first, due or not; null if there is nothing.
    T* pop() noexcept {
        if (empty()) return nullptr;
        T* first = slots_.front().item;
        remove(*first);
        return first;
    }

private:
    static constexpr std::size_t kArity = 4;

    struct Slot {
        TimePoint at;
        std::uint64_t arrival;
        T* item;
        bool before(const Slot& other) const noexcept {
            return at < other.at || (at == other.at && arrival < other.arrival);
        }
    };

    void put(std::size_t place, const Slot& slot) noexcept {
        slots_[place] = slot;
        static_cast<DeadlineNode&>(*slot.item).place_ = place;
    }

    void rise(std::size_t place, const Slot& slot) noexcept {
        while (place > 0) {
            const std::size_t parent = (place - 1) / kArity;
            if (!slot.before(slots_[parent])) break;
            put(place, slots_[parent]);
            place = parent;
        }
        put(place, slot);
    }

    void sink(std::size_t place, const Slot& slot) noexcept {
        for (;;) {
            const std::size_t begin = place * kArity + 1;
            const std::size_t end = std::min(begin + kArity, slots_.size());
            if (begin >= end) break;
            std::size_t first = begin;
            for (std::size_t child = begin + 1; child < end; ++child) {
                if (slots_[child].before(slots_[first])) first = child;
            }
            if (!slots_[first].before(slot)) break;
            put(place, slots_[first]);
            place = first;
        }
        put(place, slot);
    }

    std::vector<Slot> slots_;
    std::uint64_t arrivals_ = 0;
};

}  // namespace trtlab::core
