#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "trtlab/core/error.hpp"

namespace trtlab::core {

/// Which of `size` things are free, the last that came back on top, and how often each was taken. Lock-free, until the
/// owner bars it: then everybody is sent another way, where the owner's lock is.
///
/// A stack of linked numbers (R. K. Treiber, "Systems programming: coping with parallelism", 1986) in one word: the number
/// on top, what bars the list, and a count of pops. A pop that was held up between reading the link and swapping the word
/// fails by that count if the same number came back on top in the meantime with another link: the number can't have left
/// without a pop. The count has 38 bits, so that a thread would have to be held up for exactly a multiple of 2^38 pops,
/// an hour of nothing else, to be deceived.
///
/// Each number's own data are touched by whoever has taken it only, and handed from one to the next by the word: every
/// change of it is a read-modify-write, so a pop's acquire pairs with the release of the push of that number, however many
/// changes are between them.
/// Threads: as said at each member.
class FreeList {
public:
    using Number = std::uint32_t;
    static constexpr std::size_t kMaxSize = (std::size_t{1} << 24) - 2;
    static constexpr Number kEmpty = std::numeric_limits<Number>::max();
    static constexpr Number kBarred = kEmpty - 1;
    /// Why the list is barred: the owner's to choose.
    enum Bar : std::uint64_t { kWaited = 1, kClosed = 2 };

    /// All are free, 0 on top. Throws InvalidArgument beyond `kMaxSize`.
    explicit FreeList(std::size_t size) : size_(size) {
        if (size > kMaxSize)
            throw InvalidArgument("a pool of " + std::to_string(size) + " items: expected at most " +
                                  std::to_string(kMaxSize));
        slots_ = std::make_unique<Slot[]>(size);
        for (Number number = 0; number < size; ++number) {
            slots_[number].next.store(number + 1 < size ? number + 2 : 0, std::memory_order_relaxed);
        }
        word_.store(size > 0 ? kOneTop : 0, std::memory_order_relaxed);  // the owner hands the list to other threads
    }

    /// Any thread: takes the number on top, or says `kEmpty` or `kBarred`.
    Number pop() noexcept {
        std::uint64_t word = word_.load(std::memory_order_acquire);  // pairs with push: the link of what is on top
        while ((word & kBars) == 0) {
            if ((word & kTop) == 0) return kEmpty;
            if (swap_top(word)) return taken(word);
        }
        return kBarred;
    }

    /// Any thread that has taken `number`: gives it back. False if the list is barred. If true, then the number and the list
    /// itself may be another's already.
    [[nodiscard]] bool push(Number number) noexcept {
        turn(number);
        std::uint64_t word = word_.load(std::memory_order_relaxed);  // nothing is read through it
        do {
            if ((word & kBars) != 0) return false;
        } while (!put_on_top(word, number));
        return true;
    }

    /// Whether it is barred for this reason, now.
    bool barred(Bar bar) const noexcept { return (word_.load(std::memory_order_acquire) & bar) != 0; }

    // The rest under the owner's lock, whatever bars the list.

    Number pop_barred() noexcept {
        std::uint64_t word = word_.load(std::memory_order_acquire);  // pairs with push
        while ((word & kTop) != 0) {
            if (swap_top(word)) return taken(word);
        }
        return kEmpty;
    }
    /// After a `push` that was refused.
    void push_barred(Number number) noexcept {
        std::uint64_t word = word_.load(std::memory_order_relaxed);
        while (!put_on_top(word, number)) {
        }
    }
    /// After a `push` that was refused: `number` goes to somebody else without becoming free.
    void hand_over(Number number) noexcept { turn(number); }

    void bar(Bar why) noexcept { word_.fetch_or(why, std::memory_order_acq_rel); }  // pairs with barred, and with push
    void unbar(Bar why) noexcept { word_.fetch_and(~std::uint64_t{why}, std::memory_order_release); }
    /// Bars it unless something is free.
    [[nodiscard]] bool bar_if_empty(Bar why) noexcept {
        std::uint64_t word = word_.load(std::memory_order_relaxed);
        while ((word & kTop) == 0) {
            if (word_.compare_exchange_weak(word, word | why, std::memory_order_relaxed)) return true;
        }
        return false;
    }
    /// How many lie in a barred list.
    std::size_t count_barred() const noexcept {
        std::size_t count = 0;
        for (std::uint64_t top = top_of(word_.load(std::memory_order_acquire)); top != 0; ++count) {
            top = slots_[top - 1].next.load(std::memory_order_relaxed);  // pairs with push, through the word
        }
        return count;
    }

    std::size_t size() const noexcept { return size_; }
    struct Counts {
        std::size_t taken = 0;   ///< now
        std::uint64_t pops = 0;  ///< ever, `hand_over` included
    };
    /// Any thread: exact when nothing changes. Cost: one look at each of the things.
    Counts counts() const noexcept {
        Counts counts;
        for (std::size_t number = 0; number < size_; ++number) {
            const std::uint64_t turns =
                slots_[number].turns.load(std::memory_order_relaxed);  // a picture of the moment
            counts.taken += turns % 2;
            counts.pops += (turns + 1) / 2;
        }
        return counts;
    }

private:
    static constexpr std::uint64_t kBars = 3;
    static constexpr std::uint64_t kOneTop = 4;  // the number plus one; 0 for none
    static constexpr std::uint64_t kOnePop = std::uint64_t{1} << 26;
    static constexpr std::uint64_t kTop = kOnePop - kOneTop;

    struct Slot {
        std::atomic<std::uint32_t> next{0};
        std::atomic<std::uint64_t> turns{0};  // taken and given back each count one: odd while taken
    };

    static std::uint64_t top_of(std::uint64_t word) noexcept { return (word & kTop) / kOneTop; }

    /// Atomic for `counts` alone: only who has taken the number writes.
    void turn(Number number) noexcept {
        auto& turns = slots_[number].turns;
        turns.store(turns.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }

    bool swap_top(std::uint64_t& word) noexcept {
        const std::uint64_t next = slots_[top_of(word) - 1].next.load(std::memory_order_relaxed);  // see pop's load
        // Acquire pairs with push: what was done with the number before is over.
        return word_.compare_exchange_weak(word, ((word & ~kTop) + kOnePop) | (next * kOneTop),
                                           std::memory_order_acquire, std::memory_order_acquire);
    }
    Number taken(std::uint64_t word) noexcept {
        const Number number = static_cast<Number>(top_of(word) - 1);
        turn(number);
        return number;
    }
    bool put_on_top(std::uint64_t& word, Number number) noexcept {
        slots_[number].next.store(static_cast<std::uint32_t>(top_of(word)), std::memory_order_relaxed);
        // Release pairs with pop: the link, and what was done with the number.
        return word_.compare_exchange_weak(word, (word & ~kTop) | ((std::uint64_t{number} + 1) * kOneTop),
                                           std::memory_order_release, std::memory_order_relaxed);
    }

    const std::size_t size_;
    std::unique_ptr<Slot[]> slots_;
    std::atomic<std::uint64_t> word_{0};
};

}  // namespace trtlab::core
