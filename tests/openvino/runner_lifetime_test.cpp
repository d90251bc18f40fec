#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <thread>

#include "models.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/inference_manager.hpp"

namespace trtlab::openvino::test {
namespace {

using core::Future;
using core::Tensor;
using core::Tensors;
using testing::ElementsAre;
using testing::HasSubstr;

Runner::Options with_budget(const std::string& name, std::size_t executions, std::size_t queue = 1 << 20) {
    Runner::Options options = named(name);
    options.budget = std::make_shared<core::ExecutionBudget>(
        core::ExecutionBudget::Options{.max_executions = executions, .max_buffers = 0, .max_queue = queue});
    return options;
}

/// Runs `callback` on the thread of the model's that completes a request. A request that is done before the callback is
/// there would run it on this thread instead: then with another request.
void on_lane(Runner& model, const Tensor& input, std::function<void()> callback) {
    const std::thread::id here = std::this_thread::get_id();
    for (;;) {
        std::latch looked(1);
        bool elsewhere = false;
        const Future<Tensors> future = model.infer(std::span(&input, 1));
        future.on_ready([&, callback] {
            elsewhere = std::this_thread::get_id() != here;
            const bool mine = elsewhere;
            looked.count_down();
            if (mine) callback();
        });
        looked.wait();
        if (elsewhere) return;
    }
}

/// Some milliseconds of work.
Tensor square(std::int64_t side) {
    return floats({side, side}, std::vector<float>(static_cast<std::size_t>(side * side), 1.0F));
}

TEST(RunnerLifetime, OneThreadCanHoldAHundredTimesTheBuffersInFlight) {
    const auto model = load(add({-1}), with_budget("m", 2));
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 400; ++i) {
        const std::vector<Tensor> inputs{floats({2}, {static_cast<float>(i), 1}), floats({2}, {1, 1})};
        futures.push_back(model->infer(std::span<const Tensor>(inputs)));
    }
    for (int i = 0; i < 400; ++i)
        EXPECT_THAT(values_of(futures[static_cast<std::size_t>(i)].get()[0]), ElementsAre(i + 1, 2));
}

TEST(RunnerLifetime, EightThreadsGetTheirOwnAnswers) {
    const auto model = load(add({-1}), with_budget("m", 3));
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
        threads.emplace_back([&, t] {
            std::vector<Future<Tensors>> futures;
            for (int i = 0; i < 200; ++i) {
                const auto n = static_cast<std::int64_t>(i % 7 + 1);
                const std::vector<float> values(static_cast<std::size_t>(n), static_cast<float>(t * 1000 + i));
                const std::vector<Tensor> inputs{floats({n}, values), floats({n}, values)};
                futures.push_back(model->infer(std::span<const Tensor>(inputs)));
            }
            for (int i = 0; i < 200; ++i) {
                const Tensor result = futures[static_cast<std::size_t>(i)].get()[0];
                if (result.elements() != static_cast<std::size_t>(i % 7 + 1)) ++wrong;
                for (const float value : values_of(result)) wrong += value != static_cast<float>(2 * (t * 1000 + i));
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
    model->close();
    EXPECT_EQ(model->stats().completed, 1600u);
    EXPECT_EQ(model->budget()->stats().executing, 0u);
    EXPECT_EQ(model->budget()->stats().buffers_in_use, 0u);
}

TEST(RunnerLifetime, CallbackMayAskForTheNextAnswer) {
    const auto model = load(add({-1}), with_budget("m", 1));
    constexpr int kRounds = 1000;
    std::latch done(1);
    Tensor sum = floats({1}, {0});
    const Tensor one = floats({1}, {1});
    std::function<void(int)> round = [&](int left) {
        const std::vector<Tensor> inputs{sum, one};
        const Future<Tensors> future = model->infer(std::span<const Tensor>(inputs));
        future.on_ready([&, future, left] {
            sum = future.get()[0];
            left == 1 ? done.count_down() : round(left - 1);
        });
    };
    round(kRounds);
    done.wait();
    EXPECT_THAT(values_of(sum), ElementsAre(kRounds));
}

TEST(RunnerLifetime, ModelsThatShareATokenTakeTurns) {
    const auto budget = std::make_shared<core::ExecutionBudget>(core::ExecutionBudget::Options{});
    Runner::Options options = named("a");
    options.budget = budget;
    const auto a = load(relu({-1}), options);
    options.name = "b";
    const auto b = load(add({-1}), options);
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 100; ++i) {
        const Tensor x = floats({1}, {static_cast<float>(i)});
        futures.push_back(a->infer(std::span(&x, 1)));
        const std::vector<Tensor> both{x, x};
        futures.push_back(b->infer(std::span<const Tensor>(both)));
    }
    for (int i = 0; i < 100; ++i) {
        EXPECT_THAT(values_of(futures[static_cast<std::size_t>(2 * i)].get()[0]), ElementsAre(i));
        EXPECT_THAT(values_of(futures[static_cast<std::size_t>(2 * i + 1)].get()[0]), ElementsAre(2 * i));
    }
}

TEST(RunnerLifetime, QueuedRequestCanBeCancelledAndARunningOneCannot) {
    const auto model = load(long_chain(40), with_budget("m", 1));
    const Tensor input = square(256);
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 8; ++i) futures.push_back(model->infer(std::span(&input, 1)));
    EXPECT_TRUE(futures.back().cancel());
    EXPECT_THROW((void)futures.back().get(), core::Cancelled);
    for (int i = 0; i < 7; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].get()[0].elements(), 256u * 256u);
    EXPECT_FALSE(futures.front().cancel());
}

TEST(RunnerLifetime, FullQueueIsOverloadedAndRecovers) {
    const auto model = load(long_chain(40), with_budget("busy", 1, 1));
    const Tensor input = square(256);
    std::vector<Future<Tensors>> accepted;
    std::string message;
    // One executes, one is staged and one is queued: within a handful of attempts there is no room left.
    for (int i = 0; i < 1000 && message.empty(); ++i) {
        try {
            accepted.push_back(model->infer(std::span(&input, 1), core::WaitOptions(std::chrono::seconds(0))));
        } catch (const core::Overloaded& error) {
            message = error.what();
        }
    }
    EXPECT_THAT(message, HasSubstr("'busy'"));
    for (const Future<Tensors>& future : accepted) EXPECT_EQ(future.get()[0].elements(), 256u * 256u);
    EXPECT_EQ(answer(*model, {input})[0].elements(), 256u * 256u);
}

TEST(RunnerLifetime, CloseDrainsWhatWasAcceptedAndRefusesMore) {
    const auto model = load(long_chain(10), with_budget("m", 1));
    const Tensor input = square(128);
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 10; ++i) futures.push_back(model->infer(std::span(&input, 1)));
    model->close();
    EXPECT_TRUE(model->closed());
    for (const Future<Tensors>& future : futures) {
        EXPECT_TRUE(future.done());
        EXPECT_EQ(future.error(), nullptr);
    }
    EXPECT_THAT(message_of<core::Closed>([&] { (void)model->infer(std::span(&input, 1)); }), HasSubstr("'m'"));
    model->close();
}

TEST(RunnerLifetime, ClosingWithCancelFailsWhatHasNotBegun) {
    const auto model = load(relu({-1}), with_budget("m", 1));
    const Tensor input = floats({1}, {1});
    std::latch release(1);
    on_lane(*model, input, [&] { release.wait(); });
    // The only lane is in that callback: what is launched now waits for it, and the rest is in the budget's queues.
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 50; ++i) futures.push_back(model->infer(std::span(&input, 1)));
    std::thread closer([&] { model->close(core::Pending::cancel); });
    EXPECT_THROW((void)futures.back().get(), core::Closed);
    release.count_down();
    closer.join();
    for (const Future<Tensors>& future : futures) EXPECT_TRUE(future.done());
}

TEST(RunnerLifetime, DestroyingABusyModelEndsEveryFuture) {
    for (int round = 0; round < 10; ++round) {
        std::vector<Future<Tensors>> futures;
        {
            const auto model = load(long_chain(20), with_budget("m", 2));
            const Tensor input = square(128);
            for (int i = 0; i < 20; ++i) futures.push_back(model->infer(std::span(&input, 1)));
            (void)futures.front().wait();
        }
        int answered = 0;
        for (const Future<Tensors>& future : futures) {
            ASSERT_TRUE(future.done());
            if (!future.error()) {
                ++answered;
                EXPECT_EQ(future.get()[0].elements(), 128u * 128u);
            } else {
                EXPECT_THROW((void)future.get(), core::Closed);
            }
        }
        EXPECT_GE(answered, 1);
    }
}

TEST(RunnerLifetime, ModelMayBeDestroyedByACallbackOfItsOwnFuture) {
    for (int round = 0; round < 20; ++round) {
        auto model = load(relu({-1}), with_budget("m", 2));
        std::latch armed(1);
        std::latch destroyed(1);
        const Tensor input = floats({1}, {1});
        on_lane(*model, input, [&] {
            armed.wait();
            model.reset();
            destroyed.count_down();
        });
        std::vector<Future<Tensors>> others;
        for (int i = 0; i < 10; ++i) others.push_back(model->infer(std::span(&input, 1)));
        armed.count_down();
        destroyed.wait();
        for (const Future<Tensors>& other : others) {
            EXPECT_TRUE(other.wait(std::chrono::seconds(60)));
            if (other.error()) {
                EXPECT_THROW((void)other.get(), core::Closed);
            }
        }
    }
}

TEST(RunnerLifetime, ClosingFromACallbackOfItsOwnFutureIsRefused) {
    const auto model = load(relu({-1}), with_budget("m", 1));
    std::string message;
    std::latch done(1);
    on_lane(*model, floats({1}, {1}), [&] {
        message = message_of<core::InvalidArgument>([&] { model->close(); });
        done.count_down();
    });
    done.wait();
    EXPECT_THAT(message, HasSubstr("own future"));
    EXPECT_FALSE(model->closed());
}

TEST(RunnerLifetime, ForkedChildIsRefusedAndDoesNotHang) {
    auto model = load(relu({-1}), with_budget("m", 1));
    const Tensor input = floats({1}, {1});
    (void)answer(*model, {input});
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        alarm(20);
        int result = 1;
        try {
            (void)model->infer(std::span(&input, 1));
        } catch (const core::Closed& error) {
            result = std::string_view(error.what()).find("fork") != std::string_view::npos ? 0 : 2;
        }
        model.reset();
        _exit(result);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
    EXPECT_THAT(values_of(answer(*model, {input})[0]), ElementsAre(1));
}

TEST(RunnerLifetime, ForkedChildMayDropTheLibrary) {
    std::shared_ptr<Library> opened = Library::open({.path = library()->path()});
    // OpenVINO keeps the threads that it made for a model.
    auto model = Runner::load_from_memory(opened, bytes_of(relu({-1})), with_budget("m", 1));
    const Tensor input = floats({1}, {1});
    (void)answer(*model, {input});
    model.reset();
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        alarm(20);
        opened.reset();
        _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

TEST(RunnerLifetime, ProcessMayEndWhileAModelComputes) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(
        {
            auto* model = new std::shared_ptr<Runner>(load(long_chain(40), with_budget("m", 2)));
            auto* input = new Tensor(square(256));
            auto* futures = new std::vector<Future<Tensors>>;
            for (int i = 0; i < 50; ++i) futures->push_back((*model)->infer(std::span(input, 1)));
            (void)futures->front().wait();
            std::exit(0);
        },
        testing::ExitedWithCode(0), "");
}

TEST(RunnerLifetime, ManagerLoadsAndUnloadsWhileInUse) {
    core::InferenceManager manager({.max_executions = 2, .max_buffers = 0, .max_queue = 1024});
    const auto load_one = [&](const std::string& name) {
        return manager.load(
            name, [](const std::string& given, core::InferenceManager& within) -> std::shared_ptr<core::Model> {
                Runner::Options options = named(given);
                options.budget = within.budget();
                return load(relu({-1}), options);
            });
    };
    load_one("stays");
    std::atomic<bool> stop{false};
    std::thread user([&] {
        const Tensor input = floats({2}, {-1, 1});
        while (!stop) {
            const auto model = manager.model("stays");
            EXPECT_THAT(values_of(answer(*model, {input})[0]), ElementsAre(0, 1));
        }
    });
    for (int i = 0; i < 10; ++i) {
        const auto model = load_one("comes and goes");
        EXPECT_THAT(values_of(answer(*model, {floats({1}, {5})})[0]), ElementsAre(5));
        manager.unload("comes and goes");
        EXPECT_TRUE(model->closed());
    }
    stop = true;
    user.join();
}

}  // namespace
}  // namespace trtlab::openvino::test
