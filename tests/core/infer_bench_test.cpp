#include "trtlab/core/infer_bench.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "allocation_count.hpp"
#include "held_models.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using Load = InferBench::Load;
using Phase = InferBench::Phase;
using ::testing::HasSubstr;
using namespace trtlab::core::testing;

/// Ends by the number of requests; no machine is too slow for these limits.
InferBench::Options options_of(std::uint64_t requests, std::size_t concurrency = 1) {
    return {.concurrency = concurrency, .warm_up = 0s, .duration = 1h, .max_requests = requests};
}

TEST(InferBench, ClosedLoopCountsEveryRequestOnce) {
    for (const std::size_t concurrency : {1u, 2u, 16u, 100u}) {
        std::atomic<std::uint64_t> calls{0};
        const auto model = model_of([&](auto in) { return ++calls, echo(in); }, {.concurrency = 2});
        const auto report = InferBench(model, inputs()).run(options_of(1000, concurrency));
        EXPECT_EQ(calls, 1000u);
        EXPECT_EQ(report.requests, 1000u);
        EXPECT_EQ(report.latency.count(), 1000u);
        EXPECT_EQ(report.stats.completed, 1000u);
        EXPECT_EQ(report.failures + report.overloaded + report.unfinished, 0u);
        EXPECT_EQ(report.issue_delay.count(), 0u);
        EXPECT_GT(report.elapsed.count(), 0);
        EXPECT_LT(report.elapsed, 1h);
        EXPECT_GT(report.cpu.count(), 0);
        EXPECT_DOUBLE_EQ(report.requests_per_second, 1000 / (static_cast<double>(report.elapsed.count()) * 1e-9));
    }
}

TEST(InferBench, ClosedLoopKeepsExactlySoManyOutstanding) {
    const auto model = std::make_shared<HeldModel>();
    std::jthread answering([&] {
        for (int round = 0; round < 50; ++round) {
            model->wait_for(7);
            model->answer_all();
        }
    });
    const auto report = InferBench(model, inputs()).run(options_of(350, 7));
    EXPECT_EQ(report.requests, 350u);
    EXPECT_EQ(model->most(), 7u);
}

TEST(InferBench, InferencesCountTheBatch) {
    auto options = options_of(10);
    options.batch = 8;
    const auto report = InferBench(model_of(echo), inputs()).run(options);
    EXPECT_DOUBLE_EQ(report.inferences_per_second, 8 * report.requests_per_second);
}

TEST(InferBench, OpenLoopMakesEveryScheduledRequest) {
    for (const Load load : {Load::constant, Load::poisson}) {
        auto options = options_of(500, 1000);
        options.load = load;
        options.rate = 20'000;
        const auto report = InferBench(model_of(echo), inputs()).run(options);
        EXPECT_EQ(report.requests + report.overloaded, 500u);
        EXPECT_EQ(report.issue_delay.count(), 500u);
        // The last of 500 constant arrivals is due after 499 gaps; Poisson arrivals with this seed, too, need some time.
        EXPECT_GE(report.elapsed, load == Load::constant ? 24'950us : 20'000us);
        EXPECT_GE(report.latency.min(), 1u);
    }
}

TEST(InferBench, OpenLoopEndsWithTheDuration) {
    InferBench::Options options{
        .load = Load::constant, .concurrency = 1000, .rate = 1000, .warm_up = 0s, .duration = 100ms};
    const auto report = InferBench(model_of(echo), inputs()).run(options);
    EXPECT_EQ(report.requests, 100u);
    EXPECT_GE(report.elapsed, 100ms);
}

/// The model stalls for the first 100 ms. A generator that waits for it before it goes on, and counts from there, would see
/// one slow request; but whoever was due meanwhile waited too, and must be charged for.
TEST(InferBench, AStallIsChargedToEveryoneWhoWasDueMeanwhile) {
    Barrier stall;
    const auto model = model_of([&](auto in) { return stall.wait(), echo(in); });
    auto options = options_of(150, 1);
    options.load = Load::constant;
    options.rate = 1000;
    options.progress_interval = 1ms;
    options.on_progress = [&](const InferBench::Progress& progress) {
        if (progress.elapsed >= 100ms) stall.open();
    };
    const auto report = InferBench(model, inputs()).run(options);
    EXPECT_EQ(report.requests, 150u);
    EXPECT_GE(report.latency.max(), 100'000'000u);
    // The one due after n ms waited at least 100 - n; of all 150 at least 50 waited 50 ms or more.
    const double bound = 1 - Histogram::kMaxRelativeError;
    EXPECT_GE(static_cast<double>(report.latency.percentile(66)), 49e6 * bound);
    EXPECT_GE(static_cast<double>(report.latency.percentile(50)), 24e6 * bound);
    EXPECT_GE(report.issue_delay.max(), 99'000'000u);
}

TEST(InferBench, WhatAnOpenLoopCouldNotSendCountsWithTheTimeItWaited) {
    const auto model = std::make_shared<HeldModel>();
    InferBench::Options options{
        .load = Load::constant, .concurrency = 3, .rate = 1000, .warm_up = 0s, .duration = 50ms, .drain_timeout = 20ms};
    const auto report = InferBench(model, inputs()).run(options);
    EXPECT_EQ(report.requests, 0u);
    EXPECT_EQ(report.unfinished, 50u);
    EXPECT_EQ(report.latency.count(), 50u);
    EXPECT_GE(report.latency.min(), 20'000'000u);
    EXPECT_GE(report.latency.max(), 70'000'000u);
    EXPECT_EQ(model->most(), 3u);
    for (const auto& future : model->futures()) EXPECT_TRUE(future.cancelled());
    model->answer_all();
}

TEST(InferBench, AnOpenLoopIsTurnedAwayByAFullQueue) {
    const auto model = std::make_shared<HeldModel>(5);
    auto options = options_of(100, 50);
    options.load = Load::poisson;
    options.rate = 100'000;
    options.drain_timeout = 0s;
    const auto report = InferBench(model, inputs()).run(options);
    EXPECT_EQ(report.overloaded, 95u);
    EXPECT_EQ(report.failures, 95u);
    EXPECT_EQ(report.unfinished, 5u);
    EXPECT_EQ(report.first_error, "the queue is full");
}

TEST(InferBench, AClosedLoopWaitsForRoomInAFullQueue) {
    const auto model = model_of(echo, {.concurrency = 1, .max_queue = 2});
    const auto report = InferBench(model, inputs()).run(options_of(500, 64));
    EXPECT_EQ(report.requests, 500u);
    EXPECT_EQ(report.failures, 0u);
}

TEST(InferBench, AClosedLoopsRequestThatNeverFoundRoomIsUnfinished) {
    const auto model = std::make_shared<HeldModel>(2);
    auto options = options_of(3, 3);
    options.drain_timeout = 0s;
    const auto report = InferBench(model, inputs()).run(options);
    EXPECT_EQ(report.unfinished, 3u);
    EXPECT_EQ(report.failures, 0u);
    EXPECT_EQ(report.latency.count(), 3u);
}

TEST(InferBench, FailedRequestsAreCountedWithTheFirstMessage) {
    std::atomic<int> calls{0};
    const auto model = model_of([&](auto in) {
        const int call = ++calls;
        if (call % 2 == 0) throw EngineError("call " + std::to_string(call) + " failed");
        return echo(in);
    });
    const auto report = InferBench(model, inputs()).run(options_of(100));
    EXPECT_EQ(report.requests, 50u);
    EXPECT_EQ(report.failures, 50u);
    EXPECT_EQ(report.overloaded, 0u);
    EXPECT_EQ(report.latency.count(), 50u);
    EXPECT_THAT(report.first_error, HasSubstr("call 2 failed"));
    EXPECT_EQ(report.stats.failed, 50u);
}

TEST(InferBench, NothingIsAllocatedForARequest) {
    const auto model = std::make_shared<RecyclingModel>();
    for (const Load load : {Load::closed, Load::constant, Load::poisson}) {
        const auto allocated = [&](std::uint64_t requests) {
            auto options = options_of(requests, 3);
            options.load = load;
            options.rate = 1e6;
            options.duration = 1min;
            options.drain_timeout = 0s;
            const std::uint64_t before = allocations();
            const auto report = InferBench(model, inputs()).run(options);
            EXPECT_EQ(report.requests + report.unfinished, requests);
            return allocations() - before;
        };
        allocated(100);
        const std::uint64_t few = allocated(100);
        EXPECT_EQ(few != 0, kAllocationsCounted);
        EXPECT_EQ(allocated(10'000), few);
    }
}

TEST(InferBench, WarmUpIsNotCounted) {
    std::atomic<std::uint64_t> calls{0};
    const auto model = model_of([&](auto in) { return ++calls, echo(in); });
    auto options = options_of(10);
    options.warm_up = 5ms;
    const auto report = InferBench(model, inputs()).run(options);
    EXPECT_EQ(report.requests, 10u);
    EXPECT_EQ(report.stats.completed, 10u);
    EXPECT_GT(calls, 10u);
}

TEST(InferBench, AWarmUpThatIsNeverAnsweredThrowsTimeout) {
    const auto model = std::make_shared<HeldModel>();
    auto options = options_of(10, 2);
    options.warm_up = 1ms;
    options.drain_timeout = 0s;
    EXPECT_THROW(InferBench(model, inputs()).run(options), Timeout);
    for (const auto& future : model->futures()) EXPECT_TRUE(future.cancelled());
}

TEST(InferBench, ProgressTellsThePhasesInOrder) {
    std::vector<InferBench::Progress> told;
    Barrier draining;
    std::atomic<bool> measuring{false};
    const auto model = model_of([&](auto in) {
        if (measuring) draining.wait();
        return echo(in);
    });
    auto options = options_of(2, 2);
    options.warm_up = 5ms;
    options.progress_interval = 0s;
    options.on_progress = [&](const InferBench::Progress& progress) {
        told.push_back(progress);
        if (progress.phase == Phase::measure) measuring = true;
        if (progress.phase == Phase::drain) draining.open();
    };
    const auto report = InferBench(model, inputs()).run(options);
    ASSERT_FALSE(told.empty());
    EXPECT_EQ(told.front().phase, Phase::warm_up);
    EXPECT_EQ(told.front().planned, 5ms);
    EXPECT_EQ(told.back().phase, Phase::drain);
    EXPECT_EQ(told.back().planned, options.drain_timeout);
    EXPECT_LE(told.back().answered, report.requests);
    for (std::size_t i = 1; i < told.size(); ++i) {
        EXPECT_GE(told[i].phase, told[i - 1].phase);
        if (told[i].phase == told[i - 1].phase) {
            EXPECT_GE(told[i].elapsed, told[i - 1].elapsed);
            EXPECT_GE(told[i].answered, told[i - 1].answered);
        }
    }
}

TEST(InferBench, WhatTheProgressCallbackThrowsEndsTheRun) {
    const auto model = std::make_shared<HeldModel>();
    auto options = options_of(0, 4);
    options.progress_interval = 1ms;
    options.on_progress = [&](const InferBench::Progress&) {
        if (model->most() == 4) throw std::domain_error("enough");
    };
    EXPECT_THROW(InferBench(model, inputs()).run(options), std::domain_error);
    const auto abandoned = model->futures();
    EXPECT_EQ(abandoned.size(), 4u);
    for (const auto& future : abandoned) EXPECT_TRUE(future.cancelled());
}

TEST(InferBench, AnswersThatComeAfterAnAbandonedRunDoNoHarm) {
    Barrier hold, held;
    const auto model = model_of([&](auto in) { return held.open(), hold.wait(), echo(in); });
    auto options = options_of(0, 4);
    options.progress_interval = 0s;
    // Progress is told before each request here. The one that executes cannot be cancelled: the run leaves it behind.
    int told = 0;
    options.on_progress = [&](const InferBench::Progress&) {
        if (++told <= 4) return;
        held.wait();
        throw std::domain_error("enough");
    };
    EXPECT_THROW(InferBench(model, inputs()).run(options), std::domain_error);
    hold.open();
    model->close();
    EXPECT_EQ(model->stats().completed, 1u);
    EXPECT_EQ(model->stats().cancelled, 3u);
}

TEST(InferBench, StopEndsTheMeasurementAndKeepsWhatWasMeasured) {
    std::stop_source stop;
    std::atomic<std::uint64_t> calls{0};
    const auto model = model_of([&](auto in) {
        if (++calls == 100) stop.request_stop();
        return echo(in);
    });
    const auto report = InferBench(model, inputs()).run(options_of(0, 4), stop.get_token());
    EXPECT_GE(report.requests, 100u);
    EXPECT_EQ(report.requests, calls);
    EXPECT_EQ(report.unfinished, 0u);
}

TEST(InferBench, StopFromAnotherThreadWakesAWaitingRun) {
    const auto model = std::make_shared<HeldModel>();
    std::stop_source stop;
    std::jthread stopping([&] {
        model->wait_for(3);
        stop.request_stop();
    });
    auto options = options_of(0, 3);
    options.drain_timeout = 0s;
    const auto report = InferBench(model, inputs()).run(options, stop.get_token());
    EXPECT_EQ(report.unfinished, 3u);
    EXPECT_LT(report.elapsed, 1h);
}

TEST(InferBench, ARunThatWasStoppedBeforeMakesNoRequest) {
    std::stop_source stop;
    stop.request_stop();
    const auto model = std::make_shared<HeldModel>();
    auto options = options_of(0);
    options.warm_up = 1h;
    const auto report = InferBench(model, inputs()).run(options, stop.get_token());
    EXPECT_EQ(report.requests + report.unfinished, 0u);
    EXPECT_EQ(model->most(), 0u);
}

TEST(InferBench, AClosedModelEndsTheRun) {
    const auto model = model_of(echo);
    model->close();
    EXPECT_THROW(InferBench(model, inputs()).run(options_of(10)), Closed);
}

TEST(InferBench, InputsThatDoNotFitAreRefusedBeforeAnythingRuns) {
    const auto model = std::make_shared<HeldModel>();
    EXPECT_THROW(InferBench(model, {}), InvalidArgument);
    EXPECT_THROW(InferBench(model, {Tensor::allocate(DType::float32, {5})}), InvalidArgument);
    EXPECT_THROW(InferBench(nullptr, inputs()), InvalidArgument);
    EXPECT_EQ(model->most(), 0u);
}

TEST(InferBench, OptionsThatMakeNoSenseAreRefusedByName) {
    const InferBench bench(model_of(echo), inputs());
    const auto message = [&](const std::function<void(InferBench::Options&)>& change) -> std::string {
        auto options = options_of(1);
        change(options);
        try {
            bench.run(options);
        } catch (const InvalidArgument& error) {
            return error.what();
        }
        return "accepted";
    };
    EXPECT_THAT(message([](auto& o) { o.concurrency = 0; }), HasSubstr("concurrency: expected 1 to"));
    EXPECT_THAT(message([](auto& o) { o.concurrency = SIZE_MAX; }), HasSubstr("concurrency"));
    EXPECT_THAT(message([](auto& o) { o.batch = 0; }), HasSubstr("batch"));
    EXPECT_THAT(message([](auto& o) { o.duration = 0s; }), HasSubstr("duration: expected more than 0"));
    EXPECT_THAT(message([](auto& o) { o.duration = std::chrono::nanoseconds::max(); }), HasSubstr("duration"));
    EXPECT_THAT(message([](auto& o) { o.warm_up = -1ns; }), HasSubstr("warm_up"));
    EXPECT_THAT(message([](auto& o) { o.drain_timeout = -1ns; }), HasSubstr("drain_timeout"));
    EXPECT_THAT(message([](auto& o) { o.progress_interval = -1ns; }), HasSubstr("progress_interval"));
    for (const double rate : {0.0, -1.0, 1.0 / 0.0, 0.0 / 0.0}) {
        EXPECT_THAT(message([&](auto& o) { o.load = Load::poisson, o.rate = rate; }), HasSubstr("rate: an open loop"));
    }
    EXPECT_THAT(message([](auto& o) { o.load = Load::constant, o.rate = 1e9; }), HasSubstr("more than 1e9 arrivals"));
}

}  // namespace
}  // namespace trtlab::core
