#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "trtlab/core/function.hpp"

namespace trtlab::core {

using QueuedTask = UniqueFunction<void()>;

/// The front of a pool's queue: one thread at a time puts tasks in, any number take them out without a lock, each of them
/// the oldest.
///
/// Dmitry Vyukov's bounded queue, with one pusher: a slot's `turn` says whose it is. `place`: of who pushes the task of
/// that number; `place + 1`: of who takes it; `place + kSlots`: of the pusher again. A task is written between the acquire
/// and the release of the slot's turn, and so never by two threads. A slot is a cache line: what is handed from one CPU to
/// another is that line, and the taker's `head_`, which the pusher looks at only when the queue may be full.
class TaskRing {
public:
    static constexpr std::uint64_t kSlots = 512;

    TaskRing() : slots_(std::make_unique<Slot[]>(kSlots)) {
        for (std::uint64_t i = 0; i < kSlots; ++i) slots_[i].turn.store(i, std::memory_order_relaxed);
    }

    /// False, and `task` untouched, if there is no slot. One thread at a time. `ordered`: the pusher looks afterwards
    /// whether anybody is searching, and who ends a search looks whether the ring is empty: one of them sees the other.
    bool try_push(QueuedTask& task, bool ordered) noexcept {
        const std::uint64_t place = tail_.load(std::memory_order_relaxed);  // written here only
        Slot& slot = slots_[place % kSlots];
        if (slot.turn.load(std::memory_order_acquire) != place) return false;  // pairs with try_take: it is moved out
        slot.task = std::move(task);
        // Release pairs with try_take: the task is there. Sequential consistency, which costs a barrier, pairs with empty.
        slot.turn.store(place + 1, ordered ? std::memory_order_seq_cst : std::memory_order_release);
        tail_.store(place + 1, std::memory_order_relaxed);
        return true;
    }

    /// False if there is no task. Any thread.
    bool try_take(QueuedTask& task) noexcept {
        std::uint64_t place = head_.load(std::memory_order_relaxed);
        for (;;) {
            Slot& slot = slots_[place % kSlots];
            const std::uint64_t turn = slot.turn.load(std::memory_order_acquire);  // pairs with try_push
            if (turn == place + 1) {
                // Whoever wins this exchange owns the slot. Sequential consistency pairs with taken(): who takes looks
                // afterwards whether anybody waits for room, and who begins to wait looks how many were taken.
                if (head_.compare_exchange_weak(place, place + 1, std::memory_order_seq_cst,
                                                std::memory_order_relaxed)) {
                    task = std::move(slot.task);
                    slot.turn.store(place + kSlots, std::memory_order_release);  // pairs with try_push
                    return true;
                }
            } else if (turn <= place) {
                return false;  // not pushed yet
            } else {
                place = head_.load(std::memory_order_relaxed);  // taken by another
            }
        }
    }

    /// Whether there is nothing to take. It may say that there is something when the last was just taken.
    bool empty() const noexcept {
        const std::uint64_t place = head_.load(std::memory_order_acquire);
        return slots_[place % kSlots].turn.load(std::memory_order_seq_cst) <= place;  // pairs with try_push
    }

    std::uint64_t pushed() const noexcept { return tail_.load(std::memory_order_relaxed); }
    std::uint64_t taken() const noexcept { return head_.load(std::memory_order_seq_cst); }  // pairs with try_take

private:
    struct alignas(64) Slot {
        std::atomic<std::uint64_t> turn{0};
        QueuedTask task;
    };
    static_assert(sizeof(Slot) == 64);

    const std::unique_ptr<Slot[]> slots_;
    alignas(64) std::atomic<std::uint64_t> head_{0};
    alignas(64) std::atomic<std::uint64_t> tail_{0};
};

/// A growing ring: a deque would allocate as it moves along, this allocates only for a new high water mark. Not
/// synchronised.
class TaskBacklog {
public:
    bool empty() const noexcept { return size_ == 0; }
    std::size_t size() const noexcept { return size_; }
    QueuedTask& front() noexcept { return slots_[head_]; }

    void push(QueuedTask&& task) {
        if (size_ == slots_.size()) {
            std::vector<QueuedTask> larger(std::max<std::size_t>(16, slots_.size() * 2));
            for (std::size_t i = 0; i < size_; ++i) larger[i] = std::move(slots_[(head_ + i) % slots_.size()]);
            slots_ = std::move(larger);
            head_ = 0;
        }
        slots_[(head_ + size_) % slots_.size()] = std::move(task);
        ++size_;
    }

    /// The front was moved out.
    void pop() noexcept {
        head_ = (head_ + 1) % slots_.size();
        --size_;
    }

private:
    std::vector<QueuedTask> slots_;
    std::size_t head_ = 0;
    std::size_t size_ = 0;
};

/// The whole queue: the ring, and behind it, where a queue is longer than that, a backlog which moves up.
///
/// Threads: `try_take`, `empty` and `should_move_up` from any; everything else under the pool's lock.
class TaskQueue {
public:
    explicit TaskQueue(std::size_t limit) : limit_(limit) {}

    bool full() noexcept {
        const auto waiting = [this] { return ring_.pushed() - taken_ + backlog_.size(); };
        if (waiting() >= limit_) taken_ = ring_.taken();  // seldom, since it is the takers' cache line
        return waiting() >= limit_;
    }
    std::size_t size() const noexcept { return ring_.pushed() - ring_.taken() + backlog_.size(); }

    /// False, and nothing changed, if the heap has no room for more: there is some again when tasks were taken.
    bool push(QueuedTask& task, bool ordered) noexcept {
        if (backlog_.empty() && ring_.try_push(task, ordered)) return true;
        try {
            backlog_.push(std::move(task));
        } catch (const std::bad_alloc&) {
            return false;
        }
        backlogged_.store(true, std::memory_order_seq_cst);  // pairs with empty
        return true;
    }

    bool try_take(QueuedTask& task) noexcept { return ring_.try_take(task); }

    /// The oldest of all.
    bool take(QueuedTask& task) noexcept {
        if (ring_.try_take(task)) return true;
        if (backlog_.empty()) return false;
        task = std::move(backlog_.front());
        backlog_.pop();
        move_up();
        return true;
    }

    /// The ring may be empty and the backlog not, while a taker holds on to the slot that is next for a task. The flag is
    /// read first: what moves up is in the ring before it is cleared.
    bool empty() const noexcept { return !backlogged_.load(std::memory_order_seq_cst) && ring_.empty(); }

    /// Whether who takes tasks should let the backlog move up: not one by one. The ring's takers ask after each task, and
    /// who finds the ring empty takes the lock, so that it does not matter when the flag is seen late.
    bool should_move_up() const noexcept {
        return backlogged_.load(std::memory_order_relaxed) && ring_.pushed() - ring_.taken() <= TaskRing::kSlots / 2;
    }
    void move_up() noexcept {
        while (!backlog_.empty() && ring_.try_push(backlog_.front(), true)) backlog_.pop();
        backlogged_.store(!backlog_.empty(), std::memory_order_seq_cst);  // pairs with empty
    }

private:
    TaskRing ring_;
    const std::size_t limit_;
    std::uint64_t taken_ = 0;  // of the ring, as last seen
    TaskBacklog backlog_;
    std::atomic<bool> backlogged_{false};
};

}  // namespace trtlab::core
