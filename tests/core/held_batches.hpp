#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <vector>

#include "trtlab/core/dispatcher.hpp"
#include "trtlab/core/future.hpp"

namespace trtlab::core::testing {

/// An item whose answer is a number.
class NumberItem final : public FutureState<int>, public DispatchItem {
public:
    int number = 0;

    void answer() noexcept { set_value(2 * number); }

protected:
    bool wanted() const noexcept override { return !done(); }
    bool start() noexcept override { return try_start(); }
    void fail(std::exception_ptr error) noexcept override { set_exception(std::move(error)); }
    void leave() noexcept override { release(); }
};

struct NumberOptions {
    std::chrono::nanoseconds deadline = std::chrono::nanoseconds::max();
    std::size_t rows = 1;
    std::uint32_t priority = 0;
    WaitOptions wait = {};
};

inline Future<int> add(Dispatcher& dispatcher, int number, const NumberOptions& options = {}) {
    auto item = make_ref<NumberItem>();
    item->number = number;
    item->rows = options.rows;
    item->priority = options.priority;
    if (options.deadline != std::chrono::nanoseconds::max())
        item->deadline = BatchItem::Clock::now() + options.deadline;
    item->add_ref();
    std::exception_ptr interrupted;
    try {
        interrupted = dispatcher.add(*item, options.wait);
    } catch (...) {
        item->release();
        throw;
    }
    if (interrupted) {
        item->cancel();
        std::rethrow_exception(interrupted);
    }
    return Future<int>(item);
}

inline std::vector<int> numbers_of(const Batch& batch) {
    std::vector<int> all;
    for (DispatchItem* item : batch.items()) all.push_back(static_cast<NumberItem*>(item)->number);
    return all;
}

inline void succeed(Batch& batch) {
    batch.succeed([](DispatchItem& item, std::size_t) { static_cast<NumberItem&>(item).answer(); });
}

/// Holds every batch until the test ends it.
class HeldBatches {
public:
    Dispatcher::Run run() {
        return [this](Ref<Batch> batch) {
            std::lock_guard lock(mutex_);
            held_.push_back(std::move(batch));
            changed_.notify_all();
        };
    }
    /// The oldest batch; waits for one.
    Ref<Batch> take() {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return !held_.empty(); });
        Ref<Batch> first = std::move(held_.front());
        held_.pop_front();
        return first;
    }
    std::size_t held() const {
        std::lock_guard lock(mutex_);
        return held_.size();
    }

private:
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Ref<Batch>> held_;
};

}  // namespace trtlab::core::testing
