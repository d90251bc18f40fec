#include "trtlab/core/budget.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "fake_engine.hpp"
#include "interruption.hpp"
#include "trtlab/core/error.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::FakeEngine;
using testing::FakeJob;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::yield_until;

struct Budget : ::testing::Test {
    void make(const ExecutionBudget::Options& options) { budget.emplace(options); }
    FakeJob& job(int id) { return jobs.emplace_back(*budget, engine, id); }
    void expect_idle() {
        EXPECT_EQ(budget->stats().executing, 0u);
        EXPECT_EQ(budget->stats().buffers_in_use, 0u);
        EXPECT_EQ(budget->stats().queued, 0u);
        EXPECT_EQ(budget->stats().blocked_callers, 0u);
    }

    FakeEngine engine;
    std::optional<ExecutionBudget> budget;
    std::deque<FakeJob> jobs;
    int owners[3] = {};
};

TEST_F(Budget, RefusesLimitsUnderWhichNothingCouldRun) {
    EXPECT_THROW(make({.max_executions = 0}), InvalidArgument);
    EXPECT_THROW(make({.max_executions = 3, .max_buffers = 2}), InvalidArgument);
    EXPECT_THROW(make({.max_executions = SIZE_MAX}), InvalidArgument);
    make({.max_executions = 3});
    EXPECT_EQ(budget->options().max_buffers, 6u);
}

TEST_F(Budget, LaunchesJobsOfAllOwnersInOrderOfAdmission) {
    make({.max_executions = 1, .max_buffers = 1});
    for (int i = 0; i < 6; ++i) job(i).admit(&owners[i % 2]);
    EXPECT_THAT(engine.launched(), ElementsAre(0));
    EXPECT_EQ(budget->stats().queued, 5u);
    for (FakeJob& job : jobs) job.finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1, 2, 3, 4, 5));
    EXPECT_EQ(budget->stats().admitted, 6u);
    expect_idle();
}

TEST_F(Budget, BuffersBeyondTheTokensLetTheNextJobStageWhileOneExecutes) {
    make({.max_executions = 1, .max_buffers = 2});
    for (int i = 0; i < 3; ++i) job(i).admit();
    EXPECT_THAT(engine.staged(), ElementsAre(0, 1));
    EXPECT_THAT(engine.launched(), ElementsAre(0));
    jobs[0].finish_execution();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1));
    EXPECT_THAT(engine.staged(), ElementsAre(0, 1));  // job 0's answer still holds its buffer
    jobs[0].finish_buffer();
    EXPECT_THAT(engine.staged(), ElementsAre(0, 1, 2));
    jobs[1].finish();
    jobs[2].finish();
    expect_idle();
}

TEST_F(Budget, StagedJobsAreLaunchedInOrderOfAdmissionEvenIfAnEarlierOneTookLongerToStage) {
    make({.max_executions = 1, .max_buffers = 3});
    job(0).admit();
    job(1).on_stage = [&] { job(2).admit(); };  // comes in while 1 is being staged
    jobs[1].admit();
    EXPECT_THAT(engine.staged(), ElementsAre(0, 1, 2));
    for (int i = 0; i < 3; ++i) jobs[static_cast<std::size_t>(i)].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1, 2));
}

TEST_F(Budget, WithoutAQueueOnlyAFreeBufferAdmits) {
    make({.max_executions = 1, .max_buffers = 2, .max_queue = 0});
    job(0).admit();
    job(1).admit();
    EXPECT_THROW(job(2).admit(), Overloaded);
    jobs[0].finish();
    jobs[2].admit();
    EXPECT_EQ(budget->stats().overloaded, 1u);
    jobs[1].finish();
    jobs[2].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1, 2));
    expect_idle();
}

TEST_F(Budget, WithoutAQueueBlockedCallersGetTheBuffersThatComeBack) {
    make({.max_executions = 2, .max_buffers = 2, .max_queue = 0});
    for (int i = 0; i < 5; ++i) job(i);
    jobs[0].admit();
    jobs[1].admit();
    std::vector<std::jthread> callers;
    for (std::size_t i = 2; i < 5; ++i) {
        callers.emplace_back([this, i] { jobs[i].admit(nullptr, kForever); });
        yield_until([&] { return budget->stats().blocked_callers == i - 1; });
    }
    // Two buffers come back before anybody pumps.
    (void)budget->give_back_both();
    if (budget->give_back_both()) budget->pump();
    callers[0].join();
    callers[1].join();
    EXPECT_EQ(budget->stats().blocked_callers, 1u);
    jobs[2].finish();
    jobs[3].finish();
    callers[2].join();
    jobs[4].finish();
    EXPECT_THAT(engine.staged(), ::testing::UnorderedElementsAre(0, 1, 2, 3, 4));  // some on two threads at a time
    expect_idle();
}

TEST_F(Budget, JobOfAShutOwnerNeitherComesInNorWaits) {
    make({.max_executions = 1, .max_buffers = 1, .max_queue = 1});
    bool shut = false;
    for (int i = 0; i < 3; ++i) {
        job(i).on_check_open = [&] {
            if (shut) throw Closed("the owner is closed");
        };
    }
    jobs[0].admit();
    shut = true;
    EXPECT_THROW(jobs[1].admit(nullptr, kForever), Closed);  // where there is room
    shut = false;
    jobs[1].admit();
    shut = true;
    EXPECT_THROW(jobs[2].admit(nullptr, kForever), Closed);  // where it would wait for it
    shut = false;
    jobs[0].finish();
    jobs[2].admit();
    jobs[1].finish();
    jobs[2].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1, 2));
    expect_idle();
}

TEST_F(Budget, FullQueueIsRefusedByNameWithItsLimitsAndTheJobIsUntouched) {
    make({.max_executions = 1, .max_buffers = 1, .max_queue = 1});
    for (int i = 0; i < 2; ++i) job(i).admit();
    FakeJob& refused = job(2);
    try {
        refused.admit();
        FAIL();
    } catch (const Overloaded& error) {
        EXPECT_THAT(error.what(), HasSubstr("model 'fake': 1 requests execute, 1 hold buffers and 1 wait"));
        EXPECT_THAT(error.what(), HasSubstr("max_queue"));
    }
    EXPECT_THROW(refused.admit(nullptr, 2ms), Overloaded);
    EXPECT_EQ(budget->stats().overloaded, 2u);
    EXPECT_EQ(budget->stats().blocked_callers, 0u);
    jobs[0].finish();
    jobs[1].finish();
    EXPECT_EQ(refused.ends, 0);
    EXPECT_THAT(engine.staged(), ElementsAre(0, 1));
    refused.admit();
    refused.finish();
}

TEST_F(Budget, BlockedCallersAreAdmittedInOrderOfArrival) {
    make({.max_executions = 1, .max_buffers = 1, .max_queue = 1});
    for (int i = 0; i < 6; ++i) job(i);
    jobs[0].admit();
    jobs[1].admit();
    std::vector<std::jthread> callers;
    for (std::size_t i = 2; i < 6; ++i) {
        callers.emplace_back([this, i] { jobs[i].admit(&owners[i % 3], kForever); });
        yield_until([&] { return budget->stats().blocked_callers == i - 1; });
    }
    for (std::size_t i = 0; i < 6; ++i) {
        yield_until([&] { return engine.launched().size() == i + 1; });
        EXPECT_EQ(engine.launched().back(), static_cast<int>(i));
        jobs[i].finish();
    }
    callers.clear();
    expect_idle();
}

TEST_F(Budget, CancelledJobIsDiscardedInsteadOfStaged) {
    make({.max_executions = 1, .max_buffers = 1});
    for (int i = 0; i < 3; ++i) job(i).admit();
    jobs[1].is_wanted = false;
    jobs[0].finish();
    EXPECT_THAT(engine.staged(), ElementsAre(0, 2));
    EXPECT_THAT(engine.discarded(), ElementsAre(1));
    jobs[2].finish();
    expect_idle();
}

TEST_F(Budget, CancelledJobMakesRoomInAFullQueueForANewcomer) {
    make({.max_executions = 1, .max_buffers = 1, .max_queue = 2});
    for (int i = 0; i < 3; ++i) job(i).admit();
    jobs[1].is_wanted = false;
    jobs[2].is_wanted = false;
    job(3).admit();
    EXPECT_THAT(engine.discarded(), ElementsAre(1));
    job(4).admit();
    EXPECT_THAT(engine.discarded(), ElementsAre(1, 2));
    EXPECT_THROW(job(5).admit(), Overloaded);
    for (std::size_t i : {0, 3, 4}) jobs[i].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 3, 4));
    expect_idle();
}

TEST_F(Budget, JobWhoseStageThrowsIsAbandonedWithThatAndGivesEverythingBack) {
    make({.max_executions = 1, .max_buffers = 1});
    const auto throws = [] { throw std::runtime_error("cannot stage"); };
    job(0).on_stage = throws;  // straight through
    jobs[0].admit();
    job(1).admit();
    job(2).on_stage = throws;  // out of the queue
    jobs[2].admit();
    job(3).admit();
    EXPECT_EQ(jobs[0].ends, 1);
    EXPECT_THROW(std::rethrow_exception(jobs[0].error), std::runtime_error);
    jobs[1].finish();
    EXPECT_THAT(engine.abandoned(), ElementsAre(0, 2));
    EXPECT_THAT(engine.launched(), ElementsAre(1, 3));
    jobs[3].finish();
    expect_idle();
}

TEST_F(Budget, JobWhoseLaunchThrowsIsAbandonedWithThatAndGivesEverythingBack) {
    make({.max_executions = 1, .max_buffers = 2});
    const auto throws = [] { throw EngineError("cannot launch"); };
    job(0).on_launch = throws;
    jobs[0].admit();
    job(1).admit();
    job(2).on_launch = throws;
    jobs[2].admit();
    job(3).admit();
    jobs[1].finish();
    EXPECT_THAT(engine.abandoned(), ElementsAre(0, 2));
    EXPECT_THROW(std::rethrow_exception(jobs[2].error), EngineError);
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1, 2, 3));
    jobs[3].finish();
    expect_idle();
}

TEST_F(Budget, RefusingWithDrainWakesTheOwnersCallersAndLetsItsJobsRun) {
    make({.max_executions = 1, .max_buffers = 1, .max_queue = 1});
    for (int i = 0; i < 4; ++i) job(i);
    jobs[0].admit(&owners[0]);
    jobs[1].admit(&owners[0]);
    std::jthread refused([&] { EXPECT_THROW(jobs[2].admit(&owners[0], kForever), Closed); });
    yield_until([&] { return budget->stats().blocked_callers == 1; });
    std::jthread other([&] { jobs[3].admit(&owners[1], kForever); });
    yield_until([&] { return budget->stats().blocked_callers == 2; });
    budget->refuse(&owners[0], std::make_exception_ptr(Closed("closed")), Pending::drain);
    refused.join();
    EXPECT_EQ(budget->stats().blocked_callers, 1u);
    EXPECT_THAT(engine.abandoned(), IsEmpty());
    jobs[0].finish();
    other.join();
    jobs[1].finish();
    jobs[3].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1, 3));
    EXPECT_EQ(jobs[2].ends, 0);
    expect_idle();
}

TEST_F(Budget, RefusingWithCancelAbandonsWhatWasNotLaunchedAndOfThatOwnerOnly) {
    make({.max_executions = 1, .max_buffers = 2, .max_queue = 3});
    for (int i = 0; i < 7; ++i) job(i);
    jobs[0].admit(&owners[0]);  // executes
    jobs[1].admit(&owners[0]);  // staged
    jobs[2].admit(&owners[1]);  // queued
    jobs[3].admit(&owners[0]);  // queued
    jobs[4].admit(&owners[1]);  // queued
    std::jthread refused([&] { EXPECT_THROW(jobs[5].admit(&owners[0], kForever), Closed); });
    yield_until([&] { return budget->stats().blocked_callers == 1; });
    std::jthread other([&] { jobs[6].admit(&owners[2], kForever); });
    yield_until([&] { return budget->stats().blocked_callers == 2; });

    budget->refuse(&owners[0], std::make_exception_ptr(Closed("closed")), Pending::cancel);
    refused.join();
    other.join();  // the places that came free are another owner's now
    EXPECT_THAT(engine.abandoned(), ::testing::UnorderedElementsAre(1, 3));
    EXPECT_THROW(std::rethrow_exception(jobs[1].error), Closed);
    EXPECT_EQ(jobs[0].ends, 0);
    EXPECT_THAT(engine.staged(), ElementsAre(0, 1, 2));
    for (std::size_t i : {0, 2, 4, 6}) jobs[i].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 2, 4, 6));
    expect_idle();
}

TEST_F(Budget, PlacesOfCancelledJobsGoToBlockedCallersEvenIfNothingElseMoves) {
    make({.max_executions = 1, .max_buffers = 1, .max_queue = 2});
    for (int i = 0; i < 5; ++i) job(i);
    jobs[0].admit(&owners[1]);
    jobs[1].admit(&owners[0]);
    jobs[2].admit(&owners[0]);
    std::vector<std::jthread> callers;
    for (std::size_t i = 3; i < 5; ++i) {
        callers.emplace_back([this, i] { jobs[i].admit(&owners[1], kForever); });
        yield_until([&] { return budget->stats().blocked_callers == i - 2; });
    }
    budget->refuse(&owners[0], std::make_exception_ptr(Closed("closed")), Pending::cancel);
    callers.clear();
    EXPECT_THAT(engine.launched(), ElementsAre(0));
    EXPECT_EQ(budget->stats().queued, 2u);
    for (std::size_t i : {0, 3, 4}) jobs[i].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 3, 4));
    expect_idle();
}

TEST_F(Budget, InterruptedCallerLeavesWithoutATrace) {
    make({.max_executions = 1, .max_buffers = 1, .max_queue = 0});
    testing::InterruptingSignal signal;
    job(0).admit();
    FakeJob& blocked = job(1);
    std::atomic<bool> thrown{false};
    std::thread caller([&] {
        try {
            blocked.admit(nullptr, WaitOptions(kForever, [] { throw testing::Interrupted(); }));
        } catch (const testing::Interrupted&) {
            thrown = true;
        }
    });
    signal.interrupt_until(caller, [&] { return thrown.load(); });
    caller.join();
    EXPECT_EQ(budget->stats().blocked_callers, 0u);
    EXPECT_EQ(budget->stats().overloaded, 0u);
    jobs[0].finish();
    EXPECT_EQ(blocked.ends, 0);
    expect_idle();
}

TEST_F(Budget, InterruptionThatComesTogetherWithThePlaceIsReturnedAndNotLost) {
    make({.max_executions = 1, .max_buffers = 1, .max_queue = 0});
    testing::InterruptingSignal signal;
    static FakeJob* executing;
    executing = &job(0);
    executing->admit();
    FakeJob& blocked = job(1);
    std::atomic<bool> returned{false};
    std::thread caller([&] {
        const std::exception_ptr interruption =
            blocked.admit(nullptr, WaitOptions(kForever, [] {
                              executing->finish();  // admits the job of the thread that runs this hook
                              throw testing::Interrupted();
                          }));
        ASSERT_NE(interruption, nullptr);
        EXPECT_THROW(std::rethrow_exception(interruption), testing::Interrupted);
        returned = true;
    });
    signal.interrupt_until(caller, [&] { return returned.load(); });
    caller.join();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1));
    blocked.finish();
    expect_idle();
}

TEST(DefaultExecutions, FillFewCpusAndLeaveFourThreadsToEachRequestOnMany) {
    EXPECT_EQ(default_executions(1), 1u);
    EXPECT_EQ(default_executions(2), 2u);
    EXPECT_EQ(default_executions(8), 2u);
    EXPECT_EQ(default_executions(16), 4u);
    EXPECT_EQ(default_executions(64), 16u);
}

}  // namespace
}  // namespace trtlab::core
