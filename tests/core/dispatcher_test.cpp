#include "trtlab/core/dispatcher.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "held_batches.hpp"
#include "interruption.hpp"
#include "log_capture.hpp"
#include "refusal.hpp"
#include "trtlab/core/error.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::add;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::HeldBatches;
using testing::numbers_of;
using testing::succeed;
using testing::yield_until;

template <class E>
std::string failure(const Future<int>& future) {
    try {
        (void)future.get();
    } catch (const E& error) {
        return error.what();
    }
    return "";
}

TEST(Dispatcher, BeginsTheFirstBatchOnTheCallersThread) {
    std::thread::id ran_on;
    Dispatcher dispatcher({}, [&](Ref<Batch> batch) {
        ran_on = std::this_thread::get_id();
        succeed(*batch);
    });
    EXPECT_EQ(add(dispatcher, 21).get(0s), 42);
    EXPECT_EQ(ran_on, std::this_thread::get_id());
}

TEST(Dispatcher, JoinsWhatComesWhileABatchIsComputed) {
    HeldBatches engine;
    Dispatcher dispatcher({.batching = {.max_rows = 3}}, engine.run());
    std::vector<Future<int>> futures;
    for (int i = 0; i < 5; ++i) futures.push_back(add(dispatcher, i));
    auto batch = engine.take();
    EXPECT_THAT(numbers_of(*batch), ElementsAre(0));
    EXPECT_EQ(engine.held(), 0u);
    succeed(*batch);
    batch = engine.take();
    EXPECT_THAT(numbers_of(*batch), ElementsAre(1, 2, 3));
    EXPECT_EQ(batch->rows(), 3u);
    EXPECT_FALSE(futures[1].done());
    succeed(*batch);
    EXPECT_EQ(futures[3].get(0s), 6);
    succeed(*engine.take());
    EXPECT_EQ(futures[4].get(0s), 8);
    EXPECT_EQ(dispatcher.under_way(), 0u);
    const auto stats = dispatcher.stats();
    EXPECT_EQ(stats.batches, 3u);
    EXPECT_EQ(stats.items, 5u);
    EXPECT_EQ(stats.rows_histogram[0], 2u);
    EXPECT_EQ(stats.rows_histogram[2], 1u) << "3 to 4 rows";
}

TEST(Dispatcher, TellsEachItemWhereItsRowsBegin) {
    HeldBatches engine;
    Dispatcher dispatcher({.batching = {.max_rows = 8}}, engine.run());
    (void)add(dispatcher, 0);
    for (const std::size_t rows : {2u, 1u, 4u}) (void)add(dispatcher, 0, {.rows = rows});
    succeed(*engine.take());
    std::vector<std::size_t> first_rows;
    engine.take()->succeed([&](DispatchItem& item, std::size_t first_row) {
        first_rows.push_back(first_row);
        static_cast<testing::NumberItem&>(item).answer();
    });
    EXPECT_THAT(first_rows, ElementsAre(0u, 2u, 3u));
}

TEST(Dispatcher, ATimerEndsTheWaitForCompany) {
    HeldBatches engine;
    Dispatcher dispatcher({.batching = {.max_delay = 1ms, .hold_when_idle = true}}, engine.run());
    const auto future = add(dispatcher, 1);
    succeed(*engine.take());
    EXPECT_EQ(future.get(), 2);
}

TEST(Dispatcher, AnItemWhoseDeadlineIsOverFailsAtOnceWithTimeout) {
    HeldBatches engine;
    Dispatcher dispatcher({.name = "model 'm'"}, engine.run());
    const auto first = add(dispatcher, 1);
    const auto late = add(dispatcher, 2, {.deadline = 1ms});
    EXPECT_THAT(failure<Timeout>(late), HasSubstr("model 'm': the request's deadline was over"));
    EXPECT_FALSE(first.done());
    EXPECT_EQ(dispatcher.stats().expired, 1u);
    succeed(*engine.take());
}

TEST(Dispatcher, AnEarlierDeadlineWakesItEarlier) {
    HeldBatches engine;
    Dispatcher dispatcher({}, engine.run());
    (void)add(dispatcher, 1);
    const auto in_an_hour = add(dispatcher, 2, {.deadline = 1h});
    const auto soon = add(dispatcher, 3, {.deadline = 1ms});
    EXPECT_THROW((void)soon.get(), Timeout);
    EXPECT_FALSE(in_an_hour.done());
    succeed(*engine.take());
    succeed(*engine.take());
}

TEST(Dispatcher, DispatchersMayShareTheirTimers) {
    const auto timers = std::make_shared<TimerQueue>();
    HeldBatches engine;
    {
        Dispatcher a({.batching = {.max_delay = 1ms, .hold_when_idle = true}, .timers = timers}, engine.run());
        Dispatcher b({.batching = {.max_delay = 1h, .hold_when_idle = true}, .timers = timers}, engine.run());
        const auto one = add(a, 1);
        const auto two = add(b, 2);
        succeed(*engine.take());
        EXPECT_EQ(one.get(), 2);
        EXPECT_FALSE(two.done());
        EXPECT_EQ(timers->stats().pending, 1u);
    }
    EXPECT_EQ(timers->stats().pending, 0u) << "what is gone left a timer behind";
}

TEST(Dispatcher, WithoutATimerNothingIsHeld) {
    const testing::LogCapture log;
    const auto timers = std::make_shared<TimerQueue>();
    timers->close();
    HeldBatches engine;
    Dispatcher dispatcher({.batching = {.max_delay = 1h, .hold_when_idle = true}, .timers = timers}, engine.run());
    const auto future = add(dispatcher, 1);
    succeed(*engine.take());
    EXPECT_EQ(future.get(0s), 2);
}

TEST(Dispatcher, ACancelledItemIsNotComputed) {
    HeldBatches engine;
    Dispatcher dispatcher({}, engine.run());
    (void)add(dispatcher, 0);
    std::vector<Future<int>> futures;
    for (int i = 1; i < 4; ++i) futures.push_back(add(dispatcher, i));
    EXPECT_TRUE(futures[1].cancel());
    succeed(*engine.take());
    const auto batch = engine.take();
    EXPECT_THAT(numbers_of(*batch), ElementsAre(1, 3));
    EXPECT_FALSE(futures[0].cancel()) << "it is being computed";
    succeed(*batch);
    EXPECT_EQ(dispatcher.under_way(), 0u);
}

// --- errors -------------------------------------------------------------------------------------------------------

TEST(PredecessorDefect6, TheRealCauseArrivesNotABrokenPromise) {
    Dispatcher dispatcher({}, [](Ref<Batch>) { throw std::runtime_error("the real cause"); });
    EXPECT_EQ(failure<std::runtime_error>(add(dispatcher, 1)), "the real cause");
}

TEST(PredecessorDefect6, SoItDoesFromABatchOfSeveral) {
    HeldBatches engine;
    Dispatcher dispatcher({.batching = {.max_rows = 4}}, engine.run());
    (void)add(dispatcher, 0);
    std::vector<Future<int>> futures;
    for (int i = 1; i < 4; ++i) futures.push_back(add(dispatcher, i));
    succeed(*engine.take());
    engine.take()->fail(std::make_exception_ptr(std::runtime_error("of the batch")));
    for (int i = 1; i < 4; ++i) {
        const auto alone = engine.take();
        EXPECT_THAT(numbers_of(*alone), ElementsAre(i));
        if (i == 2) {
            alone->fail(std::make_exception_ptr(std::runtime_error("2 is bad")));
        } else {
            succeed(*alone);
        }
    }
    EXPECT_EQ(futures[0].get(0s), 2);
    EXPECT_EQ(failure<std::runtime_error>(futures[1]), "2 is bad");
    EXPECT_EQ(futures[2].get(0s), 6);
    EXPECT_EQ(dispatcher.stats().isolated, 3u);
    EXPECT_EQ(dispatcher.under_way(), 0u);
}

TEST(Dispatcher, WhatWouldBeInVainIsNotTriedAgain) {
    HeldBatches engine;
    Dispatcher dispatcher({}, engine.run());
    const auto failed_with = [&](std::exception_ptr error, Batch::Isolate isolate = Batch::Isolate::yes) {
        (void)add(dispatcher, 0);
        const auto a = add(dispatcher, 1), b = add(dispatcher, 2);
        succeed(*engine.take());
        engine.take()->fail(std::move(error), isolate);
        return a.done() && b.done() && a.error() && a.error() == b.error();
    };
    EXPECT_TRUE(failed_with(std::make_exception_ptr(Closed("closed"))));
    EXPECT_TRUE(failed_with(std::make_exception_ptr(Cancelled("cancelled"))));
    EXPECT_TRUE(failed_with(std::make_exception_ptr(Overloaded("full"))));
    EXPECT_TRUE(failed_with(std::make_exception_ptr(CudaError("lost", 719, true))));
    EXPECT_TRUE(failed_with(std::make_exception_ptr(EngineError("misfit")), Batch::Isolate::no));
    EXPECT_FALSE(failed_with(std::make_exception_ptr(CudaError("busy", 1, false))));
    succeed(*engine.take());
    succeed(*engine.take());
}

TEST(Dispatcher, ADroppedBatchFailsItsItems) {
    HeldBatches engine;
    Dispatcher dispatcher({.name = "model 'm'"}, engine.run());
    const auto future = add(dispatcher, 1);
    engine.take();
    EXPECT_THAT(failure<Closed>(future), HasSubstr("model 'm' dropped a batch"));
    EXPECT_EQ(dispatcher.under_way(), 0u);
    EXPECT_EQ(dispatcher.stats().in_flight, 0u);
}

TEST(Dispatcher, RefusesWhatCannotWork) {
    const auto run = [](Ref<Batch> batch) { succeed(*batch); };
    EXPECT_THAT(testing::refusal([&] { Dispatcher d({.max_queue = 0}, run); }), HasSubstr("max_queue is 0"));
    EXPECT_THAT(testing::refusal([&] { Dispatcher d({}, nullptr); }), HasSubstr("no function"));
    Dispatcher dispatcher({}, run);
    EXPECT_THAT(testing::refusal([&] { (void)add(dispatcher, 1, {.priority = 1}); }), HasSubstr("priority 1"));
    EXPECT_EQ(dispatcher.under_way(), 0u);
}

// --- a full queue -------------------------------------------------------------------------------------------------

TEST(Dispatcher, AFullQueueRefusesThoseWhoDoNotWait) {
    HeldBatches engine;
    Dispatcher dispatcher({.max_queue = 2, .name = "model 'm'"}, engine.run());
    for (int i = 0; i < 3; ++i) (void)add(dispatcher, i);
    try {
        (void)add(dispatcher, 3, {.wait = 0s});
        FAIL();
    } catch (const Overloaded& error) {
        EXPECT_THAT(error.what(), HasSubstr("model 'm': 2 requests wait"));
    }
    EXPECT_THROW((void)add(dispatcher, 3, {.wait = 1ms}), Overloaded);
    EXPECT_EQ(dispatcher.stats().overloaded, 2u);
    EXPECT_EQ(dispatcher.under_way(), 3u);
    succeed(*engine.take());
    succeed(*engine.take());
}

TEST(Dispatcher, RoomIsHandedToWhoWaitsLongest) {
    HeldBatches engine;
    Dispatcher dispatcher({.batching = {.max_rows = 1}, .max_queue = 1}, engine.run());
    (void)add(dispatcher, 0);
    (void)add(dispatcher, 1);
    std::vector<std::jthread> callers;
    for (int i = 2; i < 5; ++i) {
        callers.emplace_back([&, i] { EXPECT_EQ(add(dispatcher, i).get(), 2 * i); });
        yield_until([&] { return dispatcher.stats().blocked_callers == static_cast<std::size_t>(i - 1); });
    }
    for (int i = 0; i < 5; ++i) {
        const auto batch = engine.take();
        EXPECT_THAT(numbers_of(*batch), ElementsAre(i));
        succeed(*batch);
    }
}

TEST(Dispatcher, ACancelledItemMakesRoom) {
    HeldBatches engine;
    Dispatcher dispatcher({.max_queue = 1}, engine.run());
    (void)add(dispatcher, 0);
    EXPECT_TRUE(add(dispatcher, 1).cancel());
    (void)add(dispatcher, 2, {.wait = 0s});
    succeed(*engine.take());
    EXPECT_THAT(numbers_of(*engine.take()), ElementsAre(2));
}

TEST(Dispatcher, AWaitForRoomCanBeInterrupted) {
    testing::InterruptingSignal signal;
    HeldBatches engine;
    Dispatcher dispatcher({.max_queue = 1}, engine.run());
    (void)add(dispatcher, 0);
    (void)add(dispatcher, 1);
    std::atomic<bool> interrupted{false};
    std::thread caller([&] {
        try {
            (void)add(dispatcher, 2, {.wait = {kForever, [] { throw testing::Interrupted(); }}});
        } catch (const testing::Interrupted&) {
            interrupted = true;
        }
    });
    signal.interrupt_until(caller, [&] { return interrupted.load(); });
    caller.join();
    EXPECT_EQ(dispatcher.under_way(), 2u);
    succeed(*engine.take());
    succeed(*engine.take());
}

// --- costs --------------------------------------------------------------------------------------------------------

TEST(Dispatcher, BatchesThatEndAtOnceAndAskAgainDoNotGrowTheStack) {
    int left = 100'000;
    Dispatcher* again = nullptr;
    Dispatcher dispatcher({}, [&](Ref<Batch> batch) {
        succeed(*batch);
        if (--left > 0) (void)add(*again, 1);
    });
    again = &dispatcher;
    (void)add(dispatcher, 1);
    EXPECT_EQ(left, 0);
}

}  // namespace
}  // namespace trtlab::core
