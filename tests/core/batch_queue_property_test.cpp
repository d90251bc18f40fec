#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "fake_clock_items.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::FakeClockQueue;
using testing::FakeItem;

/// Random items, cancellations and engines on a clock of the test's own, and what must hold whatever happens.
class Simulation {
public:
    struct Chances {
        double deadline = 0, cancel = 0, solo = 0, retry = 0;
    };

    Simulation(const BatchQueue::Options& options, const Chances& chances, unsigned seed)
        : q_(options), options_(options), chances_(chances), random_(seed) {}

    void run(int arrivals) {
        auto next_arrival = q_.now;
        while (arrivals > 0 || q_.queue.size() > 0 || !flying_.empty()) {
            auto next = q_.queue.wake_at();
            if (arrivals > 0) next = std::min(next, next_arrival);
            for (const Flight& flight : flying_) next = std::min(next, flight.end);
            ASSERT_NE(next, BatchQueue::kNever) << q_.queue.size() << " items wait for nothing";
            q_.now = std::max(q_.now, next);
            if (arrivals > 0 && q_.now >= next_arrival) {
                add();
                --arrivals;
                next_arrival += std::chrono::microseconds(pick(0, 1500));
            }
            land();
            if (happens(chances_.cancel)) cancel_one();
            dispatch();
            if (::testing::Test::HasFatalFailure()) return;
        }
        for (const FakeItem& item : q_.items) ASSERT_EQ(left_.count(item.id), 1u) << item.id << " was lost";
        ASSERT_EQ(q_.queue.rows(), 0u);
        ASSERT_EQ(q_.queue.kinds(), 0u);
    }

    std::size_t most_in_flight() const { return most_; }
    std::size_t expired() const { return expired_; }
    std::size_t cancelled() const { return cancelled_; }
    std::size_t joined() const { return joined_; }

private:
    struct Flight {
        BatchQueue::Clock::time_point begin, end;
        std::vector<FakeItem*> items;
        std::size_t rows;
        bool fails;
    };

    int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
    bool happens(double chance) { return std::uniform_real_distribution<double>(0, 1)(random_) < chance; }

    void add() {
        FakeClockQueue::Wish wish{
            .rows = static_cast<std::size_t>(happens(0.7) ? 1 : pick(1, 10)),
            .key = static_cast<std::uint64_t>(pick(0, 2)),
            .priority = static_cast<std::uint32_t>(pick(0, static_cast<int>(options_.priorities) - 1)),
            .solo = happens(chances_.solo)};
        if (happens(chances_.deadline)) wish.within = std::chrono::microseconds(pick(0, 60'000));
        arrived_[q_.add(wish).id] = q_.now;
    }

    /// As with a future: not once its batch was launched.
    void cancel_one() {
        FakeItem& item = q_.items[static_cast<std::size_t>(pick(0, static_cast<int>(q_.items.size()) - 1))];
        if (left_.count(item.id) == 0 && alone_.count(item.id) == 0) item.is_wanted = false;
    }

    void land() {
        for (std::size_t i = flying_.size(); i-- > 0;) {
            if (flying_[i].end > q_.now) continue;
            const Flight flight = std::move(flying_[i]);
            flying_.erase(flying_.begin() + static_cast<std::ptrdiff_t>(i));
            q_.queue.completed(flight.rows, flight.end - flight.begin);
            if (!flight.fails) continue;
            for (FakeItem* item : flight.items) {
                left_.erase(item->id);
                alone_.insert({item->id, true});
                q_.queue.add_alone(*item);
            }
        }
    }

    void leave(const FakeItem& item) { ASSERT_TRUE(left_.insert({item.id, true}).second) << item.id << " left twice"; }

    void dispatch() {
        for (;;) {
            const auto turn = q_.queue.next(q_.now, flying_.size());
            for (auto list = turn.expired; BatchItem* item = list.pop();) {
                leave(static_cast<FakeItem&>(*item));
                ASSERT_LE(item->deadline, q_.now) << "expired too early";
                ++expired_;
            }
            for (auto list = turn.unwanted; BatchItem* item = list.pop();) {
                leave(static_cast<FakeItem&>(*item));
                ASSERT_FALSE(static_cast<FakeItem*>(item)->is_wanted);
                ++cancelled_;
            }
            if (turn.batch.empty()) break;
            launch(turn);
            if (::testing::Test::HasFatalFailure()) return;
        }
        if (flying_.empty() && !options_.hold_when_idle) {
            ASSERT_EQ(q_.queue.size(), 0u) << "items wait for an engine that idles";
        }
        // With a slot free nobody is held for longer than the delay, but for those who will be late anyway.
        if (flying_.size() >= options_.max_in_flight) return;
        for (const FakeItem& item : q_.items) {
            if (left_.count(item.id) != 0 || item.deadline != BatchQueue::kNever) continue;
            ASSERT_LT(q_.now - arrived_[item.id], options_.max_delay) << item.id << " is held for too long";
        }
    }

    void launch(const BatchQueue::Turn& turn) {
        ASSERT_LT(flying_.size(), options_.max_in_flight);
        Flight flight{.begin = q_.now, .end = {}, .items = {}, .rows = 0, .fails = false};
        for (auto list = turn.batch; BatchItem* item = list.pop();)
            flight.items.push_back(static_cast<FakeItem*>(item));
        const FakeItem& first = *flight.items.front();
        for (const FakeItem* item : flight.items) {
            leave(*item);
            flight.rows += item->rows;
            ASSERT_TRUE(item->is_wanted) << "a cancelled item's rows are computed";
            ASSERT_EQ(item->key, first.key);
            if (alone_.count(item->id) == 0) {
                ASSERT_GT(item->deadline, q_.now) << "expired, and yet in a batch";
                check_order(*item);
            }
        }
        ASSERT_EQ(flight.rows, turn.rows);
        if (flight.items.size() > 1) {
            ASSERT_LE(flight.rows, options_.max_rows);
            for (const FakeItem* item : flight.items) ASSERT_FALSE(item->solo || alone_.count(item->id) != 0);
            ++joined_;
        }
        flight.end = q_.now + 2ms + std::chrono::microseconds(300 * static_cast<int>(flight.rows) + pick(0, 500));
        flight.fails = flight.items.size() > 1 && happens(chances_.retry);
        flying_.push_back(std::move(flight));
        most_ = std::max(most_, flying_.size());
    }

    /// First in, first out within key and priority. Who has a deadline may be passed over, and so may overtake.
    void check_order(const FakeItem& item) {
        if (item.deadline != BatchQueue::kNever) return;
        const bool solo = item.solo || item.rows > options_.max_rows;
        int& last = last_[{solo ? 99 : item.key, item.priority}];
        ASSERT_GE(item.id, last) << "overtook " << last;
        last = item.id;
    }

    FakeClockQueue q_;
    const BatchQueue::Options options_;
    const Chances chances_;
    std::mt19937 random_;
    std::vector<Flight> flying_;
    std::map<int, bool> left_, alone_;
    std::map<int, BatchQueue::Clock::time_point> arrived_;
    std::map<std::pair<std::uint64_t, std::uint32_t>, int> last_;
    std::size_t most_ = 0, expired_ = 0, cancelled_ = 0, joined_ = 0;
};

TEST(BatchQueueProperty, NoItemIsLostDoubledReorderedOrHeldTooLong) {
    for (unsigned seed = 0; seed < 30; ++seed) {
        SCOPED_TRACE(seed);
        Simulation simulation({.max_rows = 8,
                               .max_in_flight = 1 + seed % 3,
                               .max_delay = std::chrono::milliseconds(seed % 4),
                               .priorities = 1 + seed % 2},
                              {}, seed);
        simulation.run(300);
        if (::testing::Test::HasFatalFailure()) return;
        EXPECT_EQ(simulation.expired() + simulation.cancelled(), 0u);
        EXPECT_EQ(simulation.most_in_flight(), 1 + seed % 3);
        EXPECT_GT(simulation.joined(), 10u);
    }
}

TEST(BatchQueueProperty, SoItIsWithDeadlinesCancellationsFailuresAndItemsOfTheirOwn) {
    std::size_t expired = 0, cancelled = 0, joined = 0;
    for (unsigned seed = 0; seed < 30; ++seed) {
        SCOPED_TRACE(seed);
        Simulation simulation({.max_rows = 6,
                               .max_in_flight = 1 + seed % 3,
                               .max_delay = std::chrono::milliseconds(seed % 5),
                               .priorities = 3,
                               .priority_step = 5ms,
                               .deadline_slack = std::chrono::microseconds(100 * (seed % 3))},
                              {.deadline = 0.6, .cancel = 0.05, .solo = 0.1, .retry = 0.1}, seed);
        simulation.run(300);
        if (::testing::Test::HasFatalFailure()) return;
        expired += simulation.expired();
        cancelled += simulation.cancelled();
        joined += simulation.joined();
    }
    EXPECT_GT(expired, 100u);
    EXPECT_GT(cancelled, 50u);
    EXPECT_GT(joined, 500u);
}

TEST(BatchQueueProperty, SoItIsWhereAnIdleEngineIsHeld) {
    for (unsigned seed = 0; seed < 10; ++seed) {
        SCOPED_TRACE(seed);
        Simulation simulation({.max_rows = 8, .max_delay = 5ms, .hold_when_idle = true, .priorities = 2},
                              {.deadline = 0.3, .cancel = 0.02}, seed);
        simulation.run(300);
        if (::testing::Test::HasFatalFailure()) return;
    }
}

}  // namespace
}  // namespace trtlab::core
