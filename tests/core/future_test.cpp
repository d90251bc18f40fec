#include "trtlab/core/future.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "interruption.hpp"
#include "log_capture.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;

std::exception_ptr failure(const char* message) { return std::make_exception_ptr(EngineError(message)); }

TEST(Future, GivesTheValueToEveryHandle) {
    Promise<std::string> promise;
    const Future<std::string> first = promise.future();
    const Future<std::string> second = first;
    EXPECT_FALSE(first.done());
    promise.set_value("answer");
    EXPECT_TRUE(second.done());
    EXPECT_EQ(first.get(), "answer");
    EXPECT_EQ(&first.get(), &second.get());
    EXPECT_EQ(first.error(), nullptr);
    EXPECT_FALSE(first.cancelled());
}

TEST(Future, ThrowsWhatTheProducerSet) {
    Promise<int> promise;
    const auto future = promise.future();
    promise.set_exception(failure("it broke"));
    EXPECT_TRUE(future.done());
    EXPECT_NE(future.error(), nullptr);
    for (int i = 0; i < 2; ++i) EXPECT_THROW((void)future.get(), EngineError);
}

TEST(Future, OfVoidIsDoneOrThrows) {
    Promise<void> fine, broken;
    fine.set_value();
    fine.future().get();
    broken.set_exception(failure("no"));
    EXPECT_THROW(broken.future().get(), EngineError);
}

TEST(Future, CarriesWhatCannotBeCopied) {
    Promise<std::unique_ptr<int>> promise;
    promise.set_value(std::make_unique<int>(3));
    EXPECT_EQ(*promise.future().get(), 3);
}

TEST(Future, FirstAnswerStands) {
    Promise<int> promise;
    promise.set_value(1);
    promise.set_value(2);
    promise.set_exception(failure("late"));
    EXPECT_EQ(promise.future().get(), 1);
    EXPECT_FALSE(promise.future().cancel());
}

TEST(Future, ValueWhoseConstructionThrowsFailsTheFuture) {
    struct Picky {
        explicit Picky(int value) {
            if (value == 0) throw InvalidArgument("not zero");
        }
    };
    Promise<Picky> promise;
    promise.set_value(0);
    EXPECT_THROW((void)promise.future().get(), InvalidArgument);
}

TEST(Future, DefaultOneIsInvalid) {
    EXPECT_FALSE(Future<int>().valid());
    EXPECT_TRUE(Promise<int>().future().valid());
}

TEST(Future, WaitIsTimedAndLeavesTheFutureUnharmed) {
    Promise<int> promise;
    const auto future = promise.future();
    EXPECT_FALSE(future.wait(0s));
    EXPECT_FALSE(future.wait(-1s));
    EXPECT_FALSE(future.wait(1us));
    EXPECT_FALSE(future.wait(2ms));
    EXPECT_THROW((void)future.get(1ms), Timeout);
    promise.set_value(5);
    EXPECT_TRUE(future.wait(0s));
    EXPECT_EQ(future.get(0s), 5);
}

TEST(Future, ExpectedSoonIsWaitedForAsAnyOther) {
    // A hint that comes true, one that does not, and one longer than the caller has time for.
    for (const auto expected : {0ns, -1ns, std::chrono::nanoseconds(1ms), std::chrono::nanoseconds(1h)}) {
        const auto state = make_ref<FutureState<int>>();
        state->expect_within(expected);
        const Future<int> future(state);
        EXPECT_FALSE(future.wait(0s));
        EXPECT_FALSE(future.wait(1ms));
        EXPECT_THROW((void)future.get(1ms), Timeout);
        std::jthread producer([&] { state->set_value(7); });
        EXPECT_EQ(future.get(), 7);
    }
}

TEST(Future, ExpectedSoonMayBeCancelledOrFail) {
    const auto cancelled = make_ref<FutureState<int>>(), failed = make_ref<FutureState<int>>();
    for (const auto& state : {cancelled, failed}) state->expect_within(1h);
    std::jthread producer([&] {
        Future<int>(cancelled).cancel();
        failed->set_exception(failure("it broke"));
    });
    EXPECT_THROW((void)Future<int>(cancelled).get(), Cancelled);
    EXPECT_THROW((void)Future<int>(failed).get(), EngineError);
}

TEST(Future, WakesEveryThreadThatWaits) {
    for (int round = 0; round < 100; ++round) {
        Promise<int> promise;
        std::vector<std::jthread> threads;
        std::atomic<int> sum{0};
        for (int i = 0; i < 3; ++i) {
            threads.emplace_back([&sum, future = promise.future()] { sum += future.get(); });
        }
        if (round % 2 == 0) std::this_thread::yield();
        promise.set_value(7);
        threads.clear();
        EXPECT_EQ(sum, 21);
    }
}

TEST(Future, IsCancelledOnlyBeforeItStarts) {
    Promise<int> early;
    const auto cancelled = early.future();
    EXPECT_TRUE(cancelled.cancel());
    EXPECT_TRUE(cancelled.cancelled());
    EXPECT_TRUE(cancelled.done());
    EXPECT_FALSE(cancelled.cancel());
    EXPECT_FALSE(early.try_start());
    early.set_value(1);  // no effect
    EXPECT_THROW((void)cancelled.get(), Cancelled);

    Promise<int> late;
    const auto started = late.future();
    EXPECT_TRUE(late.try_start());
    EXPECT_FALSE(late.try_start());
    EXPECT_TRUE(started.running());
    EXPECT_FALSE(started.cancel());
    late.set_value(2);
    EXPECT_FALSE(started.running());
    EXPECT_EQ(started.get(), 2);
}

TEST(Future, CancellingRunsCallbacksAndWakesWaiters) {
    Promise<int> promise;
    const auto future = promise.future();
    int calls = 0;
    future.on_ready([&] { ++calls; });
    std::jthread waiting([future] { EXPECT_THROW((void)future.get(), Cancelled); });
    EXPECT_TRUE(future.cancel());
    EXPECT_EQ(calls, 1);
}

TEST(Future, RunsCallbacksInOrderAndLateOnesAtOnce) {
    Promise<int> promise;
    const auto future = promise.future();
    std::vector<int> order;
    for (int i = 0; i < 5; ++i) future.on_ready([&order, i] { order.push_back(i); });
    EXPECT_TRUE(order.empty());
    promise.set_value(0);
    EXPECT_THAT(order, ::testing::ElementsAre(0, 1, 2, 3, 4));
    future.on_ready([&order] { order.push_back(5); });
    EXPECT_EQ(order.back(), 5);
}

TEST(Future, MayBeUsedFromItsOwnCallback) {
    Promise<int> promise;
    const auto future = promise.future();
    std::vector<int> seen;
    future.on_ready([&seen, future] {
        EXPECT_TRUE(future.done());
        EXPECT_TRUE(future.wait());
        EXPECT_FALSE(future.cancel());
        seen.push_back(future.get());
        future.on_ready([&seen] { seen.push_back(-1); });  // at once
        seen.push_back(-2);
    });
    future.on_ready([&seen] { seen.push_back(-3); });
    promise.set_value(4);
    EXPECT_THAT(seen, ::testing::ElementsAre(4, -1, -2, -3));
    EXPECT_EQ(future.state()->use_count(), 2u);  // the callback, and its share, are gone
}

TEST(Future, CallbackMayDropTheLastHandles) {
    auto promise = std::make_unique<Promise<int>>();
    auto future = std::make_unique<Future<int>>(promise->future());
    bool called = false;
    future->on_ready([&] {
        future.reset();
        called = true;
    });
    promise->set_value(1);
    EXPECT_TRUE(called);
}

TEST(Future, ExceptionInACallbackGoesToTheLogAndNoFurther) {
    testing::LogCapture log;
    Promise<int> promise;
    int after = 0;
    promise.future().on_ready([] { throw EngineError("a careless callback"); });
    promise.future().on_ready([&] { ++after; });
    promise.set_value(1);
    promise.future().on_ready([] { throw 1; });
    promise.future().on_ready({});  // an empty callback is as careless
    EXPECT_EQ(after, 1);
    ASSERT_EQ(log.messages().size(), 3u);
    EXPECT_THAT(log.messages()[0], ::testing::HasSubstr("a careless callback"));
    EXPECT_EQ(promise.future().get(), 1);
}

TEST(Future, SignalHookMayAbandonTheWait) {
    testing::InterruptingSignal signal;
    Promise<int> promise;
    std::atomic<bool> thrown{false};
    std::thread waiting([&, future = promise.future()] {
        try {
            (void)future.get(WaitOptions(kForever, [] { throw testing::Interrupted(); }));
        } catch (const testing::Interrupted&) {
            thrown = true;
        }
    });
    signal.interrupt_until(waiting, [&] { return thrown.load(); });
    waiting.join();
    promise.set_value(1);
    EXPECT_EQ(promise.future().get(), 1);
}

TEST(Future, SignalWithoutAHookEndsNoWait) {
    testing::InterruptingSignal signal;
    Promise<int> promise;
    std::atomic<int> value{0};
    static std::atomic<int> hooks;
    hooks = 0;
    std::thread waiting([&, future = promise.future()] { value = future.get(WaitOptions(kForever, [] { ++hooks; })); });
    signal.interrupt_until(waiting, [] { return hooks >= 2; });
    EXPECT_EQ(value, 0);
    promise.set_value(3);
    waiting.join();
    EXPECT_EQ(value, 3);
}

TEST(Promise, DroppedUnfulfilledFailsItsFuture) {
    Future<int> future;
    {
        Promise<int> promise;
        future = promise.future();
        EXPECT_TRUE(promise.try_start());
    }
    EXPECT_THROW((void)future.get(), Closed);
}

TEST(Promise, DroppedAfterItsFutureWasCancelledChangesNothing) {
    Future<int> future;
    {
        Promise<int> promise;
        future = promise.future();
        future.cancel();
    }
    EXPECT_THROW((void)future.get(), Cancelled);
}

TEST(Promise, FulfilPassesOnValuesAndExceptions) {
    Promise<int> value;
    value.fulfil([] { return 3; });
    EXPECT_EQ(value.future().get(), 3);
    Promise<int> error;
    error.fulfil([]() -> int { throw NotFound("here"); });
    EXPECT_THROW((void)error.future().get(), NotFound);
    Promise<void> nothing;
    nothing.fulfil([] {});
    EXPECT_TRUE(nothing.future().done());
}

struct RecycledState final : Recycled<RecycledState, FutureState<std::string>> {
    void recycle() noexcept {
        reset();
        value_.reset();
    }
};

TEST(FutureState, RecycledOneIsAsNew) {
    const auto states = make_ref<Recycler<RecycledState>>(std::size_t{1}, [] { return new RecycledState; });
    const void* address = nullptr;
    for (int round = 0; round < 6; ++round) {
        const auto state = states->take();
        if (round == 0) address = state.get();
        ASSERT_EQ(state.get(), address);
        const Future<std::string> future(state);
        EXPECT_FALSE(future.done());
        EXPECT_FALSE(future.running());
        EXPECT_FALSE(future.cancelled());
        EXPECT_EQ(state->error(), nullptr);
        int calls = 0;
        future.on_ready([&] { ++calls; });
        switch (round % 3) {
            case 0:
                EXPECT_TRUE(state->try_start());
                state->set_value("round " + std::to_string(round));
                EXPECT_EQ(future.get(), "round " + std::to_string(round));
                break;
            case 1:
                state->set_exception(failure("no"));
                EXPECT_THROW((void)future.get(), EngineError);
                break;
            default:
                EXPECT_TRUE(future.cancel());
                break;
        }
        EXPECT_EQ(calls, 1);
    }
}

TEST(FutureState, RecycledWithoutHavingBeenAnsweredForgetsItsCallbacks) {
    const auto states = make_ref<Recycler<RecycledState>>(std::size_t{1}, [] { return new RecycledState; });
    auto witness = std::make_shared<int>(0);
    states->take()->on_ready([witness] { ++*witness; });
    EXPECT_EQ(witness.use_count(), 1);
    const auto state = states->take();
    state->set_value("x");
    EXPECT_EQ(*witness, 0);
}

// What the predecessor's Dispatcher and async_compute lost: the caller saw "broken promise", whatever had happened.
TEST(PredecessorDefect6, TheRealCauseReachesTheCaller) {
    Promise<int> promise;
    const auto future = promise.future();
    std::jthread([promise = std::move(promise)]() mutable {
        promise.fulfil([]() -> int { throw EngineError("the real cause"); });
    });
    try {
        (void)future.get();
        FAIL();
    } catch (const EngineError& error) {
        EXPECT_STREQ(error.what(), "the real cause");
    }
}

// The same mistake as the predecessor's UniqueItem, in the other move-only owner of something that must not be lost.
TEST(PredecessorDefect14, MoveAssigningAPromiseFailsTheFutureThatItHeld) {
    Promise<int> first, second;
    const auto lost = first.future();
    const auto kept = second.future();
    first = std::move(second);
    EXPECT_THROW((void)lost.get(0s), Closed);
    EXPECT_FALSE(kept.done());
    auto& same = first;
    first = std::move(same);
    EXPECT_FALSE(kept.done());
    first.set_value(1);
    EXPECT_EQ(kept.get(0s), 1);
}

}  // namespace
}  // namespace trtlab::core
