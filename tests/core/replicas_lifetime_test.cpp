#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include "allocation_count.hpp"
#include "echo_model.hpp"
#include "fake_replica.hpp"
#include "held_models.hpp"
#include "log_capture.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/function_model.hpp"
#include "trtlab/core/replicas.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::Barrier;
using testing::FakeReplica;
using testing::first_of;
using testing::lost_device;
using testing::one_in_one_out;
using testing::tensor_of;
using testing::yield_until;

/// Two functions that answer once the gate is open.
struct GatedReplicas : ::testing::Test {
    std::shared_ptr<FunctionModel> gated() {
        return std::make_shared<FunctionModel>(one_in_one_out("gated"), [this](std::span<const Tensor> inputs) {
            ++running;
            gate.wait();
            return testing::echo(inputs);
        });
    }
    Future<Tensors> ask(float value) { return replicas->infer({{"x", tensor_of({value})}}); }
    void TearDown() override { gate.open(); }

    Barrier gate;
    std::atomic<int> running{0};
    std::vector<std::shared_ptr<Model>> models{gated(), gated()};
    std::unique_ptr<Replicas> replicas = std::make_unique<Replicas>("m", models);
};

TEST_F(GatedReplicas, CloseLetsEveryReplicaFinishWhatItAccepted) {
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 6; ++i) futures.push_back(ask(static_cast<float>(i)));
    yield_until([&] { return running == 2; });
    std::jthread closing([&] { replicas->close(); });
    yield_until([&] { return replicas->closed(); });
    EXPECT_THROW((void)ask(0), Closed);
    gate.open();
    closing.join();
    for (int i = 0; i < 6; ++i)
        EXPECT_EQ(first_of(futures[static_cast<std::size_t>(i)].get(0s)["y"]), static_cast<float>(i));
    for (const auto& model : models) EXPECT_TRUE(model->closed());
    replicas->close(Pending::cancel);
}

TEST_F(GatedReplicas, CloseMayFailWhatHasNotBegun) {
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 2; ++i) futures.push_back(ask(1));
    yield_until([&] { return running == 2; });
    for (int i = 0; i < 2; ++i) futures.push_back(ask(2));
    std::jthread closing([&] { replicas->close(Pending::cancel); });
    EXPECT_THROW((void)futures[2].get(), Closed);
    gate.open();
    closing.join();
    for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(first_of(futures[i].get(0s)["y"]), 1);
    EXPECT_TRUE(futures[3].done());
}

TEST_F(GatedReplicas, DestroyedWhileBusyTheyEndEveryRequestOneWayOrTheOther) {
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 2; ++i) futures.push_back(ask(1));
    yield_until([&] { return running == 2; });
    for (int i = 0; i < 2; ++i) futures.push_back(ask(2));
    models.clear();
    std::jthread destroying([&] { replicas.reset(); });
    EXPECT_THROW((void)futures[2].get(), Closed);
    gate.open();
    destroying.join();
    EXPECT_EQ(first_of(futures[0].get(0s)["y"]), 1);
    EXPECT_EQ(first_of(futures[1].get(0s)["y"]), 1);
    EXPECT_TRUE(futures[3].done());
}

TEST_F(GatedReplicas, DestroyedTheyLeaveReplicasThatOthersHoldAlone) {
    const auto future = ask(3);
    yield_until([&] { return running == 1; });
    replicas.reset();
    gate.open();
    EXPECT_EQ(first_of(future.get()["y"]), 3);
    for (const auto& model : models) EXPECT_FALSE(model->closed());
}

TEST_F(GatedReplicas, MayBeDestroyedInACallbackOfTheirOwnFuture) {
    const auto future = ask(4);
    models.clear();
    std::latch destroyed(1);
    future.on_ready([&] {
        replicas.reset();
        destroyed.count_down();
    });
    gate.open();
    destroyed.wait();
    EXPECT_EQ(first_of(future.get(0s)["y"]), 4);
}

TEST(ReplicasLifetime, AnswersMayComeAfterTheyAreGone) {
    const testing::LogCapture log;
    const auto model = std::make_shared<FakeReplica>(one_in_one_out("a"));
    std::optional<Replicas> replicas(std::in_place, "m", std::vector<std::shared_ptr<Model>>{model});
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 3; ++i) futures.push_back(replicas->infer({{"x", tensor_of({1})}}));
    replicas.reset();
    model->answer(1);
    model->fail(lost_device(0));
    EXPECT_TRUE(futures[2].cancel());
    EXPECT_NO_THROW((void)futures[0].get(0s));
    EXPECT_THROW((void)futures[1].get(0s), CudaError);
}

TEST(ReplicasLifetime, ReplicaThatCannotBeClosedDoesNotKeepTheOthersOpen) {
    std::vector<std::shared_ptr<Model>> models;
    for (int i = 0; i < 2; ++i) models.push_back(std::make_shared<FunctionModel>(one_in_one_out("m"), testing::echo));
    Replicas replicas("m", models);
    std::latch done(1);
    std::atomic<bool> refused{false};
    replicas.infer({{"x", tensor_of({1})}}).on_ready([&] {
        try {
            replicas.close();  // in a callback of one of them, which would have to wait for itself
        } catch (const InvalidArgument&) {
            refused = true;
        }
        done.count_down();
    });
    done.wait();
    // Unless the answer was there before the callback was added: then it ran on this thread, and nothing is in the way.
    EXPECT_EQ(models[0]->closed() && models[1]->closed(), !refused);
    EXPECT_TRUE(models[0]->closed() || models[1]->closed());
    EXPECT_TRUE(replicas.closed());
    replicas.close();
    EXPECT_TRUE(models[0]->closed() && models[1]->closed());
}

TEST(ReplicasLifetime, NothingIsAllocatedForARequest) {
    if (!testing::kAllocationsCounted) GTEST_SKIP() << "the sanitizer counts for itself";
    std::vector<std::shared_ptr<Model>> models;
    for (int i = 0; i < 3; ++i) models.push_back(std::make_shared<testing::RecyclingModel>());
    Replicas replicas("m", models);
    const std::vector<Tensor> inputs = testing::inputs();
    const auto ask = [&](int times) {
        for (int i = 0; i < times; ++i) (void)replicas.infer(inputs);
    };
    ask(100);
    const std::uint64_t before = testing::allocations();
    ask(1000);
    EXPECT_EQ(testing::allocations() - before, 0u);
}

TEST(ReplicasStress, ManyThreadsAreAnsweredWhileReplicasAreFullClosedAndLost) {
    const testing::LogCapture log;
    constexpr int kThreads = 4, kEach = 300;
    std::vector<std::shared_ptr<Model>> models;
    for (int i = 0; i < 3; ++i) {
        models.push_back(std::make_shared<FunctionModel>(one_in_one_out("m"), testing::echo,
                                                         FunctionModel::Options{.concurrency = 1, .max_queue = 2}));
    }
    std::atomic<int> until_lost{200};
    models.push_back(std::make_shared<FunctionModel>(one_in_one_out("m"), [&](std::span<const Tensor> inputs) {
        if (--until_lost < 0) std::rethrow_exception(lost_device(0));
        return testing::echo(inputs);
    }));
    Replicas replicas("m", models);
    std::atomic<int> answered{0}, lost{0};
    std::latch start(kThreads + 1);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            start.arrive_and_wait();
            for (int i = 0; i < kEach;) {
                std::vector<std::pair<float, Future<Tensors>>> flight;
                for (int k = 0; k < 5; ++k, ++i) {
                    const auto value = static_cast<float>(thread * kEach + i);
                    flight.emplace_back(value, replicas.infer({{"x", tensor_of({value})}}, WaitOptions()));
                }
                for (const auto& [value, future] : flight) {
                    try {
                        EXPECT_EQ(first_of(future.get()["y"]), value);
                        ++answered;
                    } catch (const CudaError& error) {
                        EXPECT_TRUE(error.device_lost());
                        ++lost;
                    }
                }
            }
        });
    }
    start.arrive_and_wait();
    yield_until([&] { return answered + lost > kThreads * kEach / 4; });
    models[0]->close();
    threads.clear();
    EXPECT_EQ(answered + lost, kThreads * kEach);
    replicas.close();
    for (std::size_t i = 0; i < models.size(); ++i) EXPECT_EQ(replicas.outstanding(i), 0u);
    EXPECT_EQ(replicas.stats().completed, static_cast<std::uint64_t>(answered));
    EXPECT_EQ(replicas.stats().failed, static_cast<std::uint64_t>(lost));
}

}  // namespace
}  // namespace trtlab::core
