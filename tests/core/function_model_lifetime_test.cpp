#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "echo_model.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/function_model.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::echo;
using testing::first_of;
using ::testing::HasSubstr;
using testing::one_in_one_out;
using testing::tensor_of;
using testing::yield_until;

/// A model whose calls wait until they are let go.
struct HeldModel {
    struct Hold {
        std::latch busy{1}, open{1};
    };

    explicit HeldModel(const FunctionModel::Options& options = {})
        : model(std::make_shared<FunctionModel>(
              one_in_one_out("held"),
              [hold = hold](std::span<const Tensor> inputs) {
                  if (!hold->open.try_wait()) {
                      hold->busy.count_down();
                      hold->open.wait();
                  }
                  return echo(inputs);
              },
              options)) {}

    Future<Tensors> ask(float value) { return model->infer({{"x", tensor_of({value})}}, WaitOptions(kForever)); }

    std::shared_ptr<Hold> hold = std::make_shared<Hold>();
    std::shared_ptr<FunctionModel> model;
};

TEST(FunctionModelClose, DrainsWhatWasAccepted) {
    HeldModel held;
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 5; ++i) futures.push_back(held.ask(static_cast<float>(i)));
    held.hold->busy.wait();
    std::jthread closer([&] { held.model->close(); });
    yield_until([&] { return held.model->closed(); });
    EXPECT_THROW((void)held.ask(9), Closed);
    EXPECT_FALSE(futures[4].done());
    held.hold->open.count_down();
    closer.join();
    for (int i = 0; i < 5; ++i)
        EXPECT_EQ(first_of(futures[static_cast<std::size_t>(i)].get(0s)["y"]), static_cast<float>(i));
}

TEST(FunctionModelClose, CancelFailsWhatHadNotBegun) {
    HeldModel held;
    const auto running = held.ask(1);
    held.hold->busy.wait();
    const auto queued = held.ask(2);
    std::jthread closer([&] { held.model->close(Pending::cancel); });
    try {
        (void)queued.get();  // while the other one still runs
        FAIL();
    } catch (const Closed& error) {
        EXPECT_THAT(error.what(), HasSubstr("'held'"));
    }
    EXPECT_FALSE(running.done());
    held.hold->open.count_down();
    closer.join();
    EXPECT_EQ(first_of(running.get(0s)["y"]), 1);
    EXPECT_EQ(held.model->stats().failed, 1u);
}

TEST(FunctionModelClose, WakesCallersBlockedOnAFullQueue) {
    HeldModel held({.concurrency = 1, .max_queue = 1});
    const auto running = held.ask(1);
    held.hold->busy.wait();
    const auto queued = held.ask(2);
    std::atomic<int> closed{0};
    std::vector<std::jthread> blocked;
    for (int i = 0; i < 3; ++i) {
        blocked.emplace_back([&] {
            try {
                (void)held.ask(3);
            } catch (const Closed&) {
                ++closed;
            }
        });
    }
    std::jthread closer([&] { held.model->close(); });
    blocked.clear();
    EXPECT_EQ(closed, 3);
    held.hold->open.count_down();
    closer.join();
    EXPECT_EQ(first_of(queued.get(0s)["y"]), 2);
}

TEST(FunctionModelClose, IsIdempotentAndMayBeCalledByManyThreads) {
    HeldModel held;
    const auto future = held.ask(1);
    held.hold->busy.wait();
    std::vector<std::jthread> closers;
    for (int i = 0; i < 3; ++i) {
        closers.emplace_back([&] {
            held.model->close();
            EXPECT_TRUE(future.done());
        });
    }
    held.hold->open.count_down();
    closers.clear();
    held.model->close(Pending::cancel);
    EXPECT_TRUE(held.model->closed());
    EXPECT_THROW((void)held.ask(2), Closed);
}

TEST(FunctionModelClose, IsRefusedToACallbackOfItsOwnFutures) {
    HeldModel held;
    const auto future = held.ask(1);
    std::string error;
    future.on_ready([&] {
        try {
            held.model->close();
        } catch (const InvalidArgument& refused) {
            error = refused.what();
        }
    });
    held.hold->open.count_down();
    held.model->close();
    EXPECT_THAT(error, HasSubstr("'held': close() was called"));
}

TEST(FunctionModelClose, IsRefusedToItsOwnFunction) {
    std::shared_ptr<FunctionModel> model;
    model = std::make_shared<FunctionModel>(one_in_one_out("self"), [&](std::span<const Tensor> inputs) {
        model->close();
        return echo(inputs);
    });
    const auto future = model->infer({{"x", tensor_of({1})}});
    EXPECT_THROW((void)future.get(), InvalidArgument);
    EXPECT_FALSE(model->closed());
}

TEST(FunctionModelClose, OfAnotherModelIsAllowedInACallback) {
    FunctionModel model(one_in_one_out("one"), echo), other(one_in_one_out("other"), echo);
    std::latch done(1);
    model.infer({{"x", tensor_of({1})}}).on_ready([&] {
        other.close();
        done.count_down();
    });
    done.wait();
    EXPECT_TRUE(other.closed());
    EXPECT_FALSE(model.closed());
}

TEST(FunctionModelDestructor, WhileBusyCancelsTheQueueAndWaitsForWhatRuns) {
    HeldModel held;
    const auto hold = held.hold;
    const auto running = held.ask(1);
    hold->busy.wait();
    std::vector<Future<Tensors>> queued;
    for (int i = 0; i < 10; ++i) queued.push_back(held.ask(2));
    std::jthread destroyer([&] { held.model.reset(); });
    for (const auto& future : queued) EXPECT_THROW((void)future.get(), Closed);
    EXPECT_FALSE(running.done());
    hold->open.count_down();
    destroyer.join();
    EXPECT_EQ(first_of(running.get(0s)["y"]), 1);
}

TEST(FunctionModelDestructor, ReturnsWhenItsWorkersAreDoneWithEverythingThatTheyWereGiven) {
    struct Slow final : RefCounted {
        explicit Slow(int& gone_) : gone(gone_) {}
        ~Slow() override {
            for (int i = 0; i < 2000; ++i) std::this_thread::yield();
            ++gone;
        }
        int& gone;
    };
    for (int round = 0; round < 20; ++round) {
        int gone = 0;  // no atomic: the destructor orders it, or ThreadSanitizer complains
        auto captured = std::make_shared<float>(1);
        {
            FunctionModel model(one_in_one_out("brief"), [captured, &gone](std::span<const Tensor>) {
                const TensorView view(captured.get(), DType::float32, {1});
                return std::vector<Tensor>{Tensor(view, make_ref<Slow>(gone))};
            });
            (void)model.infer({{"x", tensor_of({1})}});  // dropped: the worker is the last to hold the answer
            model.close();
        }
        ASSERT_EQ(gone, 1);
        ASSERT_EQ(captured.use_count(), 1);
    }
}

TEST(FunctionModelDestructor, MayRunInACallbackOfItsOwnFuture) {
    for (int round = 0; round < 100; ++round) {
        std::latch open(1), destroyed(1);
        auto model = std::make_unique<FunctionModel>(one_in_one_out("gone"), [&open](std::span<const Tensor> inputs) {
            open.wait();
            return echo(inputs);
        });
        const auto first = model->infer({{"x", tensor_of({1})}});
        const auto second = model->infer({{"x", tensor_of({2})}});
        first.on_ready([&] {
            model.reset();
            destroyed.count_down();
        });
        open.count_down();
        destroyed.wait();
        EXPECT_EQ(first_of(first.get()["y"]), 1);
        EXPECT_THROW((void)second.get(), Closed);
    }
}

TEST(FunctionModelDestructor, MayRunInItsOwnFunction) {
    std::unique_ptr<FunctionModel> model;
    std::latch asked(1);
    model = std::make_unique<FunctionModel>(one_in_one_out("last call"), [&](std::span<const Tensor> inputs) {
        asked.wait();
        model.reset();
        return echo(inputs);
    });
    const auto future = model->infer({{"x", tensor_of({6})}});
    asked.count_down();
    EXPECT_EQ(first_of(future.get()["y"]), 6);
}

/// Keeps a model alive for as long as a tensor, and owns the tensor's only element.
struct ModelKeeper final : RefCounted {
    explicit ModelKeeper(std::latch& gone_) : gone(gone_) {}
    ~ModelKeeper() override {
        model.reset();
        gone.count_down();
    }
    Tensor tensor() { return Tensor(TensorView(&value, DType::float32, {1}), Ref<const RefCounted>(this)); }

    std::shared_ptr<FunctionModel> model;
    float value = 3;
    std::latch& gone;
};

TEST(FunctionModelDestructor, MayRunWhenTheLastInputIsDropped) {
    std::latch gone(1);
    HeldModel held;
    auto keeper = make_ref<ModelKeeper>(gone);
    const auto future = held.model->infer({{"x", keeper->tensor()}});
    keeper->model = std::move(held.model);
    keeper = nullptr;
    held.hold->open.count_down();
    gone.wait();
    EXPECT_EQ(first_of(future.get()["y"]), 3);
}

TEST(FunctionModelDestructor, MayRunWhenTheInputOfACancelledRequestIsDropped) {
    std::latch gone(1);
    HeldModel held;
    auto keeper = make_ref<ModelKeeper>(gone);
    const auto running = held.ask(1);
    held.hold->busy.wait();
    const auto queued = held.model->infer({{"x", keeper->tensor()}});
    EXPECT_TRUE(queued.cancel());
    keeper->model = std::move(held.model);
    keeper = nullptr;
    held.hold->open.count_down();
    gone.wait();
    EXPECT_EQ(first_of(running.get()["y"]), 1);
}

TEST(FunctionModelDestructor, MayRunWhenAnAnswerThatNobodyWantsIsDropped) {
    std::latch gone(1), asked(1);
    auto keeper = make_ref<ModelKeeper>(gone);
    auto model = std::make_shared<FunctionModel>(one_in_one_out("own"), [&](std::span<const Tensor>) {
        asked.wait();
        return std::vector<Tensor>{std::exchange(keeper, nullptr)->tensor()};
    });
    (void)model->infer({{"x", tensor_of({1})}});
    keeper->model = std::move(model);
    asked.count_down();
    gone.wait();
}

TEST(FunctionModelFork, ChildNeitherHangsNorPretendsToWork) {
    HeldModel held;
    const auto running = held.ask(1);
    held.hold->busy.wait();  // in flight as the process forks
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        int closed = 0;
        try {
            (void)held.ask(2);
        } catch (const Closed&) {
            ++closed;
        }
        try {
            held.model->close();
        } catch (const Closed&) {
            ++closed;
        }
        held.model.reset();
        _exit(closed == 2 ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
    EXPECT_EQ(WEXITSTATUS(status), 0);
    held.hold->open.count_down();
    EXPECT_EQ(first_of(running.get()["y"]), 1);
}

TEST(FunctionModelStress, ClosingWhileManyAskEndsEveryRequestOneWayOrTheOther) {
    for (int round = 0; round < 60; ++round) {
        auto model = std::make_shared<FunctionModel>(one_in_one_out("busy"), echo,
                                                     FunctionModel::Options{.concurrency = 2, .max_queue = 3});
        std::atomic<int> answered{0}, ended{0}, refused{0};
        std::vector<std::jthread> threads;
        constexpr int kThreads = 3, kRequests = 50;
        for (int thread = 0; thread < kThreads; ++thread) {
            threads.emplace_back([&, model] {
                for (int i = 0; i < kRequests; ++i) {
                    try {
                        const auto future = model->infer({{"x", tensor_of({1})}}, WaitOptions());
                        future.on_ready([&answered] { ++answered; });
                        if (i % 7 == 0) future.cancel();
                        (void)future.get();
                        ++ended;
                    } catch (const Cancelled&) {
                        ++ended;
                    } catch (const Closed&) {
                        ++refused;  // at the door, or later
                    }
                }
            });
        }
        yield_until([&] { return ended > round; });
        model->close(round % 2 == 0 ? Pending::cancel : Pending::drain);
        threads.clear();
        EXPECT_EQ(ended + refused, kThreads * kRequests);
        EXPECT_GE(answered, ended);
    }
}

// The predecessor's completer referred to a task object on the stack: an asynchronous release() used freed memory.
TEST(PredecessorDefect5, CompletionThatComesAfterItsHandlesAreGoneUsesNothingFreed) {
    HeldModel held;
    (void)held.ask(1);  // nobody keeps the future
    held.hold->busy.wait();
    (void)held.ask(2).cancel();
    held.hold->open.count_down();
    held.model->close();
    EXPECT_EQ(held.model->stats().completed, 1u);
}

}  // namespace
}  // namespace trtlab::core
