#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "cpu_time.hpp"
#include "in_child.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/future.hpp"
#include "trtlab/core/timer_queue.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using Clock = TimerQueue::Clock;
using testing::cpu_seconds_of_this_process;
using testing::in_child;
using testing::throws_closed;
using testing::yield_until;

TEST(TimerQueueClose, CancelDropsWhatIsPending) {
    TimerQueue timers;
    auto witness = std::make_shared<int>(0);
    std::vector<Timer> handles;
    for (int i = 0; i < 10; ++i) handles.push_back(timers.after(1h, [witness] { FAIL(); }));
    EXPECT_EQ(witness.use_count(), 11);
    timers.close();
    EXPECT_EQ(witness.use_count(), 1);
    EXPECT_FALSE(handles[0].cancel());
    EXPECT_EQ(timers.stats().pending, 0u);
    timers.close(Pending::drain);
    timers.close();
    EXPECT_THROW((void)timers.after(0ns, [] {}), Closed);
}

TEST(TimerQueueClose, CancelWaitsForTheTaskThatRuns) {
    TimerQueue timers;
    std::latch busy(1), open(1);
    std::atomic<bool> finished{false};
    timers.after(0ns, [&] {
        busy.count_down();
        open.wait();
        finished = true;
    });
    busy.wait();
    std::jthread opener([&] {
        yield_until([&] {
            try {
                timers.after(1h, [] {}).cancel();
                return false;
            } catch (const Closed&) {
                return true;
            }
        });
        EXPECT_FALSE(finished);
        open.count_down();
    });
    timers.close();
    EXPECT_TRUE(finished);
}

TEST(TimerQueueClose, DrainRunsWhatIsPendingAtItsTime) {
    TimerQueue timers;
    const auto when = Clock::now() + 5ms;
    std::vector<Clock::time_point> ran;
    for (int i = 0; i < 3; ++i) {
        timers.at(when + std::chrono::milliseconds(i), [&] { ran.push_back(Clock::now()); });
    }
    timers.close(Pending::drain);
    ASSERT_EQ(ran.size(), 3u);
    EXPECT_GE(ran.front(), when);
    EXPECT_EQ(timers.stats().executed, 3u);
}

TEST(TimerQueueClose, DrainEndsWhenTheLastTimerIsCancelled) {
    TimerQueue timers;
    Timer first = timers.after(1h, [] { FAIL(); });
    Timer second = timers.after(2h, [] { FAIL(); });
    std::jthread draining([&] { timers.close(Pending::drain); });
    yield_until([&] { return throws_closed([&] { timers.after(1h, [] {}).cancel(); }); });
    EXPECT_TRUE(first.cancel());
    EXPECT_TRUE(second.cancel());
}

TEST(TimerQueueClose, CancelEndsADrain) {
    TimerQueue timers;
    Timer far = timers.after(1h, [] { FAIL(); });
    std::jthread draining([&] { timers.close(Pending::drain); });
    yield_until([&] { return throws_closed([&] { timers.after(1h, [] {}).cancel(); }); });
    timers.close(Pending::cancel);
    EXPECT_FALSE(far.cancel());
}

TEST(TimerQueueClose, IsRefusedToItsOwnTasksAndAllowedToThoseOfAnother) {
    TimerQueue timers, other;
    Promise<void> own, others;
    timers.after(0ns, [&] { own.fulfil([&] { timers.close(); }); });
    EXPECT_THROW(own.future().get(), InvalidArgument);
    timers.after(0ns, [&] { others.fulfil([&] { other.close(); }); });
    others.future().get();
    EXPECT_THROW((void)other.after(0ns, [] {}), Closed);
}

TEST(TimerQueueDestructor, DropsWhatIsPendingAndTimersMayOutliveIt) {
    auto witness = std::make_shared<int>(0);
    Timer timer;
    {
        TimerQueue timers;
        timer = timers.after(1h, [witness] { FAIL(); });
    }
    EXPECT_EQ(witness.use_count(), 1);
    EXPECT_FALSE(timer.cancel());
}

TEST(TimerQueueDestructor, MayRunOnItsOwnThread) {
    for (int round = 0; round < 50; ++round) {
        auto timers = std::make_unique<TimerQueue>();
        auto witness = std::make_shared<int>(0);
        std::latch may_destroy(1), destroyed(1);
        timers->after(1h, [witness] { FAIL(); });
        timers->after(0ns, [&] {
            may_destroy.wait();
            timers.reset();
            destroyed.count_down();
        });
        may_destroy.count_down();
        destroyed.wait();
        EXPECT_EQ(timers, nullptr);
        EXPECT_EQ(witness.use_count(), 1);
    }
}

TEST(TimerQueueDestructor, MayRunOnItsOwnThreadWhileAnotherCloses) {
    for (int round = 0; round < 50; ++round) {
        auto timers = std::make_unique<TimerQueue>();
        TimerQueue* const closed = timers.get();
        std::latch running(1), destroyed(1);
        timers->after(0ns, [&] {
            running.count_down();
            // Refused as soon as the other thread is inside.
            yield_until([&] { return throws_closed([&] { (void)closed->after(1h, [] {}); }); });
            timers.reset();
            destroyed.count_down();
        });
        running.wait();
        std::jthread closer([&] { closed->close(); });
        destroyed.wait();
    }
}

TEST(TimerQueueFork, ChildNeitherHangsAtDestructionNorPretendsToWork) {
    auto timers = std::make_unique<TimerQueue>();
    Timer timer = timers->after(1h, [] {});
    Timer other = timers->after(1h, [] {});
    EXPECT_EQ(in_child([&] {
                  const bool right =
                      throws_closed([&] { (void)timers->after(0ns, [] {}); }) &&
                      throws_closed([&] { timer.cancel(); }) && throws_closed([&] { timers->close(); }) &&
                      throws_closed([&] { (void)timers->stats(); }) && throws_closed([&] { (void)timers->lateness(); });
                  timer = std::move(other);
                  timers.reset();
                  timer = Timer();
                  return right ? 0 : 1;
              }),
              0);
    EXPECT_TRUE(timer.cancel());  // the parent's is unharmed
}

// The predecessor's timer pool started its thread before the members that the thread uses: 36 of 300 starts hung.
TEST(PredecessorDefect1, EveryOneOfManyStartsOfATimerQueueWorks) {
    for (int start = 0; start < 300; ++start) {
        TimerQueue timers;
        std::latch ran(1);
        timers.after(0ns, [&] { ran.count_down(); });
        ran.wait();
    }
}

// The predecessor's slept on: a task due at 50 ms ran at 400 ms.
TEST(PredecessorDefect2, EarlierDeadlineWakesALaterWait) {
    TimerQueue timers;
    Timer far = timers.after(1h, [] { FAIL(); });
    std::latch asleep(1), ran(1);
    timers.after(0ns, [&] { asleep.count_down(); });
    asleep.wait();
    timers.after(5ms, [&] { ran.count_down(); });
    ran.wait();  // without the wake-up in an hour
}

// The predecessor's kept one task for each deadline: of three, one ran.
TEST(PredecessorDefect3, AllTasksOfOneDeadlineRunInTheOrderTheyCame) {
    TimerQueue timers;
    const auto when = Clock::now() + 2ms;
    std::vector<int> order;
    for (int i = 0; i < 3; ++i) timers.at(when, [&order, i] { order.push_back(i); });
    timers.close(Pending::drain);
    EXPECT_THAT(order, ::testing::ElementsAre(0, 1, 2));
}

// The predecessor's span while it shut down with a task pending: 0.95 s of CPU time a second.
TEST(PredecessorDefect4, ATimerQueueUsesNoCpuWhileItIsIdleOrDrains) {
    TimerQueue idle, draining;
    Timer far = idle.after(1h, [] {});
    draining.after(300ms, [] {});
    const double before = cpu_seconds_of_this_process();
    draining.close(Pending::drain);  // this thread is parked as well
    // One thread that span would use 0.3 s; a sanitizer's own thread uses some too.
    EXPECT_LT(cpu_seconds_of_this_process() - before, 0.15);
}

/// Every timer is accounted for exactly once, whatever adds, cancels and closes at the same time.
TEST(TimerQueueStress, EveryTaskRunsOnceOrIsCancelledOnceOrDroppedOnce) {
    for (const Pending pending : {Pending::drain, Pending::cancel}) {
        constexpr int kThreads = 4, kRounds = 1500;
        struct Tally {
            std::atomic<int> destroyed{0};
            std::atomic<int> ran{0};
        };
        struct Counted {
            explicit Counted(Tally* tally_) : tally(tally_) {}
            Counted(Counted&& other) noexcept : tally(std::exchange(other.tally, nullptr)) {}
            ~Counted() {
                if (tally != nullptr) ++tally->destroyed;
            }
            void operator()() const { ++tally->ran; }
            Tally* tally;
        };
        Tally tally;
        TimerQueue timers;
        std::atomic<int> added{0}, cancelled{0}, refused{0};
        std::latch start(kThreads + 1);
        std::vector<std::jthread> threads;
        for (unsigned thread = 0; thread < kThreads; ++thread) {
            threads.emplace_back([&, thread] {
                std::mt19937 random(thread);
                std::vector<Timer> kept;
                start.arrive_and_wait();
                for (int round = 0; round < kRounds; ++round) {
                    try {
                        Timer timer = timers.after(std::chrono::microseconds(random() % 300), Counted(&tally));
                        ++added;
                        if (random() % 2 == 0) kept.push_back(std::move(timer));
                    } catch (const Closed&) {
                        ++refused;
                    }
                    if (!kept.empty() && random() % 2 == 0) {
                        Timer& victim = kept[random() % kept.size()];
                        cancelled += victim.cancel() ? 1 : 0;
                        victim = std::move(kept.back());
                        kept.pop_back();
                    }
                }
            });
        }
        start.arrive_and_wait();
        yield_until([&] { return added + refused > kThreads * kRounds / 2; });
        timers.close(pending);
        threads.clear();
        EXPECT_EQ(added + refused, kThreads * kRounds);
        EXPECT_EQ(tally.destroyed, kThreads * kRounds);
        const auto stats = timers.stats();
        EXPECT_EQ(stats.pending, 0u);
        EXPECT_EQ(stats.executed, static_cast<std::uint64_t>(tally.ran));
        EXPECT_EQ(stats.cancelled, static_cast<std::uint64_t>(cancelled));
        if (pending == Pending::drain) {
            EXPECT_EQ(tally.ran + cancelled, added);
        }
        EXPECT_LE(tally.ran + cancelled, added);
    }
}

}  // namespace
}  // namespace trtlab::core
