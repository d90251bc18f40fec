#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <random>
#include <thread>

#include "batched_models.hpp"
#include "in_child.hpp"
#include "trtlab/core/error.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::ask;
using testing::DoublingModel;
using ::testing::ElementsAre;
using testing::in_child;
using testing::matrix;
using testing::throws_closed;
using testing::values_of;
using testing::yield_until;

/// A batcher whose model computes one request until the gate is opened; two more wait.
struct HeldBatcher : ::testing::Test {
    HeldBatcher() {
        running = ask(*batcher, matrix(1, 1, 1));
        yield_until([&] { return doubling.running == 1; });
        for (const float value : {2.f, 3.f}) waiting.push_back(ask(*batcher, matrix(1, 1, value)));
    }
    DoublingModel doubling{true};
    std::unique_ptr<Batcher> batcher = std::make_unique<Batcher>(doubling.model);
    Future<Tensors> running;
    std::vector<Future<Tensors>> waiting;
};

TEST_F(HeldBatcher, CloseAnswersWhatWaitsAndClosesTheModel) {
    std::jthread closing([&] { batcher->close(); });
    yield_until([&] { return batcher->closed(); });
    EXPECT_THROW((void)ask(*batcher, matrix(1, 1, 4)), Closed);
    EXPECT_FALSE(doubling.model->closed());
    doubling.gate.open();
    closing.join();
    EXPECT_THAT(values_of(waiting[1].get(0s)["y"]), ElementsAre(6));
    EXPECT_TRUE(doubling.model->closed());
    batcher->close(Pending::cancel);
}

TEST_F(HeldBatcher, CloseMayFailWhatWaits) {
    std::jthread closing([&] { batcher->close(Pending::cancel); });
    for (const auto& future : waiting) EXPECT_THROW((void)future.get(), Closed);
    doubling.gate.open();
    closing.join();
    EXPECT_THAT(values_of(running.get(0s)["y"]), ElementsAre(2));
    EXPECT_EQ(batcher->stats().failed, 2u);
}

TEST_F(HeldBatcher, DestroyedBusyItEndsEveryRequestAndLetsGoOfTheModel) {
    std::jthread destroying([&] { batcher.reset(); });
    for (const auto& future : waiting) EXPECT_THROW((void)future.get(), Closed);
    doubling.gate.open();
    destroying.join();
    EXPECT_THAT(values_of(running.get(0s)["y"]), ElementsAre(2));
    EXPECT_EQ(doubling.model.use_count(), 1);
    EXPECT_FALSE(doubling.model->closed());
}

TEST_F(HeldBatcher, MayBeDestroyedInACallbackOfItsOwnFuture) {
    std::latch gone(1);
    running.on_ready([&] {
        batcher.reset();
        gone.count_down();
    });
    doubling.gate.open();
    gone.wait();
    for (const auto& future : waiting) EXPECT_THROW((void)future.get(), Closed);
}

TEST_F(HeldBatcher, CloseInACallbackOfItsOwnIsRefused) {
    std::atomic<int> refused{0};
    std::latch called(1);
    running.on_ready([&] {
        for (const Pending pending : {Pending::drain, Pending::cancel}) {
            try {
                batcher->close(pending);
            } catch (const InvalidArgument&) {
                ++refused;
            }
        }
        called.count_down();
    });
    doubling.gate.open();
    called.wait();
    EXPECT_EQ(refused, 2);
}

TEST_F(HeldBatcher, ItsModelMayBeClosedBehindItsBack) {
    std::jthread closing([&] { doubling.model->close(Pending::cancel); });
    yield_until([&] { return doubling.model->closed(); });
    EXPECT_TRUE(batcher->closed());
    doubling.gate.open();
    for (const auto& future : waiting) EXPECT_THROW((void)future.get(), Closed);
    EXPECT_THROW((void)ask(*batcher, matrix(1, 1, 4)).get(), Closed);
}

TEST_F(HeldBatcher, AForkedChildNeitherHangsNorPretendsToWork) {
    EXPECT_EQ(in_child([&] {
                  const bool right = throws_closed([&] { (void)ask(*batcher, matrix(1, 1, 4)); }) &&
                                     throws_closed([&] { batcher->close(); });
                  batcher.reset();
                  return right ? 0 : 1;
              }),
              0);
    doubling.gate.open();
    EXPECT_THAT(values_of(waiting[0].get()["y"]), ElementsAre(4));
}

TEST(BatcherLifetime, CancelClosesABatchThatWaitsInTheModelsQueue) {
    DoublingModel doubling(true, {.concurrency = 1, .max_queue = 1});
    Batcher batcher(doubling.model);
    std::vector<Future<Tensors>> others;
    for (int i = 0; i < 2; ++i) others.push_back(doubling.model->infer({{"x", matrix(1, 1, 0)}}));
    const auto future = ask(batcher, matrix(1, 1, 4));
    std::jthread closing([&] { batcher.close(Pending::cancel); });
    EXPECT_THROW((void)future.get(), Closed);
    doubling.gate.open();
}

TEST(BatcherLifetime, NothingIsLeftBehind) {
    const std::int64_t before = RefCounted::live();
    {
        DoublingModel doubling;
        Batcher batcher(doubling.model, {.max_in_flight = 2, .deadline = 1h});
        for (int i = 0; i < 100; ++i) (void)ask(batcher, matrix(1, 1, static_cast<float>(-i)));
        EXPECT_THROW((void)ask(batcher, Tensor::allocate(DType::float32, {})), InvalidArgument);
    }
    yield_until([&] { return RefCounted::live() == before; });
}

TEST(BatcherStress, EveryoneGetsTheirOwnAnswerWhateverTheOthersDo) {
    constexpr int kThreads = 4, kEach = 250;
    DoublingModel doubling(false, {.concurrency = 2, .max_queue = 1});
    Batcher batcher(doubling.model, {.max_batch_size = 6,
                                     .max_delay = 100us,
                                     .max_in_flight = 3,
                                     .max_queue = 12,
                                     .priorities = 2,
                                     .padding = {{.input = "x", .axis = 1, .buckets = {2, 4}, .trimmed = {{"y", 1}}}}});
    std::atomic<int> answered{0}, ended{0}, bad{0};
    std::latch start(kThreads);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            std::mt19937 random(static_cast<unsigned>(thread));
            start.arrive_and_wait();
            for (int i = 0; i < kEach;) {
                std::vector<std::pair<Tensor, Future<Tensors>>> flight;
                for (int k = 0; k < 5; ++k, ++i) {
                    const bool poison = random() % 40 == 0;
                    const Tensor x = matrix(1 + random() % 3, 1 + random() % 5,
                                            poison ? -13.f : static_cast<float>(thread * 10'000 + i * 10));
                    RequestOptions options{.priority = static_cast<std::uint32_t>(random() % 2)};
                    if (random() % 10 == 0) options.deadline = std::chrono::microseconds(random() % 500);
                    try {
                        flight.emplace_back(x, ask(batcher, x, options));
                    } catch (const Overloaded&) {
                        ++ended;  // waited for room until its deadline
                        continue;
                    }
                    if (random() % 16 == 0) flight.back().second.cancel();
                }
                for (const auto& [x, future] : flight) {
                    try {
                        const Tensor y = future.get()["y"];
                        ASSERT_EQ(y.shape(), x.shape());
                        std::vector<float> expected = values_of(x);
                        for (float& value : expected) value *= 2;
                        EXPECT_EQ(values_of(y), expected);
                        ++answered;
                    } catch (const Error&) {
                        ++ended;  // late or cancelled
                    } catch (const std::runtime_error&) {
                        EXPECT_EQ(x.data_as<float>()[0], -13) << "suffered from another's error";
                        ++bad;
                    }
                }
            }
        });
    }
    threads.clear();
    batcher.close();
    EXPECT_EQ(answered + ended + bad, kThreads * kEach);
    EXPECT_GT(answered, kThreads * kEach / 2);
    EXPECT_EQ(batcher.stats().completed, static_cast<std::uint64_t>(answered));
    EXPECT_EQ(batcher.dispatch_stats().in_flight, 0u);
}

}  // namespace
}  // namespace trtlab::core
