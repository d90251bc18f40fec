#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>

#include "runner_fixture.hpp"
#include "trtlab/core/inference_manager.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::HasSubstr;

class RunnerLifetime : public RunnerOfRelease {
protected:
    static void expect_right(const Future<Tensors>& future, float value) {
        EXPECT_EQ(values_of(future.get(std::chrono::minutes(1))[0]), std::vector<float>(4, 2 * value));
    }
    const std::vector<Tensor> one_{rows_of(1, 1)};
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerLifetime, two_releases(), release_name);

TEST_P(RunnerLifetime, RequestThatWaitsCanBeCancelledAndOneThatExecutesCannot) {
    const auto model = load(kTwice, cold(budget_of(1, 1)));
    fake_cuda().hold();
    const auto executes = ask(*model, one_);
    const auto waits = ask(*model, one_);
    const auto last = ask(*model, one_);
    EXPECT_FALSE(executes.cancel());
    EXPECT_TRUE(waits.cancel());
    EXPECT_THROW((void)waits.get(), core::Cancelled);
    fake_cuda().release();
    expect_right(executes, 1);
    expect_right(last, 1);
    EXPECT_FALSE(last.cancel());
    model->close();
    EXPECT_EQ(model->stats().cancelled, 1U);
    EXPECT_EQ(model->stats().completed, 2U);
}

TEST_P(RunnerLifetime, RequestThatIsStagedCanBeCancelled) {
    const auto model = load(kTwice, cold(budget_of(1, 2)));
    fake_cuda().hold();
    const auto executes = ask(*model, one_);
    const auto staged = ask(*model, one_);
    EXPECT_EQ(model->budget()->stats().buffers_in_use, 2U);
    EXPECT_TRUE(staged.cancel());
    const auto next = ask(*model, one_);
    fake_cuda().release();
    expect_right(executes, 1);
    expect_right(next, 1);
    model->close();
    EXPECT_EQ(model->stats().cancelled, 1U);
    EXPECT_EQ(model->budget()->stats().buffers_in_use, 0U);
    EXPECT_EQ(model->budget()->stats().executing, 0U);
}

TEST_P(RunnerLifetime, RequestWhoseInputTheGpuReadsWhereItIsCannotBeCancelled) {
    const auto model = load(kTwice, cold(budget_of(1, 2)));
    (void)answer(*model, one_);
    Tensor mine = pinned({1, 4}, {1, 2, 3, 4});
    const Tensor borrowed(core::TensorView(mine.data(), DType::float32, {1, 4}, mine.device()));
    fake_cuda().hold();
    const auto executes = ask(*model, one_);
    const auto staged = ask(*model, {borrowed});
    if (staged.cancel()) mine = {};  // as whoever cancelled may do
    fake_cuda().release();
    EXPECT_FALSE(staged.cancelled());
    EXPECT_EQ(values_of(staged.get(std::chrono::minutes(1))[0]), (std::vector<float>{2, 4, 6, 8}));
    expect_right(executes, 1);
}

TEST_P(RunnerLifetime, CancelledRequestThatWaitsForAFenceKeepsNobodyElse) {
    const auto model = load(kTwice, cold(budget_of(1, 3)));
    StandingStream first(device()), second(device());
    const auto executes = ask(*model, {first.behind(on_device({1, 4}, {1, 1, 1, 1}))});
    const auto cancelled = ask(*model, {second.behind(on_device({1, 4}, {2, 2, 2, 2}))});
    EXPECT_TRUE(cancelled.cancel());
    first.open();
    expect_right(executes, 1);
    for (int i = 0; i < 5; ++i) expect_right(ask(*model, one_), 1);
    EXPECT_EQ(model->budget()->stats().buffers_in_use, 1U) << "its own: the stream still reads the input";
    second.open();
    model->close();
    EXPECT_EQ(model->budget()->stats().buffers_in_use, 0U);
    EXPECT_EQ(model->stats().cancelled, 1U);
}

TEST_P(RunnerLifetime, CloseDrainsWhatIsInFlightAndRefusesMore) {
    const auto model = load(kTwice, cold(budget_of(1, 2)));
    fake_cuda().hold();
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 6; ++i) futures.push_back(ask(*model, one_));
    std::jthread closer([&] { model->close(); });
    EXPECT_TRUE(comes_true([&] { return model->closed(); }));
    EXPECT_THAT(message_of<core::Closed>([&] { ask(*model, one_); }), HasSubstr("'m'"));
    EXPECT_FALSE(futures.front().done());
    fake_cuda().release();
    closer.join();
    for (const auto& future : futures) {
        EXPECT_TRUE(future.done());
        expect_right(future, 1);
    }
    model->close();
}

TEST_P(RunnerLifetime, CloseWithCancelFailsWhatHasNotBegun) {
    const auto model = load(kTwice, cold(budget_of(1, 2)));
    fake_cuda().hold();
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 6; ++i) futures.push_back(ask(*model, one_));
    std::jthread closer([&] { model->close(core::Pending::cancel); });
    EXPECT_THROW((void)futures.back().get(std::chrono::minutes(1)), core::Closed) << "without the GPU";
    EXPECT_FALSE(futures.front().done());
    fake_cuda().release();
    closer.join();
    expect_right(futures.front(), 1);
    for (std::size_t i = 1; i < futures.size(); ++i) EXPECT_THROW((void)futures[i].get(), core::Closed);
    EXPECT_EQ(model->budget()->stats().buffers_in_use, 0U);
}

TEST_P(RunnerLifetime, DestroyedBusyEndsEveryFuture) {
    for (int round = 0; round < 10; ++round) {
        std::vector<Future<Tensors>> futures;
        std::jthread releaser;
        {
            const auto model = load(kTwice, cold(budget_of(2, 3)));
            fake_cuda().hold();
            for (int i = 0; i < 10; ++i) futures.push_back(ask(*model, one_));
            releaser = std::jthread([] { fake_cuda().release(); });
        }
        int answered = 0;
        for (const auto& future : futures) {
            ASSERT_TRUE(future.done());
            if (future.error()) {
                EXPECT_THROW((void)future.get(), core::Closed);
            } else {
                ++answered;
                expect_right(future, 1);
            }
        }
        EXPECT_GE(answered, 2) << "those that executed";
    }
}

TEST_P(RunnerLifetime, DestroyedByACallbackOfItsOwnFuture) {
    for (int round = 0; round < 20; ++round) {
        auto model = load(kTwice, cold(budget_of(2, 3)));
        std::latch destroyed(1);
        fake_cuda().hold();
        const auto first = ask(*model, one_);
        std::vector<Future<Tensors>> others;
        for (int i = 0; i < 5; ++i) others.push_back(ask(*model, one_));
        first.on_ready([&] {
            model.reset();  // with the last share in its budget
            destroyed.count_down();
        });
        fake_cuda().release();
        destroyed.wait();
        for (const auto& other : others) {
            ASSERT_TRUE(other.wait(std::chrono::minutes(1)));
            if (!other.error()) expect_right(other, 1);
        }
        EXPECT_TRUE(comes_true([] { return fake_cuda().live().streams == 0; }));
    }
}

TEST_P(RunnerLifetime, ClosingFromACallbackOfItsOwnFutureIsRefused) {
    const auto model = load();
    std::string message;
    std::latch done(1);
    fake_cuda().hold();
    ask(*model, one_).on_ready([&] {
        message = message_of<core::InvalidArgument>([&] { model->close(); });
        done.count_down();
    });
    fake_cuda().release();
    done.wait();
    EXPECT_THAT(message, HasSubstr("own future"));
    EXPECT_FALSE(model->closed());
}

TEST_P(RunnerLifetime, CallbacksMayAskAgain) {
    const auto model = load(kTwice, cold(budget_of(1, 1)));
    std::latch done(1);
    Tensor x = rows_of(1, 1);
    std::function<void(int)> round = [&](int left) {
        const auto future = ask(*model, {x});
        future.on_ready([&, future, left] {
            x = future.get()[0];
            left == 1 ? done.count_down() : round(left - 1);
        });
    };
    round(20);
    done.wait();
    EXPECT_EQ(values_of(x), std::vector<float>(4, 1 << 20));
}

TEST_P(RunnerLifetime, BudgetAndModelsMayGoInAnyOrder) {
    auto budget = budget_of(1, 2);
    auto a = load(kTwice, cold(budget, "a"));
    auto b = load(kTwice, cold(budget, "b"));
    budget.reset();
    fake_cuda().hold();
    const auto of_a = ask(*a, one_), of_b = ask(*b, one_);
    std::jthread releaser([] { fake_cuda().release(); });
    a.reset();
    releaser.join();
    expect_right(of_a, 1);
    expect_right(of_b, 1);
    budget = b->budget();
    b.reset();
    const auto c = load(kTwice, cold(budget, "c"));
    expect_right(ask(*c, one_), 1);
    EXPECT_LE(fake_cuda().live().streams, 2U) << "those of the budget serve again";
}

TEST_P(RunnerLifetime, InputsAreKeptAsLongAsTheyAreNeededAndNoLonger) {
    struct Owner final : core::RefCounted {
        explicit Owner(std::atomic<int>& alive_) : alive(alive_) { ++alive; }
        ~Owner() override { --alive; }
        std::atomic<int>& alive;
    };
    std::atomic<int> alive{0};
    const auto model = load(kTwice, cold(budget_of(1, 2)));
    const Tensor memory = pinned({1, 4}, {1, 1, 1, 1});
    const auto owned = [&] { return Tensor(memory, core::make_ref<Owner>(alive)); };
    fake_cuda().hold();
    const auto executes = ask(*model, {owned()}), staged = ask(*model, {owned()}), waits = ask(*model, {owned()});
    EXPECT_EQ(alive, 3);
    EXPECT_TRUE(waits.cancel());
    fake_cuda().release();
    expect_right(executes, 1);
    expect_right(staged, 1);
    model->close();
    EXPECT_EQ(alive, 0) << "although the futures are still held";
}

TEST_P(RunnerLifetime, ForkedChildIsRefusedAndDoesNotHang) {
    auto model = load();
    (void)answer(*model, one_);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        alarm(20);
        int result = 1;
        try {
            ask(*model, one_);
        } catch (const core::Closed& error) {
            result = std::string_view(error.what()).find("fork") != std::string_view::npos ? 0 : 2;
        }
        model.reset();
        _exit(result);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
    expect_right(ask(*model, one_), 1);
}

TEST_P(RunnerLifetime, ProcessMayEndWhileTheGpuComputes) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(
        {
            auto* model = new std::shared_ptr<Runner>(load(kTwice, cold(budget_of(2, 3))));
            auto* futures = new std::vector<Future<Tensors>>;
            fake_cuda().hold();
            for (int i = 0; i < 10; ++i) futures->push_back(ask(**model, one_));
            std::exit(0);
        },
        testing::ExitedWithCode(0), "");
}

TEST_P(RunnerLifetime, ProcessMayEndWithAModelThatIsStatic) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(
        {
            static std::shared_ptr<Runner> model = load(kTwice, cold(budget_of(2, 3)));
            (void)answer(*model, one_);
            std::exit(0);
        },
        testing::ExitedWithCode(0), "");
}

TEST_P(RunnerLifetime, ManagerLoadsAndUnloadsWhileInUse) {
    core::InferenceManager manager({.max_executions = 2, .max_buffers = 0, .max_queue = 1024});
    const auto load_one = [&](const std::string& name) {
        return manager.load(
            name, [&](const std::string& given, core::InferenceManager& within) -> std::shared_ptr<core::Model> {
                Runner::Options options = cold(within.budget(), given);
                options.skip_warm_up = false;
                return load(kTwice, options);
            });
    };
    load_one("stays");
    std::atomic<bool> stop{false};
    std::jthread user([&] {
        while (!stop) expect_right(ask(*manager.model("stays"), one_), 1);
    });
    for (int i = 0; i < 10; ++i) {
        const auto model = load_one("comes and goes");
        expect_right(ask(*model, one_), 1);
        manager.unload("comes and goes");
        EXPECT_TRUE(model->closed());
    }
    stop = true;
}

}  // namespace
}  // namespace trtlab::tensorrt::test
