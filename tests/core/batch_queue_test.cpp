#include "trtlab/core/batch_queue.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fake_clock_items.hpp"
#include "refusal.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::FakeClockQueue;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::refusal;
constexpr auto kNever = BatchQueue::kNever;

// --- when ---------------------------------------------------------------------------------------------------------

TEST(BatchQueue, ALoneItemGoesAtOnceWhenNothingIsInFlight) {
    FakeClockQueue q({.max_delay = 1s});
    q.add();
    EXPECT_THAT(q.next(), ElementsAre(0));
    EXPECT_EQ(q.queue.size(), 0u);
    EXPECT_EQ(q.queue.wake_at(), kNever);
}

TEST(BatchQueue, WhatGathersWhileTheSlotIsTakenGoesTogether) {
    FakeClockQueue q({.max_rows = 4});
    q.add(6);
    EXPECT_THAT(q.next(1), IsEmpty());
    EXPECT_EQ(q.queue.wake_at(), kNever);
    EXPECT_THAT(q.next(), ElementsAre(0, 1, 2, 3));
    EXPECT_THAT(q.next(), ElementsAre(4, 5));
    EXPECT_THAT(q.next(), IsEmpty());
}

TEST(BatchQueue, BesideABatchInFlightItemsAreHeldForCompanyUntilTheDelayIsOver) {
    FakeClockQueue q({.max_rows = 4, .max_in_flight = 2, .max_delay = 10ms});
    q.add(2);
    EXPECT_THAT(q.next(1), IsEmpty());
    EXPECT_EQ(q.queue.wake_at(), q.now + 10ms);
    q.now += 9ms;
    q.add();
    EXPECT_THAT(q.next(1), IsEmpty());
    EXPECT_EQ(q.queue.wake_at(), q.now + 1ms);
    q.now += 1ms;
    EXPECT_THAT(q.next(1), ElementsAre(0, 1, 2));
}

TEST(BatchQueue, AFullBatchIsNotHeld) {
    FakeClockQueue q({.max_rows = 4, .max_in_flight = 2, .max_delay = 10ms});
    q.add(3);
    EXPECT_THAT(q.next(1), IsEmpty());
    q.add(2);
    EXPECT_THAT(q.next(1), ElementsAre(0, 1, 2, 3));
    EXPECT_THAT(q.next(1), IsEmpty());
    EXPECT_THAT(q.next(2), IsEmpty());
    EXPECT_THAT(q.next(0), ElementsAre(4));
}

TEST(BatchQueue, AnIdleEngineMayBeHeldToo) {
    FakeClockQueue q({.max_rows = 4, .max_delay = 10ms, .hold_when_idle = true});
    q.add();
    EXPECT_THAT(q.next(), IsEmpty());
    EXPECT_EQ(q.queue.wake_at(), q.now + 10ms);
    q.now += 10ms;
    EXPECT_THAT(q.next(), ElementsAre(0));
}

TEST(BatchQueue, FlushedItHoldsNothing) {
    FakeClockQueue q({.max_in_flight = 2, .max_delay = 1h, .hold_when_idle = true});
    q.add(2);
    EXPECT_THAT(q.next(), IsEmpty());
    q.queue.flush();
    EXPECT_THAT(q.next(1), ElementsAre(0, 1));
}

TEST(BatchQueue, ItemsAreHeldNoLongerThanADeadlineAllows) {
    FakeClockQueue q({.max_in_flight = 2, .max_delay = 1s, .deadline_slack = 5ms});
    q.teach(10ms, 1ms);
    q.add({.within = 100ms});
    EXPECT_THAT(q.next(1), IsEmpty());
    const auto wake = q.queue.wake_at();
    EXPECT_GT(wake, q.now + 75ms);
    EXPECT_LT(wake, q.now + 100ms - 5ms - 11ms + 1us);
    q.now = wake;
    EXPECT_THAT(q.next(1), ElementsAre(0));
}

// --- who ----------------------------------------------------------------------------------------------------------

TEST(BatchQueue, KindsAreNotMixedAndTheOneThatWaitsLongestIsFirst) {
    FakeClockQueue q({});
    q.add({.key = 1});
    q.now += 1ms;
    q.add({.key = 2});
    q.add({.key = 1});
    EXPECT_EQ(q.queue.kinds(), 2u);
    EXPECT_THAT(q.next(), ElementsAre(0, 2));
    EXPECT_THAT(q.next(), ElementsAre(1));
    EXPECT_EQ(q.queue.kinds(), 0u);
}

TEST(BatchQueue, ItemsOfEqualKeysAreComparedBeforeTheyAreJoined) {
    FakeClockQueue q({});
    q.items.resize(4);
    for (std::size_t i = 0; i < 4; ++i) {
        q.items[i].id = static_cast<int>(i);
        q.items[i].shape = static_cast<int>(i % 2);
        q.queue.add(q.items[i], q.now);
    }
    EXPECT_THAT(q.next(), ElementsAre(0, 2));
    EXPECT_THAT(q.next(), ElementsAre(1, 3));
}

TEST(BatchQueue, AnItemThatDoesNotFitIsNotOvertaken) {
    FakeClockQueue q({.max_rows = 8});
    for (const std::size_t rows : {5, 5, 3}) q.add({.rows = rows});
    EXPECT_THAT(q.next(), ElementsAre(0));
    EXPECT_THAT(q.next(), ElementsAre(1, 2));
}

TEST(BatchQueue, ItemsThatAreTooLargeOrSoloAreBatchesOfTheirOwn) {
    FakeClockQueue q({.max_rows = 4, .max_in_flight = 2, .max_delay = 1s});
    q.add({.rows = 9});
    q.add({.solo = true});
    q.add();
    EXPECT_THAT(q.next(), ElementsAre(0));
    EXPECT_THAT(q.next(1), ElementsAre(1)) << "held for company that it can't have";
    EXPECT_THAT(q.next(), ElementsAre(2));
}

TEST(BatchQueue, MoreUrgentItemsGoFirstAndLessUrgentOnesFillTheBatch) {
    FakeClockQueue q({.max_rows = 3, .priorities = 2});
    q.add({.priority = 1});
    q.add({.priority = 1});
    q.add({.priority = 0});
    q.add({.priority = 0});
    EXPECT_THAT(q.next(), ElementsAre(2, 3, 0));
    EXPECT_THAT(q.next(), ElementsAre(1));
}

TEST(BatchQueue, LessUrgentItemsDoNotStarve) {
    FakeClockQueue q({.max_rows = 1, .priorities = 3, .priority_step = 10ms});
    q.add({.priority = 2});
    for (int ms = 0;; ++ms) {
        ASSERT_LE(ms, 21);
        q.add({.priority = 0});
        if (q.next() == std::vector<int>{0}) break;
        q.now += 1ms;
    }
    EXPECT_GT(q.now.time_since_epoch(), 1h + 19ms);
}

TEST(BatchQueue, CancelledItemsTakeNoRoom) {
    FakeClockQueue q({.max_rows = 2});
    q.add(4);
    q.items[0].is_wanted = q.items[2].is_wanted = false;
    const auto turn = q.queue.next(q.now, 0);
    EXPECT_THAT(FakeClockQueue::ids(turn.batch), ElementsAre(1, 3));
    EXPECT_THAT(FakeClockQueue::ids(turn.unwanted), ElementsAre(0, 2));
    EXPECT_EQ(turn.rows, 2u);
}

TEST(BatchQueue, CancelledItemsCanBeTakenOutBeforeTheirTurn) {
    FakeClockQueue q({});
    q.add(3);
    EXPECT_EQ(q.queue.remove_unwanted(), nullptr);
    q.items[1].is_wanted = false;
    EXPECT_EQ(q.queue.remove_unwanted(), &q.items[1]);
    EXPECT_THAT(q.next(), ElementsAre(0, 2));
}

TEST(BatchQueue, ItemsOfABatchThatFailedGoFirstAndAlone) {
    FakeClockQueue q({});
    q.add({.within = 1ms});
    q.add();
    (void)q.queue.next(q.now, 0);
    q.add();
    q.queue.add_alone(q.items[0]);
    q.queue.add_alone(q.items[1]);
    q.now += 1s;  // not expired: the batch was in time
    EXPECT_THAT(q.next(), ElementsAre(0));
    EXPECT_THAT(q.next(), ElementsAre(1));
    EXPECT_THAT(q.next(), ElementsAre(2));
    EXPECT_EQ(q.queue.rows(), 0u);
}

// --- deadlines ----------------------------------------------------------------------------------------------------

TEST(BatchQueue, AnItemWhoseDeadlineIsOverExpiresWhateverIsInFlight) {
    FakeClockQueue q({});
    q.add({.within = 20ms});
    q.add({.within = 10ms});
    q.add();
    EXPECT_THAT(q.next(1), IsEmpty());
    EXPECT_EQ(q.queue.wake_at(), q.now + 10ms);
    q.now += 10ms;
    const auto turn = q.queue.next(q.now, 1);
    EXPECT_THAT(FakeClockQueue::ids(turn.expired), ElementsAre(1));
    EXPECT_EQ(q.queue.wake_at(), q.now + 10ms);
    EXPECT_THAT(q.next(), ElementsAre(0, 2));
}

TEST(BatchQueue, ABatchIsAsLargeAsItsDeadlinesAllow) {
    FakeClockQueue q({.max_rows = 8});
    q.teach(10ms, 10ms);
    for (int i = 0; i < 3; ++i) q.add({.within = 45ms});
    EXPECT_THAT(q.next(), ElementsAre(0, 1, 2));
    for (int i = 0; i < 5; ++i) q.add({.within = 45ms});
    EXPECT_THAT(q.next(), ElementsAre(3, 4, 5)) << "four would take 50 ms";
}

TEST(BatchQueue, OneThatCannotBeSavedDoesNotMakeManyLate) {
    FakeClockQueue q({.max_rows = 8});
    q.teach(10ms, 10ms);
    q.add({.within = 35ms});
    for (int i = 0; i < 6; ++i) q.add({.within = 95ms});
    EXPECT_THAT(q.next(), ElementsAre(1, 2, 3, 4, 5, 6));
    EXPECT_THAT(q.next(), ElementsAre(0)) << "still in time";
}

TEST(BatchQueue, WhoWillBeLateAnywayGoesWhenNobodyElseIsThere) {
    FakeClockQueue q({.max_rows = 8, .max_in_flight = 2});
    q.teach(10ms, 10ms);
    q.add({.within = 5ms});
    q.add({.within = 5ms});
    EXPECT_THAT(q.next(1), IsEmpty()) << "only with nothing in flight";
    EXPECT_EQ(q.queue.wake_at(), q.now + 5ms);
    q.add();
    EXPECT_THAT(q.next(), ElementsAre(2));
    EXPECT_THAT(q.next(), ElementsAre(0));
    q.now += 5ms;
    EXPECT_THAT(FakeClockQueue::ids(q.queue.next(q.now, 0).expired), ElementsAre(1));
}

TEST(BatchQueue, AnEstimateThatIsFarTooLongCorrectsItself) {
    FakeClockQueue q({.max_rows = 8});
    q.teach(1s, 1s);
    std::size_t largest = 0;
    for (int round = 0; round < 300; ++round) {
        q.add({.within = 50ms});
        while (q.queue.size() < 8) q.add({.within = 50ms});
        const auto turn = q.queue.next(q.now, 0);
        largest = std::max(largest, turn.rows);
        q.queue.completed(turn.rows, 1ms + 1ms * turn.rows);
        q.now += 1ms + 1ms * turn.rows;
    }
    EXPECT_EQ(largest, 8u);
}

TEST(BatchQueue, ItemsWithoutADeadlineAreNotPassedOver) {
    FakeClockQueue q({.max_rows = 4});
    q.teach(10ms, 10ms);
    q.add();
    for (int i = 0; i < 8; ++i) q.add({.within = 60ms});
    EXPECT_THAT(q.next(), ElementsAre(0, 1, 2, 3));
}

// --- what it refuses ----------------------------------------------------------------------------------------------

TEST(BatchQueue, RefusesWhatCannotWork) {
    EXPECT_THAT(refusal([] { BatchQueue queue({.max_rows = 0}); }), HasSubstr("max_rows is 0"));
    EXPECT_THAT(refusal([] { BatchQueue queue({.max_in_flight = 0}); }), HasSubstr("max_in_flight is 0"));
    EXPECT_THAT(refusal([] { BatchQueue queue({.priorities = 65}); }), HasSubstr("1 to 64"));
    EXPECT_THAT(refusal([] { BatchQueue queue({.max_delay = -1ns}); }), HasSubstr("max_delay is negative"));
    FakeClockQueue q({.priorities = 2});
    EXPECT_THAT(refusal([&] { q.add({.priority = 2}); }), HasSubstr("0 to 1"));
    EXPECT_THAT(refusal([&] { q.add({.rows = 0}); }), HasSubstr("0 rows"));
    EXPECT_EQ(q.queue.size(), 0u);
}

TEST(BatchQueue, TimesBeyondTheClockAreNever) {
    constexpr auto kLongest = std::chrono::nanoseconds::max();
    FakeClockQueue q({.max_in_flight = 2, .max_delay = kLongest, .priorities = 3, .priority_step = kLongest});
    q.add({.priority = 2});
    q.add({.priority = 1});
    q.add({.priority = 0, .within = 1h});
    EXPECT_THAT(q.next(1), IsEmpty());
    EXPECT_EQ(q.queue.wake_at(), q.now + 1h);
    EXPECT_EQ(q.next().front(), 2);
}

}  // namespace
}  // namespace trtlab::core
