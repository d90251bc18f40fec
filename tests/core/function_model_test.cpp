#include "trtlab/core/function_model.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "allocation_count.hpp"
#include "echo_model.hpp"
#include "interruption.hpp"
#include "trtlab/core/error.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using testing::echo;
using testing::first_of;
using ::testing::HasSubstr;
using testing::one_in_one_out;
using testing::tensor_of;
using testing::yield_until;

std::string failure_of(const Future<Tensors>& future) {
    try {
        (void)future.get();
    } catch (const EngineError& error) {
        return error.what();
    }
    ADD_FAILURE() << "EngineError was expected";
    return "";
}

TEST(FunctionModel, AnswersWithWhatTheFunctionReturns) {
    FunctionModel model(one_in_one_out("echo"), echo);
    EXPECT_EQ(model.spec().name, "echo");
    EXPECT_EQ(model.spec().platform, "function");
    const auto future = model.infer({{"x", tensor_of({1, 2, 3})}});
    const Tensors& answer = future.get();
    ASSERT_EQ(answer.size(), 1u);
    EXPECT_EQ(answer["y"].elements(), 3u);
    EXPECT_EQ(answer["y"].data_as<float>()[2], 3);
    EXPECT_EQ(model.stats().completed, 1u);
}

TEST(FunctionModel, AnswerOutlivesTheModel) {
    Tensors answer;
    {
        FunctionModel model(one_in_one_out("echo"), echo);
        answer = model.infer({{"x", tensor_of({4})}}).get();
    }
    EXPECT_EQ(first_of(answer["y"]), 4);
    EXPECT_EQ(answer.name(0), "y");
}

TEST(FunctionModel, KeepsInputsAliveUntilItIsDoneWithThemAndNoLonger) {
    std::latch open(1);
    FunctionModel model(one_in_one_out("late"), [&](std::span<const Tensor> inputs) {
        open.wait();
        return echo(inputs);
    });
    Tensor input = tensor_of({8});
    const Ref<const RefCounted> owner = input.owner();
    const auto future = model.infer({{"x", std::move(input)}});
    EXPECT_GE(owner->use_count(), 2u);
    open.count_down();
    EXPECT_EQ(first_of(future.get()["y"]), 8);
    EXPECT_EQ(owner->use_count(), 1u);
}

TEST(FunctionModel, PassesTheFunctionsExceptionToTheFuture) {
    FunctionModel model(one_in_one_out("throws"), [](std::span<const Tensor>) -> std::vector<Tensor> {
        throw NotFound("what the function threw");
    });
    const auto future = model.infer({{"x", tensor_of({1})}});
    EXPECT_THROW((void)future.get(), NotFound);
    EXPECT_EQ(model.stats().failed, 1u);
    EXPECT_EQ(model.stats().completed, 0u);
}

TEST(FunctionModel, RefusesOutputsThatItsSpecDoesNotAllow) {
    std::vector<Tensor> outputs;
    FunctionModel model(one_in_one_out("liar"), [&](std::span<const Tensor>) { return outputs; });
    const auto ask = [&] { return failure_of(model.infer({{"x", tensor_of({1})}})); };
    EXPECT_THAT(ask(), AllOf(HasSubstr("'liar'"), HasSubstr("returned 0 outputs, declared are 1")));
    outputs = {Tensor::allocate(DType::int32, {1})};
    EXPECT_THAT(ask(), AllOf(HasSubstr("output 'y': expected float32[?], got int32[1]"), HasSubstr("function")));
    outputs = {Tensor::allocate(DType::float32, {1, 1})};
    EXPECT_THAT(ask(), HasSubstr("rank 2"));
    outputs = {Tensor(TensorView(nullptr, DType::float32, {1}))};
    EXPECT_THAT(ask(), HasSubstr("null address"));
    outputs = {tensor_of({1})};
    EXPECT_EQ(model.infer({{"x", tensor_of({1})}}).get().size(), 1u);
}

TEST(FunctionModel, RefusesInputsBeforeAnythingIsQueued) {
    FunctionModel model(one_in_one_out("strict"), echo);
    EXPECT_THROW((void)model.infer(std::span<const Tensor>{}), InvalidArgument);
    const std::vector<Tensor> omitted(1);
    EXPECT_THROW((void)model.infer(omitted), InvalidArgument);
    const std::vector<Tensor> wrong{Tensor::allocate(DType::float64, {1})};
    EXPECT_THROW((void)model.infer(wrong), InvalidArgument);
    EXPECT_EQ(model.stats().failed, 0u);
}

TEST(FunctionModel, RefusesSpecsAndFunctionsThatCannotWork) {
    EXPECT_THROW(FunctionModel({.name = "m"}, nullptr), InvalidArgument);
    EXPECT_THROW(FunctionModel({.name = "m", .inputs = {{.name = ""}}}, echo), InvalidArgument);
    EXPECT_THROW(FunctionModel(one_in_one_out("m"), echo, {.concurrency = 0}), InvalidArgument);
}

TEST(FunctionModel, NeverRunsMoreCallsAtATimeThanItsConcurrency) {
    constexpr int kConcurrency = 3;
    std::atomic<int> running{0}, most{0};
    FunctionModel model(one_in_one_out("three"),
                        [&](std::span<const Tensor> inputs) {
                            const int now = ++running;
                            for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
                            }
                            std::this_thread::yield();
                            --running;
                            return echo(inputs);
                        },
                        {.concurrency = kConcurrency});
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 500; ++i) futures.push_back(model.infer({{"x", tensor_of({1})}}));
    for (const auto& future : futures) (void)future.get();
    EXPECT_LE(most, kConcurrency);
}

TEST(FunctionModel, FullQueueIsOverloadedAtOnceOrAfterTheTimeGiven) {
    std::latch open(1);
    FunctionModel model(one_in_one_out("busy"),
                        [&](std::span<const Tensor> inputs) {
                            open.wait();
                            return echo(inputs);
                        },
                        {.concurrency = 1, .max_queue = 2, .queue_timeout = 1ms});
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 3; ++i) futures.push_back(model.infer({{"x", tensor_of({1})}}));
    EXPECT_THROW((void)model.infer({{"x", tensor_of({1})}}), Overloaded);
    EXPECT_THROW((void)model.infer({{"x", tensor_of({1})}}, WaitOptions(0s)), Overloaded);
    open.count_down();
    for (const auto& future : futures) EXPECT_EQ(first_of(future.get()["y"]), 1);
    EXPECT_EQ(model.stats().completed, 3u);
}

TEST(FunctionModel, CancelledRequestNeverRunsAndCountsAsCancelled) {
    std::latch open(1);
    std::atomic<int> calls{0};
    FunctionModel model(one_in_one_out("slow"), [&](std::span<const Tensor> inputs) {
        ++calls;
        open.wait();
        return echo(inputs);
    });
    const auto first = model.infer({{"x", tensor_of({1})}});
    const auto second = model.infer({{"x", tensor_of({2})}});
    EXPECT_TRUE(second.cancel());
    open.count_down();
    (void)first.get();
    EXPECT_THROW((void)second.get(), Cancelled);
    model.close();
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(model.stats().cancelled, 1u);
    EXPECT_EQ(model.stats().completed, 1u);
}

TEST(FunctionModel, CallbackMayAskAgain) {
    FunctionModel model(one_in_one_out("loop"), echo);
    constexpr int kRequests = 20'000;
    std::atomic<int> answered{0};
    std::latch done(1);
    std::function<void()> ask = [&] {
        const auto future = model.infer({{"x", tensor_of({1})}});
        future.on_ready([&] {
            if (++answered == kRequests) {
                done.count_down();
            } else {
                ask();
            }
        });
    };
    ask();
    done.wait();
    model.close();
    EXPECT_EQ(model.stats().completed, static_cast<std::uint64_t>(kRequests));
}

TEST(FunctionModel, InterruptedInferIsNotAnswered) {
    testing::InterruptingSignal signal;
    static std::latch* open;
    std::latch latch(1);
    open = &latch;
    FunctionModel model(one_in_one_out("busy"),
                        [&](std::span<const Tensor> inputs) {
                            latch.wait();
                            return echo(inputs);
                        },
                        {.concurrency = 1, .max_queue = 1});
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 2; ++i) futures.push_back(model.infer({{"x", tensor_of({1})}}));
    std::atomic<int> thrown{0};
    // The second one gets its place while the hook runs: the interruption must not be lost then either.
    for (const SignalHook hook : {SignalHook([] { throw testing::Interrupted(); }), SignalHook([] {
                                      open->count_down();
                                      throw testing::Interrupted();
                                  })}) {
        std::thread asking([&] {
            const int before = thrown;
            try {
                (void)model.infer({{"x", tensor_of({2})}}, WaitOptions(kForever, hook));
            } catch (const testing::Interrupted&) {
                thrown = before + 1;
            }
        });
        const int before = thrown;
        signal.interrupt_until(asking, [&] { return thrown > before; });
        asking.join();
    }
    for (const auto& future : futures) (void)future.get();
    model.close();
    const ModelStats stats = model.stats();
    EXPECT_GE(stats.completed, 2u);
    EXPECT_LE(stats.completed + stats.cancelled, 3u);
}

TEST(FunctionModel, AllocatesNothingPerRequestOnceItIsWarm) {
    if (!testing::kAllocationsCounted) GTEST_SKIP() << "the sanitizer counts for itself";
    constexpr int kAtATime = 16, kRounds = 200;
    // The answers are made beforehand: what remains is the library's own way there and back.
    std::vector<std::vector<Tensor>> answers(kAtATime * (kRounds + 1), std::vector<Tensor>{tensor_of({5})});
    std::size_t next = 0;
    std::latch open(1);
    FunctionModel model(one_in_one_out("still"), [&](std::span<const Tensor>) {
        open.wait();
        return std::move(answers[next++]);
    });
    const std::vector<Tensor> inputs{tensor_of({1})};
    std::vector<Future<Tensors>> futures(kAtATime);
    std::atomic<int> callbacks{0};
    const auto ask = [&](int at_a_time) {
        for (int i = 0; i < at_a_time; ++i) {
            futures[static_cast<std::size_t>(i)] = model.infer(inputs);
            futures[static_cast<std::size_t>(i)].on_ready([&callbacks] { ++callbacks; });
        }
        if (!open.try_wait()) open.count_down();
        for (auto& future : futures) {
            if (future.valid()) (void)future.get();
            future = {};
        }
    };
    // Warm are as many requests as are ever in use below, where a worker may be slow to give its last one back, and each
    // has had a callback that had to wait.
    ask(kAtATime);
    const std::uint64_t before = testing::allocations();
    for (int round = 0; round < kRounds; ++round) ask(kAtATime / 2);
    EXPECT_EQ(testing::allocations() - before, 0u);
    model.close();
    EXPECT_EQ(callbacks, kAtATime + kRounds * kAtATime / 2);
}

// The predecessor's one thread with three futures on two buffers waited for ever: buffers came back only in a stage that
// needed what the waiting thread held. Here progress depends on nobody reading answers.
TEST(PredecessorDefect8, AHundredTimesTheBuffersInFlightFromOneThread) {
    FunctionModel model(one_in_one_out("two"), echo, {.concurrency = 2, .max_queue = 1024});
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 200; ++i) futures.push_back(model.infer({{"x", tensor_of({static_cast<float>(i)})}}));
    for (int i = 199; i >= 0; --i)
        EXPECT_EQ(first_of(futures[static_cast<std::size_t>(i)].get()["y"]), static_cast<float>(i));
}

TEST(PredecessorDefect8, AHundredTimesTheBuffersInFlightFromEightThreadsOnAQueueOfFour) {
    FunctionModel model(one_in_one_out("two"), echo, {.concurrency = 2, .max_queue = 4});
    std::latch start(8);
    std::atomic<int> wrong{0};
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 8; ++thread) {
        threads.emplace_back([&, thread] {
            start.arrive_and_wait();
            std::vector<Future<Tensors>> futures;
            const auto value = [&](int i) { return static_cast<float>(1000 * thread + i); };
            for (int i = 0; i < 200; ++i) futures.push_back(model.infer({{"x", tensor_of({value(i)})}}, WaitOptions()));
            for (int i = 0; i < 200; ++i)
                wrong += first_of(futures[static_cast<std::size_t>(i)].get()["y"]) != value(i);
        });
    }
    threads.clear();
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(model.stats().completed, 1600u);
}

}  // namespace
}  // namespace trtlab::core
