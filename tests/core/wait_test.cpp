#include "trtlab/core/wait.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include "interruption.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;

TEST(WaitOptions, WaitForEverByDefault) {
    EXPECT_EQ(WaitOptions().timeout, kForever);
    EXPECT_EQ(WaitOptions().on_signal, nullptr);
}

TEST(WaitOptions, TakeAnyDurationAndNeverOverflow) {
    EXPECT_EQ(WaitOptions(3s).timeout, 3s);
    EXPECT_EQ(WaitOptions(std::chrono::duration<double>(0.25)).timeout, 250ms);
    EXPECT_EQ(WaitOptions(kForever).timeout, kForever);
    EXPECT_EQ(WaitOptions(std::chrono::hours::max()).timeout, kForever);
    EXPECT_EQ(WaitOptions(std::chrono::seconds::max()).timeout, kForever);
    EXPECT_EQ(WaitOptions(std::chrono::duration<double>(1e300)).timeout, kForever);
    EXPECT_EQ(WaitOptions(std::chrono::duration<double>(std::numeric_limits<double>::infinity())).timeout, kForever);
}

TEST(WaitOptions, TakeNegativeTimesAndNotANumberAsNoTime) {
    EXPECT_EQ(WaitOptions(-1s).timeout, 0ns);
    EXPECT_EQ(WaitOptions(std::chrono::hours::min()).timeout, 0ns);
    EXPECT_EQ(WaitOptions(std::chrono::duration<double>(std::nan(""))).timeout, 0ns);
}

TEST(Deadline, IsNeverForForeverAndWhereTheClockWouldOverflow) {
    EXPECT_TRUE(Deadline(kForever).never());
    EXPECT_TRUE(Deadline(kForever - 1ns).never());
    EXPECT_FALSE(Deadline(std::chrono::hours(24 * 365 * 100)).never());
}

TEST(Deadline, IsInThePastForNoTimeAndLess) {
    for (const auto timeout : {0ns, -1ns, std::chrono::nanoseconds::min()}) {
        EXPECT_FALSE(Deadline(timeout).never());
        EXPECT_EQ(Deadline(timeout).monotonic_ns(), 0);
    }
}

TEST(Deadline, MayBeAPointOfTheMonotonicClock) {
    using TimePoint = std::chrono::steady_clock::time_point;
    EXPECT_EQ(Deadline(TimePoint(5s)).monotonic_ns(), 5'000'000'000);
    EXPECT_EQ(Deadline(TimePoint(-5s)).monotonic_ns(), 0);
    EXPECT_EQ(Deadline(TimePoint::min()).monotonic_ns(), 0);
    EXPECT_TRUE(Deadline(TimePoint::max()).never());
}

TEST(Deadline, IsThatFarAheadOfTheMonotonicClock) {
    const auto now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
    const auto before = now();
    const Deadline deadline(5s);
    const auto after = now();
    EXPECT_GE(deadline.monotonic_ns(), before + 5'000'000'000);
    EXPECT_LE(deadline.monotonic_ns(), after + 5'000'000'000);
}

TEST(ThrowTimeout, SaysHowLongWasWaited) {
    try {
        throw_timeout(WaitOptions(1500ms));
        FAIL();
    } catch (const Timeout& timeout) {
        EXPECT_NE(std::string(timeout.what()).find("1.5 s"), std::string::npos) << timeout.what();
    }
}

TEST(FutexWait, ReturnsAtOnceWhenTheWordDiffers) {
    std::atomic<std::uint32_t> word{1};
    EXPECT_EQ(futex_wait(word, 0, Deadline(kForever)), WaitResult::woken);
}

TEST(FutexWait, GivesUpAtItsDeadline) {
    std::atomic<std::uint32_t> word{0};
    EXPECT_EQ(futex_wait(word, 0, Deadline(0ns)), WaitResult::timed_out);
    const auto before = std::chrono::steady_clock::now();
    WaitResult result = WaitResult::woken;
    while (result == WaitResult::woken) result = futex_wait(word, 0, Deadline(2ms));
    EXPECT_EQ(result, WaitResult::timed_out);
    EXPECT_GE(std::chrono::steady_clock::now() - before, 2ms);
}

TEST(WaitQueue, IsFirstInFirstOutWhateverLeavesInBetween) {
    std::vector<Waiter> waiters(5);
    WaitQueue queue;
    EXPECT_EQ(queue.pop(), nullptr);
    for (Waiter& waiter : waiters) queue.push(waiter);
    EXPECT_EQ(queue.size(), 5u);

    queue.remove(waiters[2]);  // from the middle
    queue.remove(waiters[0]);  // the head
    queue.remove(waiters[4]);  // the tail
    EXPECT_EQ(queue.size(), 2u);
    EXPECT_EQ(queue.front(), &waiters[1]);
    EXPECT_EQ(WaitQueue::next(waiters[1]), &waiters[3]);
    EXPECT_EQ(WaitQueue::next(waiters[3]), nullptr);

    queue.push(waiters[0]);
    EXPECT_EQ(queue.pop(), &waiters[1]);
    EXPECT_EQ(queue.pop(), &waiters[3]);
    EXPECT_EQ(queue.pop(), &waiters[0]);
    EXPECT_EQ(queue.pop(), nullptr);
    EXPECT_TRUE(queue.empty());
    EXPECT_EQ(queue.size(), 0u);
}

TEST(Waiter, DoesNotBlockWhenItWasGrantedBefore) {
    Waiter waiter;
    {
        WakeUp wake_up;
        waiter.grant(wake_up);
    }
    EXPECT_TRUE(waiter.granted());
    EXPECT_TRUE(waiter.wait(Deadline(kForever), nullptr));
    EXPECT_TRUE(waiter.wait(Deadline(0ns), nullptr));
}

TEST(Waiter, TimesOutUngranted) {
    Waiter waiter;
    EXPECT_FALSE(waiter.wait(Deadline(0ns), nullptr));
    EXPECT_FALSE(waiter.wait(Deadline(1ms), nullptr));
    EXPECT_FALSE(waiter.granted());
}

TEST(Waiter, SeesWhatWasWrittenBeforeTheGrant) {
    for (int round = 0; round < 500; ++round) {
        Waiter waiter;
        int handed_over = 0;  // no atomic: the grant orders it, or ThreadSanitizer complains
        std::jthread granter([&] {
            handed_over = round + 1;
            WakeUp wake_up;
            waiter.grant(wake_up);
        });
        ASSERT_TRUE(waiter.wait(Deadline(kForever), nullptr));
        EXPECT_EQ(handed_over, round + 1);
    }
}

TEST(Waiter, GoesOnWaitingAfterASignal) {
    testing::InterruptingSignal signal;
    static std::atomic<int> hooks;
    hooks = 0;
    Waiter waiter;
    std::atomic<bool> granted{false};
    std::thread blocked([&] { granted = waiter.wait(Deadline(kForever), [] { ++hooks; }); });
    signal.interrupt_until(blocked, [] { return hooks >= 3; });
    EXPECT_FALSE(waiter.granted());
    {
        WakeUp wake_up;
        waiter.grant(wake_up);
    }
    blocked.join();
    EXPECT_TRUE(granted);
}

TEST(Waiter, AbandonsTheWaitWhenTheSignalHookThrows) {
    testing::InterruptingSignal signal;
    Waiter waiter;
    std::atomic<bool> thrown{false};
    std::thread blocked([&] {
        try {
            waiter.wait(Deadline(kForever), [] { throw testing::Interrupted(); });
        } catch (const testing::Interrupted&) {
            thrown = true;
        }
    });
    signal.interrupt_until(blocked, [&] { return thrown.load(); });
    blocked.join();
    EXPECT_FALSE(waiter.granted());
}

TEST(Waiter, WithoutAHookIgnoresSignalsAndKeepsItsDeadline) {
    testing::InterruptingSignal signal;
    Waiter waiter;
    std::atomic<bool> over{false};
    bool granted = true;
    std::thread blocked([&] {
        granted = waiter.wait(Deadline(20ms), nullptr);
        over = true;
    });
    signal.interrupt_until(blocked, [&] { return over.load(); });
    blocked.join();
    EXPECT_FALSE(granted);
}

TEST(ForkGuard, TellsTheChildFromTheParent) {
    const ForkGuard guard;
    EXPECT_FALSE(guard.forked());
    const pid_t child = fork();
    if (child == 0) {
        const ForkGuard own;
        _exit(guard.forked() && !own.forked() ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    EXPECT_FALSE(guard.forked());
}

}  // namespace
}  // namespace trtlab::core
