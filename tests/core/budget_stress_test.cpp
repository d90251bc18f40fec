#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "fake_engine.hpp"
#include "trtlab/core/error.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::FakeEngine;
using testing::FakeJob;

/// How far apart the stack pointers were at the calls of `here`.
class StackExtent {
public:
    void here() {
        // Not the address of a local: AddressSanitizer keeps those elsewhere.
        const auto at = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
        lowest_ = std::min(lowest_, at);
        highest_ = std::max(highest_, at);
    }
    std::uintptr_t bytes() const { return highest_ - lowest_; }

private:
    std::uintptr_t lowest_ = UINTPTR_MAX, highest_ = 0;
};

constexpr int kMany = 100'000;
constexpr std::uintptr_t kFewFrames = 64 << 10;  // a hundred thousand nested launches would need megabytes

struct InlineEngine : ::testing::Test {
    FakeEngine engine;
    StackExtent stack;
    int launches = 0;
};

TEST_F(InlineEngine, ThatCompletesInsideLaunchDoesNotGrowTheStack) {
    ExecutionBudget budget({.max_executions = 1, .max_buffers = 1, .max_queue = kMany});
    FakeJob first(budget, engine, 0);
    first.admit();
    std::deque<FakeJob> jobs;
    for (int i = 1; i <= kMany; ++i) {
        FakeJob& job = jobs.emplace_back(budget, engine, i);
        job.on_launch = [&] {
            ++launches;
            stack.here();
            job.finish();
        };
        job.admit();
    }
    first.finish();
    EXPECT_EQ(launches, kMany);
    EXPECT_LT(stack.bytes(), kFewFrames);
    const std::vector<int> order = engine.launched();
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_F(InlineEngine, WhoseCallbacksAskAgainDoesNotGrowTheStack) {
    ExecutionBudget budget({.max_executions = 1, .max_buffers = 1, .max_queue = 4});
    FakeJob job(budget, engine, 0);
    job.on_launch = [&] {
        ++launches;
        stack.here();
        job.finish();
    };
    job.on_end = [&](FakeJob& ended) {
        if (launches < kMany) ended.admit();
    };
    job.admit();
    EXPECT_EQ(launches, kMany);
    EXPECT_LT(stack.bytes(), kFewFrames);
}

TEST_F(InlineEngine, OfTwoBudgetsWhoseCallbacksAskEachOtherDoesNotGrowTheStack) {
    ExecutionBudget left({.max_executions = 1}), right({.max_executions = 1});
    FakeJob ping(left, engine, 0), pong(right, engine, 1);
    for (FakeJob* job : {&ping, &pong}) {
        job->on_launch = [this, job] {
            ++launches;
            stack.here();
            job->finish();
        };
        job->on_end = [&, job](FakeJob&) {
            if (launches < kMany) (job == &ping ? pong : ping).admit();
        };
    }
    ping.admit();
    EXPECT_EQ(launches, kMany);
    EXPECT_LT(stack.bytes(), kFewFrames);
}

/// Completes what is launched on threads of its own, in random order.
class ThreadedEngine {
public:
    explicit ThreadedEngine(int threads) {
        for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { run(static_cast<unsigned>(i)); });
    }
    ~ThreadedEngine() {
        {
            std::lock_guard lock(mutex_);
            stop_ = true;
        }
        changed_.notify_all();
    }
    void start(std::function<void()> completion) {
        {
            std::lock_guard lock(mutex_);
            waiting_.push_back(std::move(completion));
        }
        changed_.notify_one();
    }

private:
    void run(unsigned seed) {
        std::mt19937 random(seed);
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
            if (waiting_.empty()) return;
            std::swap(waiting_[random() % waiting_.size()], waiting_.back());
            auto completion = std::move(waiting_.back());
            waiting_.pop_back();
            lock.unlock();
            completion();
            lock.lock();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::function<void()>> waiting_;
    bool stop_ = false;
    std::vector<std::jthread> threads_;
};

class BudgetStress : public ::testing::TestWithParam<Pending> {};

INSTANTIATE_TEST_SUITE_P(Closing, BudgetStress, ::testing::Values(Pending::drain, Pending::cancel),
                         [](const auto& closing) { return closing.param == Pending::drain ? "drains" : "cancels"; });

TEST_P(BudgetStress, LimitsHoldAndEveryJobEndsOnceWhateverHappensToIt) {
    constexpr int kProducers = 4, kPerProducer = 1500;
    constexpr int kExecutions = 2, kBuffers = 3;
    ExecutionBudget budget({.max_executions = kExecutions, .max_buffers = kBuffers, .max_queue = 5});
    FakeEngine log;
    std::atomic<int> executing{0}, buffers{0}, above_limit{0}, in{0}, out{0}, refused{0};
    std::vector<std::unique_ptr<FakeJob>> jobs(kProducers * kPerProducer);
    std::vector<std::atomic<bool>> admitted(jobs.size());
    int owners[3] = {};
    {
        ThreadedEngine engine(2);
        std::vector<std::jthread> producers;
        for (int producer = 0; producer < kProducers; ++producer) {
            producers.emplace_back([&, producer] {
                std::mt19937 random(static_cast<unsigned>(100 + producer));
                for (int n = 0; n < kPerProducer; ++n) {
                    const int id = producer * kPerProducer + n;
                    const auto slot = static_cast<std::size_t>(id);
                    jobs[slot] = std::make_unique<FakeJob>(budget, log, id);
                    FakeJob& job = *jobs[slot];
                    const unsigned fate = random() % 20;
                    job.on_stage = [&, fate] {
                        if (fate == 0) throw EngineError("stage");
                        // A staged job that is cancelled gives its buffer back before it hears of it: not to be counted.
                        if (GetParam() == Pending::drain && ++buffers > kBuffers) ++above_limit;
                    };
                    job.on_launch = [&, fate] {
                        if (fate == 1) {
                            --buffers;
                            throw EngineError("launch");
                        }
                        if (++executing > kExecutions) ++above_limit;
                        const auto complete = [&, fate] {
                            --executing;
                            if (fate % 2 == 0) {
                                job.finish_execution();
                                --buffers;
                                job.finish_buffer();
                            } else {
                                --buffers;
                                job.finish();
                            }
                        };
                        if (fate < 6) {
                            complete();  // on this thread, inside launch
                        } else {
                            engine.start(complete);
                        }
                    };
                    job.on_end = [&](FakeJob&) { ++out; };
                    if (fate == 7) job.is_wanted = false;
                    const auto wait =
                        n % 3 == 0 ? WaitOptions(kForever) : WaitOptions(std::chrono::microseconds(n % 50));
                    try {
                        job.admit(&owners[random() % 3], wait);
                        admitted[slot] = true;
                        ++in;
                    } catch (const Overloaded&) {
                        ++refused;
                    } catch (const Closed&) {
                        ++refused;
                    }
                    if (n > 0 && fate == 8) jobs[slot - 1]->is_wanted = false;
                }
            });
        }
        std::jthread closer([&](std::stop_token stop) {
            std::mt19937 random(7);
            while (!stop.stop_requested()) {
                budget.refuse(&owners[random() % 3], std::make_exception_ptr(Closed("closed")), GetParam());
                std::this_thread::yield();
            }
        });
        producers.clear();
        testing::yield_until([&] { return out == in; });
    }
    EXPECT_EQ(above_limit, 0);
    EXPECT_EQ(in + refused, static_cast<int>(jobs.size()));
    EXPECT_GT(in, 0);
    int wrong = 0;
    for (std::size_t i = 0; i < jobs.size(); ++i) wrong += jobs[i]->ends != (admitted[i] ? 1 : 0);
    EXPECT_EQ(wrong, 0);
    const auto stats = budget.stats();
    EXPECT_EQ(stats.executing, 0u);
    EXPECT_EQ(stats.buffers_in_use, 0u);
    EXPECT_EQ(stats.queued, 0u);
    EXPECT_EQ(stats.blocked_callers, 0u);
    EXPECT_EQ(stats.admitted, static_cast<std::uint64_t>(in));
}

}  // namespace
}  // namespace trtlab::core
