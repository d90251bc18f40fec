#include "trtlab/core/gate.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <optional>
#include <thread>
#include <vector>

#include "interruption.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;

TEST(Gate, CountsWhoIsInside) {
    Gate gate;
    EXPECT_TRUE(gate.enter());
    EXPECT_TRUE(gate.enter());
    EXPECT_EQ(gate.inside(), 2u);
    gate.leave();
    gate.leave();
    EXPECT_EQ(gate.inside(), 0u);
    EXPECT_FALSE(gate.is_shut());
}

TEST(Gate, LetsNobodyInOnceShutAndTellsWhoShutIt) {
    Gate gate;
    EXPECT_TRUE(gate.enter());
    EXPECT_TRUE(gate.shut());
    EXPECT_FALSE(gate.shut());
    EXPECT_TRUE(gate.is_shut());
    EXPECT_FALSE(gate.enter());
    EXPECT_EQ(gate.inside(), 1u);
    gate.leave();
    EXPECT_TRUE(gate.wait_empty());
}

TEST(Gate, WaitForItToEmptyIsTimed) {
    Gate gate;
    EXPECT_FALSE(gate.wait_empty(WaitOptions(0s)));  // empty, but open
    ASSERT_TRUE(gate.enter());
    gate.shut();
    EXPECT_FALSE(gate.wait_empty(WaitOptions(0s)));
    EXPECT_FALSE(gate.wait_empty(WaitOptions(2ms)));
    gate.leave();
    EXPECT_TRUE(gate.wait_empty(WaitOptions(0s)));
}

TEST(Gate, LastToLeaveWakesWhoWaits) {
    for (int round = 0; round < 300; ++round) {
        constexpr int kThreads = 3;
        std::optional<Gate> gate(std::in_place);
        int written[kThreads] = {};
        for (int i = 0; i < kThreads; ++i) ASSERT_TRUE(gate->enter());
        std::vector<std::jthread> threads;
        for (int i = 0; i < kThreads; ++i) {
            threads.emplace_back([&, i] {
                written[i] = 1;
                gate->leave();
            });
        }
        gate->shut();
        ASSERT_TRUE(gate->wait_empty());
        EXPECT_EQ(written[0] + written[1] + written[2], kThreads);  // visible without any other synchronisation
        gate.reset();                                               // allowed as soon as the wait is over
    }
}

TEST(Gate, ShuttingAnEmptyGateWakesWhoWaitedBefore) {
    for (int round = 0; round < 300; ++round) {
        Gate gate;
        std::latch started(2);
        std::jthread waiting([&] {
            started.arrive_and_wait();
            EXPECT_TRUE(gate.wait_empty());
        });
        started.arrive_and_wait();
        if (round % 2 == 0) std::this_thread::yield();
        gate.shut();
    }
}

TEST(Gate, ThoseWhoComeTooLateDoNotKeepItFromEmptying) {
    Gate gate;
    std::atomic<bool> stop{false};
    std::vector<std::jthread> late;
    for (int i = 0; i < 2; ++i) {
        late.emplace_back([&] {
            while (!stop) {
                if (gate.enter()) gate.leave();
            }
        });
    }
    gate.shut();
    EXPECT_TRUE(gate.wait_empty());
    stop = true;
    late.clear();
    EXPECT_EQ(gate.inside(), 0u);
}

TEST(Gate, SignalHookMayAbandonTheWait) {
    testing::InterruptingSignal signal;
    Gate gate;
    ASSERT_TRUE(gate.enter());
    gate.shut();
    std::atomic<bool> thrown{false};
    std::thread waiting([&] {
        try {
            (void)gate.wait_empty(WaitOptions(kForever, [] { throw testing::Interrupted(); }));
        } catch (const testing::Interrupted&) {
            thrown = true;
        }
    });
    signal.interrupt_until(waiting, [&] { return thrown.load(); });
    waiting.join();
    EXPECT_EQ(gate.inside(), 1u);
    gate.leave();
}

TEST(GateCompletion, IsKnownToItsThreadAndGateOnly) {
    Gate outer, inner, other;
    EXPECT_FALSE(outer.completing_on_this_thread());
    {
        const Gate::Completion first(outer);
        {
            const Gate::Completion second(inner);
            EXPECT_TRUE(outer.completing_on_this_thread());
            EXPECT_TRUE(inner.completing_on_this_thread());
            EXPECT_FALSE(other.completing_on_this_thread());
            std::jthread([&] { EXPECT_FALSE(outer.completing_on_this_thread()); });
        }
        EXPECT_FALSE(inner.completing_on_this_thread());
        EXPECT_TRUE(outer.completing_on_this_thread());
    }
    EXPECT_FALSE(outer.completing_on_this_thread());
}

}  // namespace
}  // namespace trtlab::core
