#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <latch>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "fake_engine.hpp"
#include "trtlab/core/budget.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using ::testing::ElementsAre;
using testing::FakeEngine;
using testing::FakeJob;
using ::testing::IsEmpty;

/// Jobs whose staging goes on after `stage`, until the test says that it is over.
struct DeferredStaging : ::testing::Test {
    void make(const ExecutionBudget::Options& options) { budget.emplace(options); }
    FakeJob& job(int id, Staging staging = Staging::deferred) {
        FakeJob& made = jobs.emplace_back(*budget, engine, id);
        made.staging = staging;
        return made;
    }
    void expect_idle() {
        EXPECT_EQ(budget->stats().executing, 0u);
        EXPECT_EQ(budget->stats().buffers_in_use, 0u);
        EXPECT_EQ(budget->stats().queued, 0u);
    }

    FakeEngine engine;
    std::optional<ExecutionBudget> budget;
    std::deque<FakeJob> jobs;
    int owner = 0;
};

TEST_F(DeferredStaging, HoldsABufferButNoTokenUntilItIsOver) {
    make({.max_executions = 1});
    job(0).admit();
    EXPECT_THAT(engine.staged(), ElementsAre(0));
    EXPECT_THAT(engine.launched(), IsEmpty());
    EXPECT_EQ(budget->stats().executing, 0u);
    EXPECT_EQ(budget->stats().buffers_in_use, 1u);
    budget->staged(jobs[0]);
    EXPECT_THAT(engine.launched(), ElementsAre(0));
    EXPECT_EQ(budget->stats().executing, 1u);
    jobs[0].finish();
    expect_idle();
}

TEST_F(DeferredStaging, DoesNotKeepTheTokenFromAJobThatIsReady) {
    make({.max_executions = 1, .max_buffers = 2});
    job(0).admit();
    job(1, Staging::done).admit();
    EXPECT_THAT(engine.launched(), ElementsAre(1));
    budget->staged(jobs[0]);
    EXPECT_THAT(engine.launched(), ElementsAre(1));
    jobs[1].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(1, 0));
    jobs[0].finish();
    expect_idle();
}

TEST_F(DeferredStaging, JobsOutOfTheQueueDeferAsThoseThatGoStraightThrough) {
    make({.max_executions = 1, .max_buffers = 1});
    job(0, Staging::done).admit();
    job(1).admit();
    job(2).admit();
    EXPECT_EQ(budget->stats().queued, 2u);
    jobs[0].finish();
    EXPECT_THAT(engine.staged(), ElementsAre(0, 1));
    budget->staged(jobs[1]);
    jobs[1].finish();
    EXPECT_THAT(engine.staged(), ElementsAre(0, 1, 2));
    budget->staged(jobs[2]);
    jobs[2].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1, 2));
    expect_idle();
}

TEST_F(DeferredStaging, JobsThatAreReadyTogetherAreLaunchedInOrderOfAdmission) {
    make({.max_executions = 1, .max_buffers = 4});
    job(0, Staging::done).admit();
    for (int i = 1; i < 4; ++i) job(i).admit();
    for (const std::size_t i : {3, 1, 2}) budget->staged(jobs[i]);
    for (const std::size_t i : {0, 1, 2, 3}) jobs[i].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1, 2, 3));
    expect_idle();
}

TEST_F(DeferredStaging, MayBeOverBeforeStageReturns) {
    make({.max_executions = 1, .max_buffers = 2});
    job(0).on_stage = [&] { budget->staged(jobs[0]); };
    jobs[0].admit();
    EXPECT_THAT(engine.launched(), ElementsAre(0));
    job(1).on_stage = [&] { std::jthread([&] { budget->staged(jobs[1]); }).join(); };
    jobs[1].admit();
    jobs[0].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(0, 1));
    jobs[1].finish();
    expect_idle();
}

TEST_F(DeferredStaging, JobMayBeAnsweredBeforeStageReturns) {
    make({.max_executions = 2});
    job(0).on_launch = [&] { jobs[0].finish(); };
    jobs[0].on_stage = [&] {
        std::jthread([&] { budget->staged(jobs[0]); }).join();
        EXPECT_EQ(jobs[0].ends, 1);
    };
    jobs[0].admit();
    EXPECT_THAT(engine.launched(), ElementsAre(0));
    expect_idle();
}

TEST_F(DeferredStaging, ErrorAbandonsTheJobAndGivesItsBufferToTheNext) {
    make({.max_executions = 1, .max_buffers = 1});
    job(0).admit();
    job(1, Staging::done).admit();
    budget->staged(jobs[0], std::make_exception_ptr(std::runtime_error("cannot copy")));
    EXPECT_THAT(engine.abandoned(), ElementsAre(0));
    EXPECT_THROW(std::rethrow_exception(jobs[0].error), std::runtime_error);
    EXPECT_THAT(engine.launched(), ElementsAre(1));
    jobs[1].finish();
    EXPECT_EQ(jobs[0].ends, 1);
    expect_idle();
}

TEST_F(DeferredStaging, StageThatThrowsHasDeferredNothing) {
    make({.max_executions = 1, .max_buffers = 1});
    job(0).on_stage = [] { throw std::runtime_error("no thread to defer to"); };
    jobs[0].admit();
    EXPECT_THAT(engine.abandoned(), ElementsAre(0));
    expect_idle();
}

TEST_F(DeferredStaging, JobThatIsCancelledMeanwhileIsLaunchedToLetGoOfItsBuffer) {
    make({.max_executions = 1});
    job(0).admit();
    jobs[0].is_wanted = false;
    budget->staged(jobs[0]);
    EXPECT_THAT(engine.launched(), ElementsAre(0));
    EXPECT_THAT(engine.discarded(), IsEmpty());
    jobs[0].finish();
    expect_idle();
}

TEST_F(DeferredStaging, RefusingTheOwnerLeavesTheJobToItsWay) {
    make({.max_executions = 1, .max_buffers = 2});
    job(0).admit(&owner);
    job(1).admit(&owner);
    job(2).admit(&owner);
    budget->staged(jobs[1]);  // executes
    budget->refuse(&owner, std::make_exception_ptr(Closed("closed")), Pending::cancel);
    EXPECT_THAT(engine.abandoned(), ElementsAre(2));
    budget->staged(jobs[0]);
    jobs[1].finish();
    EXPECT_THAT(engine.launched(), ElementsAre(1, 0));
    jobs[0].finish();
    expect_idle();
}

TEST_F(DeferredStaging, ManyThreadsStageAndLaunchEverythingOnce) {
    constexpr int kThreads = 4, kJobs = 400;
    make({.max_executions = 2, .max_buffers = 6, .max_queue = kThreads * kJobs});
    std::mutex mutex;
    std::deque<FakeJob*> deferred, launched;
    std::atomic<int> ended{0};
    for (int i = 0; i < kThreads * kJobs; ++i) {
        FakeJob& made = job(i, i % 3 == 0 ? Staging::done : Staging::deferred);
        const auto note = [&mutex, &made](std::deque<FakeJob*>& list) {
            std::lock_guard lock(mutex);
            list.push_back(&made);
        };
        if (made.staging == Staging::deferred) made.on_stage = [&deferred, note] { note(deferred); };
        made.on_launch = [&launched, note] { note(launched); };
        made.on_end = [&ended](FakeJob&) { ++ended; };
    }
    const auto take = [&mutex](std::deque<FakeJob*>& list) -> FakeJob* {
        std::lock_guard lock(mutex);
        if (list.empty()) return nullptr;
        FakeJob* first = list.front();
        list.pop_front();
        return first;
    };
    const auto work = [&] {
        while (ended < kThreads * kJobs) {
            if (FakeJob* ready = take(deferred)) {
                const bool broken = ready->id() % 7 == 0;
                budget->staged(*ready, broken ? std::make_exception_ptr(EngineError("broken")) : nullptr);
            } else if (FakeJob* running = take(launched)) {
                running->finish();
            } else {
                std::this_thread::yield();
            }
        }
    };
    std::latch start(kThreads + 2);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            start.arrive_and_wait();
            for (int i = 0; i < kJobs; ++i) jobs[static_cast<std::size_t>(thread * kJobs + i)].admit();
        });
    }
    for (int i = 0; i < 2; ++i) {
        threads.emplace_back([&] {
            start.arrive_and_wait();
            work();
        });
    }
    threads.clear();
    for (const FakeJob& one : jobs) EXPECT_EQ(one.ends, 1);
    EXPECT_EQ(engine.launched().size() + engine.abandoned().size(), jobs.size());
    expect_idle();
}

}  // namespace
}  // namespace trtlab::core
