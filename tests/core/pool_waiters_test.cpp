#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <latch>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "frame_count.hpp"
#include "log_capture.hpp"
#include "trtlab/core/pool.hpp"
#include "trtlab/core/task.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::FrameCount;
using testing::yield_until;

TEST(PoolCallback, IsCalledHereAndNowIfAnItemIsFree) {
    Pool<int> pool({5});
    int got = 0;
    auto request = pool.acquire_then([&](Lease<int> lease) { got = *lease; });
    EXPECT_EQ(got, 5);
    EXPECT_FALSE(request.cancel());
    EXPECT_EQ(pool.stats().free, 1u);
}

TEST(PoolCallback, IsCalledByTheOneThatReturnsAnItemAndMayKeepIt) {
    Pool<int> pool({5});
    Lease<int> lease = pool.acquire();
    Lease<int> kept;
    (void)pool.acquire_then(
        [&](Lease<int> theirs) { kept = std::move(theirs); });  // dropping the request changes nothing
    EXPECT_FALSE(kept);
    lease.release();
    ASSERT_TRUE(kept);
    EXPECT_EQ(pool.stats().leased, 1u);
}

TEST(PoolCallback, GetsAnEmptyLeaseWhenThePoolClosesAndIsRefusedAfterwards) {
    Pool<int> pool({5});
    const Lease<int> lease = pool.acquire();
    std::optional<bool> empty;
    auto request = pool.acquire_then([&](Lease<int> theirs) { empty = !theirs; });
    pool.close();
    EXPECT_EQ(empty, true);
    EXPECT_FALSE(request.cancel());
    EXPECT_THROW((void)pool.acquire_then([](Lease<int>) {}), Closed);
    EXPECT_THROW((void)pool.acquire_then({}), InvalidArgument);
}

TEST(PoolCallback, CancelledNeverRunsAndLeavesItsPlace) {
    Pool<int> pool({5});
    Lease<int> lease = pool.acquire();
    auto witness = std::make_shared<int>(0);
    int second = 0;
    auto cancelled = pool.acquire_then([witness](Lease<int>) { FAIL(); });
    auto request = pool.acquire_then([&](Lease<int>) { ++second; });
    EXPECT_EQ(pool.stats().waiting, 2u);
    EXPECT_TRUE(cancelled.cancel());
    EXPECT_FALSE(cancelled.cancel());
    EXPECT_EQ(witness.use_count(), 1);
    EXPECT_EQ(pool.stats().waiting, 1u);
    lease.release();
    EXPECT_EQ(second, 1);
    EXPECT_FALSE(request.cancel());
    EXPECT_FALSE(Pool<int>::Request().cancel());
}

TEST(PoolCallback, LastCancelledLeavesThePoolAsItWas) {
    Pool<int> pool({5});
    Lease<int> lease = pool.acquire();
    auto request = pool.acquire_then([](Lease<int>) { FAIL(); });
    EXPECT_TRUE(request.cancel());
    lease.release();
    EXPECT_TRUE(pool.try_acquire());
    EXPECT_EQ(pool.stats().waited, 0u);
}

TEST(PoolCallback, ThatThrowsIsLoggedAndReturnsItsItem) {
    testing::LogCapture log;
    Pool<int> pool({5});
    pool.acquire_then([](Lease<int>) { throw std::runtime_error("the callback's own trouble"); });
    ASSERT_EQ(log.messages().size(), 1u);
    EXPECT_THAT(log.messages()[0], ::testing::HasSubstr("the callback's own trouble"));
    EXPECT_EQ(pool.stats().free, 1u);
}

TEST(PoolCallback, AnyNumberOfThemNeedsNoMoreStackThanOne) {
    Pool<int> pool({5});
    Lease<int> lease = pool.acquire();
    int calls = 0;
    for (int i = 0; i < 50'000; ++i) {
        (void)pool.acquire_then([&](Lease<int> theirs) { calls += theirs ? 1 : 0; });
    }
    lease.release();
    EXPECT_EQ(calls, 50'000);
}

TEST(PoolCallback, RequestsOutliveThePoolAndLeaveNothing) {
    const std::int64_t live = RefCounted::live();
    {
        Pool<int>::Request request;
        Lease<int> lease;
        {
            Pool<int> pool({5});
            lease = pool.acquire();
            request = pool.acquire_then([](Lease<int>) { FAIL(); });
        }
        EXPECT_TRUE(request.cancel());
    }
    EXPECT_EQ(RefCounted::live(), live);
}

// Threads, coroutines and callbacks stand in one queue.
TEST(PoolWaiters, AreServedInOrderOfArrivalWhateverTheyAre) {
    Pool<int> pool({0});
    Lease<int> lease = pool.acquire();
    std::vector<int> order;  // written by whoever holds the only item
    const auto coroutine = [](Pool<int> items, std::vector<int>* numbers, int number) -> Task<void> {
        const Lease<int> mine = co_await items.acquire_async();
        numbers->push_back(number);
    };
    std::vector<std::jthread> threads;
    std::vector<Future<void>> futures;
    for (int i = 0; i < 9; i += 3) {
        threads.emplace_back([&, i] {
            const Lease<int> mine = pool.acquire();
            order.push_back(i);
        });
        yield_until([&] { return pool.stats().waiting == static_cast<std::size_t>(i + 1); });
        futures.push_back(spawn(coroutine(pool, &order, i + 1)));
        (void)pool.acquire_then([&order, i](Lease<int>) { order.push_back(i + 2); });
    }
    EXPECT_EQ(pool.stats().waiting, 9u);
    lease.release();
    threads.clear();
    for (const auto& future : futures) future.get();
    yield_until([&] { return pool.stats().free == 1; });
    EXPECT_THAT(order, ::testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));
    EXPECT_EQ(pool.stats().waited, 9u);
}

TEST(PoolWaiters, WaitTimesAreOfThoseThatWaitedAndWereServed) {
    Pool<int> pool({0});
    EXPECT_EQ(pool.wait_times().count(), 0u);
    const auto before = std::chrono::steady_clock::now();
    {
        Lease<int> lease = pool.acquire();
        (void)pool.acquire_then([](Lease<int>) {});
        EXPECT_THROW((void)pool.acquire(2ms), Timeout);
    }
    const auto passed = std::chrono::steady_clock::now() - before;
    const Histogram times = pool.wait_times();
    EXPECT_EQ(times.count(), 1u);
    EXPECT_GE(times.max(), 2'000'000u);
    EXPECT_LE(times.max(), static_cast<std::uint64_t>(std::chrono::nanoseconds(passed).count()));
}

/// A pool of a million is as fast as one of two, and there is an end.
TEST(PoolSize, IsLimitedByWhatTheFreeListCanNumber) {
    Pool<char> pool(std::vector<char>(1'000'000));
    const Lease<char> lease = pool.acquire();
    EXPECT_EQ(pool.stats().free, 999'999u);
    EXPECT_THROW(FreeList(FreeList::kMaxSize + 1), InvalidArgument);
}

/// How often an item is taken and returned: TRTLAB_POOL_CYCLES=10000000 is the long run.
int cycles(int usually) {
    const char* asked = std::getenv("TRTLAB_POOL_CYCLES");
    return asked != nullptr ? std::max(1, std::atoi(asked)) : usually;
}

TEST(PoolStress, NoWakeUpIsLostWhoeverWaits) {
    struct Item {
        Item() = default;
        Item(Item&&) noexcept {}
        long plain = 0;  // ThreadSanitizer sees if two ever hold it
    };
    constexpr int kThreads = 3;
    const int rounds = cycles(60'000) / (kThreads + 1);
    FrameCount frames;
    Pool<Item> pool(std::vector<Item>(2));
    std::atomic<long> served{0};
    const auto coroutine = [](FrameCount::Token, Pool<Item> items, int count,
                              std::atomic<long>* counter) -> Task<void> {
        for (int round = 0; round < count; ++round) {
            const Lease<Item> lease = co_await items.acquire_async();
            ++lease->plain;
            ++*counter;
        }
    };
    {
        std::latch start(kThreads + 1);
        std::vector<std::jthread> threads;
        for (int thread = 0; thread < kThreads; ++thread) {
            threads.emplace_back([&] {
                start.arrive_and_wait();
                for (int round = 0; round < rounds; ++round) {
                    const Lease<Item> lease = pool.acquire();
                    ++lease->plain;
                    ++served;
                    if (round % 64 == 0) std::this_thread::yield();  // with the item: others have to wait
                }
            });
        }
        start.arrive_and_wait();
        std::vector<Future<void>> futures;
        for (int i = 0; i < 4; ++i) {
            futures.push_back(spawn(coroutine(frames.token(), pool, rounds / 4, &served)));
        }
        threads.clear();
        for (const auto& future : futures) future.get();
    }
    const long expected = static_cast<long>(rounds) * kThreads + static_cast<long>(rounds / 4) * 4;
    EXPECT_EQ(served, expected);
    EXPECT_EQ(frames.alive(), 0);
    const auto stats = pool.stats();
    EXPECT_EQ(stats.free, 2u);
    EXPECT_EQ(stats.waiting, 0u);
    EXPECT_EQ(stats.acquired, static_cast<std::uint64_t>(expected));
    long total = 0;
    const Lease<Item> first = pool.acquire(), second = pool.acquire();
    total = first->plain + second->plain;
    EXPECT_EQ(total, expected);
}

/// Handles, leases and waiters go away in any order; the last of them takes the pool along, once.
TEST(PoolStress, TheLastOneToGoTakesThePoolAlong) {
    const std::int64_t live = RefCounted::live();
    for (int round = 0; round < 1000; ++round) {
        auto witness = std::make_shared<int>(round);
        std::vector<std::shared_ptr<int>> items(2, witness);
        std::optional<Pool<std::shared_ptr<int>>> pool(std::move(items));
        Lease<std::shared_ptr<int>> first = pool->acquire(), second = pool->acquire();
        const auto borrow = [](Pool<std::shared_ptr<int>> from) -> Task<int> {
            const Lease<std::shared_ptr<int>> lease = co_await from.acquire_async();
            co_return **lease;
        };
        const Future<int> waiting = spawn(borrow(*pool));
        std::latch start(3);
        std::jthread a([&] {
            start.arrive_and_wait();
            first.release();
        });
        std::jthread b([&] {
            start.arrive_and_wait();
            second.release();
        });
        start.arrive_and_wait();
        pool.reset();
        a.join();
        b.join();
        ASSERT_EQ(waiting.get(0s), round);
        ASSERT_EQ(witness.use_count(), 1);
    }
    EXPECT_EQ(RefCounted::live(), live);
}

}  // namespace
}  // namespace trtlab::core
