#pragma once

#include <chrono>
#include <deque>
#include <vector>

#include "trtlab/core/batch_queue.hpp"

namespace trtlab::core::testing {

/// An item of a `BatchQueue`, by number.
class FakeItem final : public BatchItem {
public:
    int id = 0;
    bool is_wanted = true;
    int shape = 0;  // what `joins` compares beyond the key

protected:
    bool joins(const BatchItem& other) const noexcept override {
        return shape == static_cast<const FakeItem&>(other).shape;
    }
    bool wanted() const noexcept override { return is_wanted; }
};

/// A `BatchQueue`, items of the test's own, and a clock that stands still unless told otherwise.
class FakeClockQueue {
public:
    explicit FakeClockQueue(const BatchQueue::Options& options) : queue(options) {}

    struct Wish {
        std::size_t rows = 1;
        std::uint64_t key = 0;
        std::uint32_t priority = 0;
        std::chrono::nanoseconds within = std::chrono::nanoseconds::max();  // the deadline, from now
        bool solo = false;
    };
    FakeItem& add(const Wish& wish) {
        FakeItem& item = items.emplace_back();
        item.id = static_cast<int>(items.size()) - 1;
        item.rows = wish.rows;
        item.key = wish.key;
        item.priority = wish.priority;
        item.solo = wish.solo;
        if (wish.within != std::chrono::nanoseconds::max()) item.deadline = now + wish.within;
        queue.add(item, now);
        return item;
    }
    FakeItem& add() { return add(Wish{}); }
    void add(int count) {
        for (int i = 0; i < count; ++i) add();
    }

    static std::vector<int> ids(BatchQueue::Items list) {
        std::vector<int> all;
        while (BatchItem* item = list.pop()) all.push_back(static_cast<FakeItem*>(item)->id);
        return all;
    }
    std::vector<int> next(std::size_t in_flight = 0) { return ids(queue.next(now, in_flight).batch); }
    /// Makes the queue believe that batches take a + b x rows.
    void teach(std::chrono::nanoseconds a, std::chrono::nanoseconds b) {
        for (int round = 0; round < 20; ++round) {
            for (const std::size_t rows : {1, 2, 4, 8}) queue.completed(rows, a + b * rows);
        }
    }

    std::deque<FakeItem> items;
    BatchQueue queue;
    BatchQueue::Clock::time_point now{std::chrono::hours(1)};
};

}  // namespace trtlab::core::testing
