#include "trtlab/core/timer_queue.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <array>
#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "log_capture.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/future.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using Clock = TimerQueue::Clock;
using testing::yield_until;

/// Returns once everything that is due has run: a task that is due now runs behind all of it.
void run_what_is_due(TimerQueue& timers) {
    std::latch ran(1);
    timers.after(0ns, [&] { ran.count_down(); });
    ran.wait();
}

TEST(TimerQueue, RunsATaskAtItsTimeAndNotBefore) {
    TimerQueue timers;
    const auto when = Clock::now() + 3ms;
    Promise<Clock::time_point> ran;
    timers.at(when, [&] { ran.set_value(Clock::now()); });
    EXPECT_GE(ran.future().get(), when);
}

TEST(TimerQueue, RunsWhatIsPastAtOnce) {
    TimerQueue timers;
    std::latch ran(3);
    timers.after(-1h, [&] { ran.count_down(); });
    timers.at(Clock::time_point::min(), [&] { ran.count_down(); });
    timers.at(Clock::time_point{}, [&] { ran.count_down(); });
    ran.wait();
}

TEST(TimerQueue, RunsTasksInTheOrderOfTheirDeadlines) {
    TimerQueue timers;
    std::vector<int> order;
    std::latch busy(1), open(1), done(1);
    timers.after(0ns, [&] {
        busy.count_down();
        open.wait();
    });
    busy.wait();  // all are due by the time that the thread looks again
    const auto base = Clock::now() - 1s;
    for (int i : {3, 1, 2}) timers.at(base + std::chrono::milliseconds(i), [&order, i] { order.push_back(i); });
    timers.at(base + 4ms, [&] { done.count_down(); });
    open.count_down();
    done.wait();
    EXPECT_THAT(order, ::testing::ElementsAre(1, 2, 3));
}

TEST(TimerQueue, RunsTasksOnOneNamedThreadOfItsOwn) {
    TimerQueue timers(TimerQueue::Options{.name = "a-rather-long-name"});
    EXPECT_EQ(timers.name(), "a-rather-long-name");
    std::array<std::thread::id, 2> ids;
    std::array<char, 16> name{};
    for (auto& id : ids) {
        timers.after(0ns, [&] {
            id = std::this_thread::get_id();
            pthread_getname_np(pthread_self(), name.data(), name.size());
        });
    }
    run_what_is_due(timers);
    EXPECT_EQ(ids[0], ids[1]);
    EXPECT_NE(ids[0], std::this_thread::get_id());
    EXPECT_STREQ(name.data(), "a-rather-long-n");
}

TEST(TimerQueue, CancelledTaskNeverRunsAndIsDestroyedAtOnce) {
    TimerQueue timers;
    auto witness = std::make_shared<int>(0);
    const std::weak_ptr<int> watched = witness;
    Timer timer = timers.after(1h, [witness = std::move(witness)] { FAIL(); });
    EXPECT_EQ(timers.stats().pending, 1u);
    EXPECT_TRUE(timer.cancel());
    EXPECT_TRUE(watched.expired());
    EXPECT_FALSE(timer.cancel());
    EXPECT_EQ(timers.stats().pending, 0u);
    EXPECT_EQ(timers.stats().cancelled, 1u);
    EXPECT_EQ(timers.stats().executed, 0u);
}

TEST(TimerQueue, CancelIsTooLateOnceTheTaskRunsOrRan) {
    TimerQueue timers;
    std::latch armed(1), tried(1);
    Timer timer;
    bool during = true;
    timer = timers.after(0ns, [&] {
        armed.wait();
        during = timer.cancel();
        tried.count_down();
    });
    armed.count_down();
    tried.wait();
    EXPECT_FALSE(during);
    EXPECT_FALSE(timer.cancel());
    EXPECT_EQ(timers.stats().cancelled, 0u);
}

TEST(TimerQueue, DroppingTheTimerCancelsNothingAndAnEmptyOneHasNothingToCancel) {
    TimerQueue timers;
    std::latch ran(2);
    {
        Timer timer = timers.after(1ms, [&] { ran.count_down(); });
    }
    Timer timer = timers.after(2ms, [&] { ran.count_down(); });
    timer = Timer();
    EXPECT_FALSE(timer.cancel());
    ran.wait();
}

TEST(TimerQueue, TimersMoveWithTheirTask) {
    TimerQueue timers;
    Timer first = timers.after(1h, [] {});
    Timer second = std::move(first);
    EXPECT_FALSE(first.cancel());  // NOLINT(bugprone-use-after-move): moved from is empty
    first = std::move(second);
    auto& same = first;
    first = std::move(same);
    EXPECT_TRUE(first.cancel());
}

TEST(TimerQueue, CancellingTheEarliestLeavesTheNext) {
    TimerQueue timers;
    std::latch ran(1);
    bool wrong = false;
    Timer earliest = timers.after(1ms, [&] { wrong = true; });
    if (!earliest.cancel()) return;  // this thread was held up for 1 ms
    timers.after(2ms, [&] { ran.count_down(); });
    ran.wait();
    EXPECT_FALSE(wrong);
}

TEST(TimerQueue, TasksMayAddAndCancelTimers) {
    TimerQueue timers;
    std::latch ran(1);
    Timer far = timers.after(1h, [] {});
    bool cancelled = false;
    timers.after(0ns, [&] {
        cancelled = far.cancel();
        timers.after(1ms, [&] { ran.count_down(); });
    });
    ran.wait();
    EXPECT_TRUE(cancelled);
}

TEST(TimerQueue, WhatATaskCapturedIsDestroyedWithoutTheLock) {
    TimerQueue timers;
    struct Nosy {
        explicit Nosy(TimerQueue* timers_) : timers(timers_) {}
        Nosy(Nosy&& other) noexcept : timers(std::exchange(other.timers, nullptr)) {}
        ~Nosy() {
            if (timers != nullptr) (void)timers->stats();  // would wait for ever
        }
        void operator()() const {}
        TimerQueue* timers;
    };
    timers.after(0ns, Nosy(&timers));
    EXPECT_TRUE(timers.after(1h, Nosy(&timers)).cancel());
    timers.after(1h, Nosy(&timers));
    run_what_is_due(timers);
    timers.close();
}

TEST(TimerQueue, WhatATaskThrowsIsLoggedAndTheNextOneRuns) {
    testing::LogCapture log;
    TimerQueue timers(TimerQueue::Options{.name = "careless"});
    timers.after(0ns, [] { throw std::runtime_error("the task's own trouble"); });
    run_what_is_due(timers);
    ASSERT_EQ(log.messages().size(), 1u);
    EXPECT_THAT(log.messages()[0], ::testing::HasSubstr("'careless'"));
    EXPECT_THAT(log.messages()[0], ::testing::HasSubstr("the task's own trouble"));
}

TEST(TimerQueue, RefusesAnEmptyTaskAndLeavesARefusedOneUntouched) {
    TimerQueue timers(TimerQueue::Options{.name = "shut"});
    EXPECT_THROW((void)timers.after(0ns, TimerQueue::Task()), InvalidArgument);
    timers.close();
    TimerQueue::Task task = [] {};
    try {
        (void)timers.at(Clock::now(), std::move(task));
        FAIL();
    } catch (const Closed& closed) {
        EXPECT_THAT(closed.what(), ::testing::HasSubstr("'shut'"));
    }
    EXPECT_TRUE(task);  // NOLINT(bugprone-use-after-move): that is the promise
}

TEST(TimerQueue, ATimeBeyondTheClockIsNever) {
    TimerQueue timers;
    Timer for_ever = timers.after(std::chrono::nanoseconds::max(), [] { FAIL(); });
    Timer at_the_end = timers.at(Clock::time_point::max(), [] { FAIL(); });
    run_what_is_due(timers);
    EXPECT_TRUE(for_ever.cancel());
    EXPECT_TRUE(at_the_end.cancel());
}

TEST(TimerQueue, CountsHowLateItsTasksBegan) {
    TimerQueue timers;
    timers.at(Clock::now() - 1s, [] {});
    run_what_is_due(timers);
    yield_until([&] { return timers.stats().executed == 2; });
    const Histogram lateness = timers.lateness();
    EXPECT_EQ(lateness.count(), 2u);
    EXPECT_GE(lateness.max(), static_cast<std::uint64_t>(std::chrono::nanoseconds(1s).count()));
    EXPECT_LT(lateness.min(), static_cast<std::uint64_t>(std::chrono::nanoseconds(1s).count()));
}

TEST(TimerQueue, UsesEntriesAgain) {
    TimerQueue timers;
    const auto one = [&] {
        EXPECT_TRUE(timers.after(1h, [] {}).cancel());
        run_what_is_due(timers);
    };
    one();
    one();
    const std::int64_t before = RefCounted::live();
    for (int i = 0; i < 1000; ++i) one();
    EXPECT_LE(RefCounted::live(), before + 2);
}

// Timers that are cancelled long before their time are what deadlines of requests look like.
TEST(TimerQueue, CancelledTimersLeaveNothingBehind) {
    TimerQueue timers;
    Timer far = timers.after(1h, [] {});
    const std::int64_t before = RefCounted::live();
    for (int i = 0; i < 100'000; ++i) {
        Timer timer = timers.after(1h, [] {});
        ASSERT_TRUE(timer.cancel());
    }
    EXPECT_EQ(timers.stats().pending, 1u);
    EXPECT_LE(RefCounted::live(), before + 1);
}

}  // namespace
}  // namespace trtlab::core
