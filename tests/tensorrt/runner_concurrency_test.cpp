#include <atomic>
#include <random>

#include "runner_fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

class RunnerConcurrency : public RunnerOfRelease {
protected:
    static constexpr int kThreads = 4, kRequests = 150;

    /// Rows of a value in memory of any kind.
    Tensor any_tensor(std::mt19937& random, std::int64_t rows, float value) const {
        const std::vector<float> values(static_cast<std::size_t>(rows) * 4, value);
        switch (random() % 6) {
            case 0:
                return pinned({rows, 4}, values);
            case 1:
                return on_device({rows, 4}, values);
            case 2:
                return on_device({rows, 4}, values, 16);
            case 3:
                return place(device(), managed_memory(), DType::float32, {rows, 4}, values);
            default:
                return floats({rows, 4}, values);
        }
    }
    /// Every thread sends requests of any shape, some of which it cancels, and looks at all of the answers.
    void expect_right_answers(const std::vector<std::shared_ptr<Runner>>& models, int requests = kRequests) const {
        std::atomic<int> wrong{0}, cancelled{0};
        {
            std::vector<std::jthread> threads;
            for (int t = 0; t < kThreads; ++t) {
                threads.emplace_back([&, t] {
                    std::mt19937 random(static_cast<unsigned>(t));
                    struct Asked {
                        Tensor input;
                        float value;
                        Future<Tensors> future;
                    };
                    std::vector<Asked> asked;
                    const auto look = [&] {
                        for (const Asked& one : asked) {
                            if (one.future.cancelled()) continue;
                            const Tensor y = one.future.get(std::chrono::minutes(1))[0];
                            wrong += !(y.shape() == one.input.shape());
                            for (const float value : values_of(y)) wrong += value != 2 * one.value;
                        }
                        asked.clear();
                    };
                    for (int i = 0; i < requests; ++i) {
                        const float value = static_cast<float>(t * 10000 + i);
                        Asked one{any_tensor(random, static_cast<std::int64_t>(random() % 8 + 1), value), value, {}};
                        one.future = ask(*models[random() % models.size()], {one.input});
                        if (random() % 16 == 0) cancelled += one.future.cancel() ? 1 : 0;
                        asked.push_back(std::move(one));
                        if (random() % 8 == 0) look();
                    }
                    look();
                });
            }
        }
        EXPECT_EQ(wrong, 0);
        std::uint64_t completed = 0, given_up = 0;
        for (const auto& model : models) {
            model->close();
            completed += model->stats().completed;
            given_up += model->stats().cancelled;
            EXPECT_EQ(model->stats().failed, 0U);
        }
        EXPECT_EQ(given_up, static_cast<std::uint64_t>(cancelled));
        EXPECT_EQ(completed + given_up, static_cast<std::uint64_t>(kThreads * requests));
        EXPECT_EQ(models[0]->budget()->stats().executing, 0U);
        EXPECT_EQ(models[0]->budget()->stats().buffers_in_use, 0U);
    }
    static Runner::Options with_graphs(std::shared_ptr<core::ExecutionBudget> budget, const std::string& name) {
        Runner::Options options = cold(std::move(budget), name);
        options.graphs = true;
        options.max_graphs = 16;
        return options;
    }
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerConcurrency, two_releases(), release_name);

TEST_P(RunnerConcurrency, AnswersOfManyThreadsAreTheirOwn) {
    expect_right_answers({load(kTwice, with_graphs(budget_of(2, 4), "m"))});
}

TEST_P(RunnerConcurrency, AnswersOfModelsThatShareABudgetAreTheirOwn) {
    const auto budget = budget_of(3, 5);
    Runner::Options stays = with_graphs(budget, "c");
    stays.outputs = Runner::Outputs::device;
    expect_right_answers(
        {load(kTwice, with_graphs(budget, "a")), load(kTwice, cold(budget, "b")), load(kTwice, stays)});
}

TEST_P(RunnerConcurrency, OneTokenAndOneBufferSufficeForAll) {
    expect_right_answers({load(kTwice, with_graphs(budget_of(1, 1, 8), "m"))}, 60);
}

TEST_P(RunnerConcurrency, ReportsMayBeAskedForMeanwhile) {
    const auto model = load(kTwice, with_graphs(budget_of(2, 4), "m"));
    std::atomic<bool> stop{false};
    std::jthread reader([&] {
        while (!stop) {
            EXPECT_EQ(model->counters().size(), 9U);
            EXPECT_FALSE(model->memory().empty());
            EXPECT_FALSE(model->budget()->memory().empty());
            (void)model->stats();
            std::this_thread::yield();
        }
    });
    expect_right_answers({model}, 60);
    stop = true;
}

TEST_P(RunnerConcurrency, ModelsComeAndGoWhileOthersAnswer) {
    const auto budget = budget_of(2, 4);
    const auto stays = load(kTwice, with_graphs(budget, "stays"));
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    std::vector<std::jthread> users;
    for (int t = 0; t < 2; ++t) {
        users.emplace_back([&, t] {
            for (int i = 0; !stop; ++i) {
                const auto rows = static_cast<std::int64_t>(i % 8 + 1);
                for (const float value : values_of(answer(*stays, {rows_of(rows, static_cast<float>(t))})[0]))
                    wrong += value != static_cast<float>(2 * t);
            }
        });
    }
    for (int i = 0; i < 15; ++i) {
        Runner::Options options = with_graphs(budget, "goes");
        options.skip_warm_up = i % 2 == 0;
        const auto goes = load(kTwice, options);
        std::vector<Future<Tensors>> futures;
        for (int k = 0; k < 6; ++k) futures.push_back(ask(*goes, {rows_of(k + 1, 3)}));
        EXPECT_EQ(values_of(futures[0].get(std::chrono::minutes(1))[0]), std::vector<float>(4, 6));
    }
    stop = true;
    users.clear();
    EXPECT_EQ(wrong, 0);
}

TEST_P(RunnerConcurrency, NothingOfOursIsMadeForARequestAfterAWarmUp) {
    const auto model = load(kTwice, with_graphs(budget_of(2, 4), "m"));
    std::vector<Tensor> inputs;
    for (std::int64_t rows = 1; rows <= 8; ++rows) {
        inputs.push_back(rows_of(rows, 1));
        inputs.push_back(on_device({rows, 4}, std::vector<float>(static_cast<std::size_t>(rows) * 4, 1)));
    }
    std::vector<Future<Tensors>> futures;
    const auto round = [&] {
        for (const Tensor& input : inputs) futures.push_back(ask(*model, {input}));
        for (const auto& future : futures) (void)future.get(std::chrono::minutes(1));
        // Whoever publishes an answer lets go of its request a little later.
        comes_true([&] { return model->under_way() == 0; });
        futures.clear();
    };
    for (int i = 0; i < 20; ++i) round();
    const std::int64_t objects = core::RefCounted::live();
    const FakeCudaLive before = fake_cuda().live();
    for (int i = 0; i < 20; ++i) round();
    EXPECT_LE(core::RefCounted::live(), objects + 2) << "the most that were ever in use at a time may be reached late";
    EXPECT_EQ(fake_cuda().live().events, before.events);
    EXPECT_EQ(fake_cuda().live().device_blocks, before.device_blocks);
    EXPECT_LE(fake_cuda().live().pinned_blocks, before.pinned_blocks + 2);
}

class RunnerTiming : public RunnerOfRelease {};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerTiming, two_releases(), release_name);

TEST_P(RunnerTiming, TellsTheDeviceTimesOfEachPart) {
    Runner::Options options = cold(budget_of(1, 1));
    options.timing = true;
    const auto model = load(kTwice, options);
    // Each thing in a stream takes as long on the fake's clock: a copy, an execution, or the record of an event.
    fake_cuda().set_cost(std::chrono::microseconds(10));
    for (int i = 0; i < 3; ++i) (void)answer(*model, {rows_of(1, 1)});
    model->close();
    const core::ModelStats stats = model->stats();
    EXPECT_EQ(stats.device_timed, 3U);
    EXPECT_NEAR(static_cast<double>(stats.h2d.count()), 3 * 20'000, 100) << "copy and record";
    EXPECT_NEAR(static_cast<double>(stats.compute.count()), 3 * 20'000, 100);
    EXPECT_NEAR(static_cast<double>(stats.d2h.count()), 3 * 20'000, 100);
    EXPECT_GT(stats.enqueue.count(), 0);
}

TEST_P(RunnerTiming, CostsNothingWhereNobodyAsks) {
    const auto model = load();
    (void)answer(*model, {rows_of(1, 1)});
    const std::uint64_t records = fake_cuda().calls("cudaEventRecord");
    (void)answer(*model, {rows_of(1, 1)});
    EXPECT_EQ(fake_cuda().calls("cudaEventRecord"), records + 1);
    EXPECT_EQ(model->stats().device_timed, 0U);
    EXPECT_GT(model->stats().execute.count(), 0);
}

}  // namespace
}  // namespace trtlab::tensorrt::test
