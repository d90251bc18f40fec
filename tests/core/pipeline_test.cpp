#include "trtlab/core/pipeline.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "echo_model.hpp"
#include "trtlab/core/error.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::first_of;
using testing::one_in_one_out;
using testing::tensor_of;
using testing::yield_until;

class HandRequest;

/// An engine whose every step the test takes by hand.
struct HandEngine final : Pipeline {
    explicit HandEngine(const ExecutionBudget::Options& options);

    /// The requests that `stage` deferred, and those that execute, oldest first.
    HandRequest* next_staging() { return take(staging); }
    HandRequest* next_executing() { return take(executing); }
    HandRequest* take(std::deque<HandRequest*>& list) {
        std::lock_guard lock(mutex);
        if (list.empty()) return nullptr;
        HandRequest* first = list.front();
        list.pop_front();
        return first;
    }
    void put(std::deque<HandRequest*>& list, HandRequest& request) {
        std::lock_guard lock(mutex);
        list.push_back(&request);
    }

    std::atomic<bool> defer{false};
    std::mutex mutex;
    std::deque<HandRequest*> staging, executing;
};

class HandRequest final : public PipelineRequest {
public:
    using PipelineRequest::computed;
    using PipelineRequest::staged;
    using PipelineRequest::times;

    void succeed() {
        answer.push_back(Tensor::copy_of(inputs[0]));
        complete(nullptr);
    }
    void fail() { complete(std::make_exception_ptr(EngineError("it broke"))); }

private:
    HandEngine& engine() const { return static_cast<HandEngine&>(pipeline()); }
    Staging stage() override {
        if (!engine().defer) return Staging::done;
        engine().put(engine().staging, *this);
        return Staging::deferred;
    }
    void launch() override {
        if (start()) {
            engine().put(engine().executing, *this);
        } else {
            complete(nullptr);
        }
    }
};

HandEngine::HandEngine(const ExecutionBudget::Options& options)
    : Pipeline(std::make_shared<const ModelSpec>(one_in_one_out("by hand")), std::make_shared<ExecutionBudget>(options),
               kQueueTimeout, 4, [] { return new HandRequest; }) {}

class HandModel final : public PipelineModel {
public:
    explicit HandModel(const ExecutionBudget::Options& options = {})
        : HandModel(std::make_shared<HandEngine>(options)) {}
    HandEngine& engine() const { return static_cast<HandEngine&>(pipeline()); }
    Future<Tensors> ask(float value) { return infer({{"x", tensor_of({value})}}); }

private:
    explicit HandModel(std::shared_ptr<HandEngine> engine) : PipelineModel(std::move(engine)) {}
};

TEST(Pipeline, KeepsTheTokenUntilTheAnswerUnlessTheEngineIsDoneWithItBefore) {
    HandModel model({.max_executions = 1, .max_buffers = 2});
    const ExecutionBudget& budget = *model.engine().budget;
    const auto first = model.ask(1), second = model.ask(2);
    HandRequest* one = model.engine().next_executing();
    ASSERT_NE(one, nullptr);
    EXPECT_EQ(model.engine().next_executing(), nullptr);

    one->computed();
    HandRequest* two = model.engine().next_executing();
    ASSERT_NE(two, nullptr) << "the next request executes while the answer of the first is still on its way";
    EXPECT_FALSE(first.done());
    EXPECT_EQ(budget.stats().executing, 1u);
    EXPECT_EQ(budget.stats().buffers_in_use, 2u);

    one->succeed();
    EXPECT_EQ(first_of(first.get(0s)["y"]), 1);
    EXPECT_EQ(budget.stats().executing, 1u);
    EXPECT_EQ(budget.stats().buffers_in_use, 1u);
    two->succeed();
    EXPECT_EQ(first_of(second.get(0s)["y"]), 2);
    EXPECT_EQ(budget.stats().executing, 0u);
    EXPECT_EQ(budget.stats().buffers_in_use, 0u);
}

TEST(Pipeline, RecycledRequestHasATokenToGiveBackAgain) {
    HandModel model({.max_executions = 1});
    for (int i = 0; i < 6; ++i) {
        const auto future = model.ask(static_cast<float>(i));
        HandRequest* request = model.engine().next_executing();
        ASSERT_NE(request, nullptr);
        if (i % 2 == 0) request->computed();
        request->succeed();
        EXPECT_EQ(first_of(future.get(0s)["y"]), static_cast<float>(i));
        EXPECT_EQ(model.engine().budget->stats().executing, 0u);
    }
}

TEST(Pipeline, RequestMayFailAfterItsTokenWentBack) {
    HandModel model({.max_executions = 1});
    const auto future = model.ask(1);
    HandRequest* request = model.engine().next_executing();
    request->computed();
    request->fail();
    EXPECT_THROW((void)future.get(0s), EngineError);
    EXPECT_EQ(model.engine().budget->stats().executing, 0u);
    EXPECT_EQ(model.stats().failed, 1u);
}

TEST(Pipeline, DeferredStagingLeadsToTheAnswer) {
    HandModel model;
    model.engine().defer = true;
    const auto future = model.ask(3);
    EXPECT_EQ(model.engine().next_executing(), nullptr);
    model.engine().next_staging()->staged();
    model.engine().next_executing()->succeed();
    EXPECT_EQ(first_of(future.get(0s)["y"]), 3);
}

TEST(Pipeline, DeferredStagingThatFailsFailsTheFutureAndLetsTheNextRequestGo) {
    HandModel model({.max_executions = 1, .max_buffers = 1});
    model.engine().defer = true;
    const auto broken = model.ask(1);
    model.engine().defer = false;
    const auto next = model.ask(2);
    model.engine().next_staging()->staged(std::make_exception_ptr(EngineError("cannot copy")));
    EXPECT_THROW((void)broken.get(0s), EngineError);
    model.engine().next_executing()->succeed();
    EXPECT_EQ(first_of(next.get(0s)["y"]), 2);
    EXPECT_EQ(model.stats().failed, 1u);
    EXPECT_EQ(model.engine().budget->stats().buffers_in_use, 0u);
}

TEST(Pipeline, RequestThatIsCancelledWhileItIsStagedNeverExecutes) {
    HandModel model;
    model.engine().defer = true;
    const auto future = model.ask(1);
    EXPECT_TRUE(future.cancel());
    model.engine().next_staging()->staged();
    EXPECT_EQ(model.engine().next_executing(), nullptr);
    EXPECT_THROW((void)future.get(0s), Cancelled);
    EXPECT_EQ(model.stats().cancelled, 1u);
    EXPECT_EQ(model.engine().budget->stats().buffers_in_use, 0u);
}

TEST(Pipeline, DestroyedWhileStagingIsDeferredItWaitsForTheRequest) {
    auto model = std::make_unique<HandModel>();
    HandEngine& engine = model->engine();
    engine.defer = true;
    const auto future = model->ask(1);
    HandRequest* request = engine.next_staging();
    std::atomic<bool> destroyed{false};
    std::jthread destroying([&] {
        model.reset();
        destroyed = true;
    });
    yield_until([&] { return engine.gate.is_shut(); });
    EXPECT_FALSE(destroyed);
    request->staged();
    engine.next_executing()->succeed();
    destroying.join();
    EXPECT_EQ(first_of(future.get(0s)["y"]), 1);
}

TEST(Pipeline, StagingThatFailsMayTakeTheModelAndItsBudgetWithIt) {
    auto model = std::make_unique<HandModel>();
    model->engine().defer = true;
    const auto future = model->ask(1);
    HandRequest* request = model->engine().next_staging();
    future.on_ready([&] { model.reset(); });
    request->staged(std::make_exception_ptr(EngineError("cannot copy")));
    EXPECT_EQ(model, nullptr);
    EXPECT_THROW((void)future.get(0s), EngineError);
}

TEST(Pipeline, DeviceTimesAreOfTheRequestsThatWereTimed) {
    HandModel model;
    for (int i = 0; i < 3; ++i) {
        const auto future = model.ask(1);
        HandRequest* request = model.engine().next_executing();
        if (i < 2) {  // the third is the second's, recycled
            request->times.device_timed = true;
            request->times.enqueue = 1us;
            request->times.h2d = 2us;
            request->times.compute = 30us;
            request->times.d2h = 4us;
        }
        request->succeed();
        (void)future.get(0s);
    }
    const ModelStats stats = model.stats();
    EXPECT_EQ(stats.completed, 3u);
    EXPECT_EQ(stats.device_timed, 2u);
    EXPECT_EQ(stats.enqueue, 2us);
    EXPECT_EQ(stats.h2d, 4us);
    EXPECT_EQ(stats.compute, 60us);
    EXPECT_EQ(stats.d2h, 8us);
}

TEST(Pipeline, RequestsOfWhichTheTokensGoBackEarlyAllEnd) {
    constexpr int kThreads = 3, kEach = 300;
    HandModel model({.max_executions = 1, .max_buffers = 3, .max_queue = kThreads * kEach});
    std::atomic<int> answered{0};
    std::jthread engine([&] {
        std::deque<HandRequest*> computed;
        for (int i = 0; answered < kThreads * kEach; ++i) {
            HandRequest* request = model.engine().next_executing();
            if (request != nullptr) {
                computed.push_back(request);
                request->computed();
            }
            if (!computed.empty() && (request == nullptr || i % 2 == 0)) {
                computed.front()->succeed();
                computed.pop_front();
            } else if (request == nullptr) {
                std::this_thread::yield();
            }
        }
        EXPECT_TRUE(computed.empty());
    });
    std::vector<std::jthread> callers;
    for (int thread = 0; thread < kThreads; ++thread) {
        callers.emplace_back([&, thread] {
            for (int i = 0; i < kEach; ++i) {
                const auto value = static_cast<float>(thread * kEach + i);
                EXPECT_EQ(first_of(model.ask(value).get()["y"]), value);
                ++answered;
            }
        });
    }
    callers.clear();
    engine.join();
    EXPECT_EQ(model.stats().completed, static_cast<std::uint64_t>(kThreads * kEach));
}

}  // namespace
}  // namespace trtlab::core
