#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <latch>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "trtlab/core/error.hpp"
#include "trtlab/core/thread_pool.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using testing::yield_until;

/// `count` tasks that write down their numbers.
std::vector<ThreadPool::Task> numbered(std::vector<int>& order, int count, int from = 0) {
    std::vector<ThreadPool::Task> tasks;
    for (int i = from; i < from + count; ++i) tasks.emplace_back([&order, i] { order.push_back(i); });
    return tasks;
}

std::vector<int> up_to(int count) {
    std::vector<int> numbers(static_cast<std::size_t>(count));
    std::iota(numbers.begin(), numbers.end(), 0);
    return numbers;
}

TEST(ThreadPoolBulk, TasksRunInTheirOrderAndBetweenWhatWasPostedBeforeAndAfter) {
    ThreadPool pool(1);
    std::vector<int> order;
    pool.post([&] { order.push_back(0); });
    auto tasks = numbered(order, 2000, 1);
    pool.post_bulk(tasks);
    for (const ThreadPool::Task& task : tasks) EXPECT_FALSE(task);
    pool.post([&] { order.push_back(2001); });
    pool.close();
    EXPECT_EQ(order, up_to(2002));
}

TEST(ThreadPoolBulk, LongerThanTheQueueIsTakenBitByBit) {
    ThreadPool pool(ThreadPool::Options{.threads = 1, .max_queue = 3});
    std::vector<int> order;
    auto tasks = numbered(order, 500);
    pool.post_bulk(tasks);
    pool.close();
    EXPECT_EQ(order, up_to(500));
}

TEST(ThreadPoolBulk, OfNothingWaitsBehindNobody) {
    ThreadPool pool(ThreadPool::Options{.threads = 1, .max_queue = 1});
    std::latch busy(1), open(1);
    pool.post([&] {
        busy.count_down();
        open.wait();
    });
    busy.wait();
    pool.post([] {});
    std::jthread blocked([&] { pool.post([] {}); });
    yield_until([&] { return pool.stats().blocked_callers == 1; });
    pool.post_bulk({});
    EXPECT_TRUE(pool.submit_bulk(0, [](std::size_t) {}).done());
    open.count_down();
}

TEST(ThreadPoolBulk, KeepsWhatFoundNoPlaceInTime) {
    ThreadPool pool(ThreadPool::Options{.threads = 1, .max_queue = 2});
    std::latch busy(1), open(1);
    pool.post([&] {
        busy.count_down();
        open.wait();
    });
    busy.wait();
    std::vector<int> order;
    for (const WaitOptions& wait : {WaitOptions(0s), WaitOptions(1ms)}) {
        auto tasks = numbered(order, 5);
        try {
            pool.post_bulk(tasks, wait);
            FAIL();
        } catch (const Overloaded& error) {
            EXPECT_THAT(error.what(), HasSubstr(wait.timeout == 0s ? "for 3 of 5" : "for 5 of 5"));
        }
        EXPECT_EQ(static_cast<bool>(tasks[1]), wait.timeout != 0s);
        EXPECT_TRUE(tasks[2]);
    }
    open.count_down();
    pool.close();
    EXPECT_EQ(order, up_to(2));
}

TEST(ThreadPoolBulk, WakesAsManyWorkersAsThereAreTasks) {
    ThreadPool pool(4);
    for (int round = 0; round < 100; ++round) {
        if (round % 2 == 0) yield_until([&] { return pool.stats().idle == 4; });
        std::latch together(4);
        std::vector<ThreadPool::Task> tasks;
        for (int i = 0; i < 4; ++i) tasks.emplace_back([&] { together.arrive_and_wait(); });
        pool.post_bulk(tasks);
        together.wait();
        pool.submit([] {}).get();
        yield_until([&] { return pool.stats().executed >= static_cast<std::uint64_t>(round + 1) * 5; });
    }
}

TEST(ThreadPoolBulk, OfEmptyTasksIsRefusedBeforeAnyIsTaken) {
    ThreadPool pool(1);
    std::vector<ThreadPool::Task> tasks(2);
    tasks[0] = [] {};
    EXPECT_THROW(pool.post_bulk(tasks), InvalidArgument);
    EXPECT_TRUE(tasks[0]);
    pool.post_bulk({});
    pool.close();
    EXPECT_EQ(pool.stats().executed, 0u);
    EXPECT_THROW(pool.post_bulk(tasks), InvalidArgument);
    tasks.pop_back();
    EXPECT_THROW(pool.post_bulk(tasks), Closed);
}

TEST(ThreadPoolSubmitBulk, CallsEachNumberOnceAndIsDoneAfterTheLast) {
    ThreadPool pool(3);
    for (const std::size_t count : {0u, 1u, 2u, 3u, 1000u}) {
        std::vector<std::atomic<int>> calls(count);
        pool.submit_bulk(count, [&](std::size_t i) { ++calls[i]; }).get();
        for (const auto& each : calls) ASSERT_EQ(each, 1);
    }
}

TEST(ThreadPoolSubmitBulk, PublishesWhatTheCallsWrote) {
    ThreadPool pool(2);
    for (int round = 0; round < 100; ++round) {
        std::vector<int> squares(64);  // not atomic: the future orders it
        pool.submit_bulk(squares.size(), [&](std::size_t i) { squares[i] = static_cast<int>(i * i); }).get();
        for (std::size_t i = 0; i < squares.size(); ++i) ASSERT_EQ(squares[i], static_cast<int>(i * i));
    }
}

TEST(ThreadPoolSubmitBulk, KeepsTheFirstExceptionAndBeginsNoFurtherCall) {
    ThreadPool pool(1);
    std::vector<std::size_t> calls;
    const auto future = pool.submit_bulk(10, [&](std::size_t i) {
        calls.push_back(i);
        if (i == 3) throw std::runtime_error("the third");
    });
    EXPECT_THROW(future.get(), std::runtime_error);
    EXPECT_EQ(calls, (std::vector<std::size_t>{0, 1, 2, 3}));
}

TEST(ThreadPoolSubmitBulk, RunsSideBySide) {
    ThreadPool pool(3);
    std::latch together(3);
    pool.submit_bulk(3, [&](std::size_t) { together.arrive_and_wait(); }).get();
}

TEST(ThreadPoolSubmitBulk, CanBeCancelledUntilItBegins) {
    ThreadPool pool(1);
    std::latch busy(1), open(1);
    pool.post([&] {
        busy.count_down();
        open.wait();
    });
    busy.wait();
    std::atomic<int> calls{0};
    const auto future = pool.submit_bulk(5, [&](std::size_t) { ++calls; });
    EXPECT_TRUE(future.cancel());
    open.count_down();
    pool.close();
    EXPECT_EQ(calls, 0);
    EXPECT_THROW(future.get(), Cancelled);
}

TEST(ThreadPoolSubmitBulk, DroppedByAPoolThatClosesFails) {
    std::optional<Future<void>> future;
    std::latch busy(1), open(1);
    ThreadPool pool(1);
    pool.post([&] {
        busy.count_down();
        open.wait();
    });
    busy.wait();
    future = pool.submit_bulk(5, [](std::size_t) {});
    std::jthread closer([&] { pool.close(Pending::cancel); });
    EXPECT_THROW(future->get(), Closed);
    open.count_down();
}

TEST(ThreadPoolSubmitBulk, ThatFindsNoRoomCallsNothing) {
    ThreadPool pool(ThreadPool::Options{.threads = 2, .max_queue = 1});
    std::latch busy(2), open(1);
    const auto block = [&] {
        busy.count_down();
        open.wait();
    };
    pool.post(block);
    pool.post(block);
    busy.wait();
    std::atomic<int> calls{0};
    EXPECT_THROW((void)pool.submit_bulk(5, [&](std::size_t) { ++calls; }, 0s), Overloaded);
    open.count_down();
    pool.close();
    EXPECT_EQ(calls, 0);
}

TEST(ThreadPoolStress, BulksAndSinglesOfSeveralProducersAllRunOnce) {
    constexpr int kRounds = 150, kBulk = 40;
    std::atomic<std::int64_t> sum{0};
    {
        ThreadPool pool(ThreadPool::Options{.threads = 2, .max_queue = 700});
        std::vector<std::jthread> producers;
        for (int producer = 0; producer < 3; ++producer) {
            producers.emplace_back([&] {
                for (int round = 0; round < kRounds; ++round) {
                    std::vector<ThreadPool::Task> tasks;
                    // What is written before the post and read by the task: ordered by the queue alone.
                    for (int i = 1; i <= kBulk; ++i)
                        tasks.emplace_back([&sum, box = std::make_unique<int>(i)] { sum += *box; });
                    pool.post_bulk(tasks);
                    pool.post([&sum, box = std::make_unique<int>(1)] { sum += *box; });
                }
            });
        }
    }
    EXPECT_EQ(sum, 3 * kRounds * (kBulk * (kBulk + 1) / 2 + 1));
}

// A task that is left in the queue while a worker is parked would leave the other worker waiting for ever.
TEST(ThreadPoolStress, NoTaskIsLeftWaitingWhileAWorkerIsParked) {
    ThreadPool pool(2);
    for (int round = 0; round < 2000; ++round) {
        if (round % 50 == 0) yield_until([&] { return pool.stats().idle == 2; });
        std::latch second(1);
        const auto first = pool.submit([&] { second.wait(); });
        if (round % 3 == 0) std::this_thread::yield();
        pool.post([&] { second.count_down(); });
        first.get();
    }
}

// As above, for a caller that is left waiting while there is room: the only worker takes the task that fills the queue just
// as the caller finds it full, and is busy until the caller goes on.
TEST(ThreadPoolStress, NoPosterIsLeftWaitingWhileThereIsRoom) {
    ThreadPool pool(ThreadPool::Options{.threads = 1, .max_queue = 1});
    for (int round = 0; round < 5000; ++round) {
        const auto posted = std::make_shared<std::latch>(1);
        pool.post([posted] { posted->wait(); });
        pool.post([] {});
        posted->count_down();
    }
}

}  // namespace
}  // namespace trtlab::core
