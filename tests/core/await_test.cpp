#include "trtlab/core/await.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "frame_count.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/pool.hpp"
#include "trtlab/core/task.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::FrameCount;
using Token = FrameCount::Token;

Task<std::thread::id> hop(Token, ThreadPool* threads) {
    co_await threads->schedule();
    co_return std::this_thread::get_id();
}

TEST(AwaitThreadPool, GoesOnOnAWorker) {
    FrameCount frames;
    ThreadPool pool(1);
    const std::thread::id worker = pool.submit([] { return std::this_thread::get_id(); }).get();
    EXPECT_EQ(spawn(hop(frames.token(), &pool)).get(), worker);
    EXPECT_EQ(frames.alive(), 0);
}

TEST(AwaitThreadPool, FullQueueIsOverloadedAtTheAwaitAndTheCoroutineGoesOn) {
    FrameCount frames;
    ThreadPool pool(ThreadPool::Options{.threads = 1, .max_queue = 1});
    std::latch busy(1), open(1);
    pool.post([&] {
        busy.count_down();
        open.wait();
    });
    busy.wait();
    pool.post([] {});
    EXPECT_THROW(spawn(hop(frames.token(), &pool)).get(), Overloaded);
    EXPECT_EQ(frames.alive(), 0);
    open.count_down();
}

TEST(AwaitThreadPool, ClosedBeforeOrWhileItWaitsThrowsClosed) {
    FrameCount frames;
    ThreadPool pool(1);
    std::latch busy(1), open(1);
    pool.post([&] {
        busy.count_down();
        open.wait();
    });
    busy.wait();
    const auto queued = spawn(hop(frames.token(), &pool));
    EXPECT_EQ(frames.alive(), 1);
    std::jthread closing([&] { pool.close(Pending::cancel); });
    EXPECT_THROW(queued.get(), Closed);
    EXPECT_EQ(frames.alive(), 0);
    EXPECT_THROW(spawn(hop(frames.token(), &pool)).get(), Closed);
    open.count_down();
}

TEST(AwaitThreadPool, DestroyedWithCoroutinesQueuedRunsThemAll) {
    FrameCount frames;
    std::vector<Future<std::thread::id>> futures;
    {
        ThreadPool pool(2);
        for (int i = 0; i < 100; ++i) futures.push_back(spawn(hop(frames.token(), &pool)));
    }
    for (const auto& future : futures) EXPECT_NE(future.get(0s), std::this_thread::get_id());
    EXPECT_EQ(frames.alive(), 0);
}

Task<TimerQueue::Clock::time_point> sleep(Token, TimerQueue* timers, std::chrono::nanoseconds time) {
    co_await timers->sleep_for(time);
    co_return TimerQueue::Clock::now();
}

TEST(AwaitTimerQueue, GoesOnAtItsTimeAndNotBefore) {
    FrameCount frames;
    TimerQueue timers;
    const auto before = TimerQueue::Clock::now();
    EXPECT_GE(spawn(sleep(frames.token(), &timers, 2ms)).get() - before, 2ms);
    (void)spawn(sleep(frames.token(), &timers, -1h)).get();
    const auto until = [](TimerQueue* queue, TimerQueue::Clock::time_point when) -> Task<bool> {
        co_await queue->sleep_until(when);
        co_return TimerQueue::Clock::now() >= when;
    };
    EXPECT_TRUE(spawn(until(&timers, TimerQueue::Clock::now() + 1ms)).get());
    EXPECT_EQ(frames.alive(), 0);
}

TEST(AwaitTimerQueue, ClosedBeforeOrWhileItWaitsThrowsClosed) {
    FrameCount frames;
    std::optional<TimerQueue> timers(std::in_place);
    std::vector<Future<TimerQueue::Clock::time_point>> asleep;
    for (int i = 0; i < 10; ++i) asleep.push_back(spawn(sleep(frames.token(), &*timers, 1h)));
    EXPECT_EQ(frames.alive(), 10);
    timers->close();
    EXPECT_EQ(frames.alive(), 0);
    for (const auto& future : asleep) EXPECT_THROW(future.get(0s), Closed);
    EXPECT_THROW(spawn(sleep(frames.token(), &*timers, 1h)).get(0s), Closed);
    timers.emplace();
    asleep.front() = spawn(sleep(frames.token(), &*timers, 1h));
    timers.reset();
    EXPECT_THROW(asleep.front().get(0s), Closed);
    EXPECT_EQ(frames.alive(), 0);
}

Task<int> borrow(Token, Pool<int> pool) {
    const Lease<int> lease = co_await pool.acquire_async();
    co_return *lease;
}

TEST(AwaitPool, GivesALeaseAtOnceIfAnItemIsFree) {
    FrameCount frames;
    Pool<int> pool({7});
    EXPECT_EQ(spawn(borrow(frames.token(), pool)).get(0s), 7);
    EXPECT_EQ(pool.stats().free, 1u);
    EXPECT_EQ(pool.stats().waited, 0u);
}

TEST(AwaitPool, GoesOnOnTheThreadThatReturnsTheItem) {
    FrameCount frames;
    Pool<int> pool({7});
    const auto where = [](Token, Pool<int> items) -> Task<std::thread::id> {
        const Lease<int> lease = co_await items.acquire_async();
        co_return std::this_thread::get_id();
    };
    Lease<int> lease = pool.acquire();
    const auto future = spawn(where(frames.token(), pool));
    EXPECT_EQ(pool.stats().waiting, 1u);
    EXPECT_FALSE(pool.try_acquire());
    std::thread::id returning;
    std::jthread([&] {
        returning = std::this_thread::get_id();
        lease.release();
    }).join();
    EXPECT_EQ(future.get(0s), returning);
    EXPECT_EQ(frames.alive(), 0);
    const auto stats = pool.stats();
    EXPECT_EQ(stats.free, 1u);
    EXPECT_EQ(stats.acquired, 2u);
    EXPECT_EQ(stats.waited, 1u);
    EXPECT_EQ(pool.wait_times().count(), 1u);
}

TEST(AwaitPool, ClosedBeforeOrWhileItWaitsThrowsClosed) {
    FrameCount frames;
    Pool<int> pool({7});
    const Lease<int> lease = pool.acquire();
    std::vector<Future<int>> waiting;
    for (int i = 0; i < 5; ++i) waiting.push_back(spawn(borrow(frames.token(), pool)));
    EXPECT_EQ(frames.alive(), 5);
    pool.close();
    EXPECT_EQ(frames.alive(), 0);
    for (const auto& future : waiting) EXPECT_THROW(future.get(0s), Closed);
    EXPECT_THROW(spawn(borrow(frames.token(), pool)).get(0s), Closed);
    EXPECT_EQ(pool.stats().waiting, 0u);
}

TEST(AwaitPool, WaitersAreServedWhenTheLastHandleIsGoneAndLeaveNothing) {
    FrameCount frames;
    const std::int64_t live = RefCounted::live();
    {
        std::optional<Pool<int>> pool(std::vector<int>{7});
        Lease<int> lease = pool->acquire();
        const auto first = spawn(borrow(frames.token(), *pool));
        const auto second = spawn(borrow(frames.token(), *pool));
        pool.reset();
        lease.release();
        EXPECT_EQ(first.get(0s), 7);
        EXPECT_EQ(second.get(0s), 7);
    }
    EXPECT_EQ(frames.alive(), 0);
    EXPECT_EQ(RefCounted::live(), live);
}

TEST(AwaitPool, APoolOfNothingIsRefusedRatherThanWaitedForInVain) {
    FrameCount frames;
    EXPECT_THROW(spawn(borrow(frames.token(), Pool<int>({}))).get(0s), InvalidArgument);
    EXPECT_EQ(frames.alive(), 0);
}

TEST(AwaitPool, AnyNumberOfWaitersNeedNoMoreStackThanOne) {
    FrameCount frames;
    Pool<int> pool({7});
    Lease<int> lease = pool.acquire();
    std::vector<Future<int>> waiting;
    for (int i = 0; i < 50'000; ++i) waiting.push_back(spawn(borrow(frames.token(), pool)));
    lease.release();
    for (const auto& future : waiting) ASSERT_EQ(future.get(0s), 7);
    EXPECT_EQ(frames.alive(), 0);
}

/// Coroutines that go from one thing to the next while all of it is closed around them: each ends, and leaves no frame.
TEST(AwaitStress, EveryCoroutineEndsWhateverIsClosedUnderIt) {
    const auto wander = [](Token, ThreadPool* threads, TimerQueue* timers, Pool<int> pool, int seed) -> Task<int> {
        int steps = 0;
        for (; steps < 30; ++steps) {
            co_await threads->schedule();
            {
                const Lease<int> lease = co_await pool.acquire_async();
                ++*lease;  // ThreadSanitizer sees if two ever hold it
            }
            co_await timers->sleep_for(std::chrono::microseconds((seed + steps) % 50));
            (void)co_await threads->submit([steps] { return steps; });
        }
        co_return steps;
    };
    for (int round = 0; round < 4; ++round) {
        FrameCount frames;
        std::vector<Future<int>> futures;
        {
            Pool<int> pool({0, 0});
            TimerQueue timers;
            ThreadPool threads(2);
            for (int i = 0; i < 40; ++i) futures.push_back(spawn(wander(frames.token(), &threads, &timers, pool, i)));
            if (round == 1) pool.close();
            if (round == 2) timers.close();
            if (round == 3) threads.close(Pending::cancel);
            if (round == 0) {
                for (const auto& future : futures) EXPECT_EQ(future.get(), 30);
            } else {
                for (const auto& future : futures) EXPECT_TRUE(future.wait());
            }
        }
        EXPECT_EQ(frames.alive(), 0);
        for (const auto& future : futures) {
            if (round > 0 && future.error()) {
                EXPECT_THROW(future.get(), Closed);
            }
        }
    }
}

}  // namespace
}  // namespace trtlab::core
