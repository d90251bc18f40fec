#include "runner_fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class RunnerGraphs : public RunnerOfRelease {
protected:
    /// One execution, one buffer: the same addresses again and again.
    static Runner::Options with_graphs(std::shared_ptr<core::ExecutionBudget> budget = budget_of(1, 1)) {
        Runner::Options options = cold(std::move(budget));
        options.graphs = true;
        return options;
    }
    struct Counts {
        std::uint64_t hits, misses, captures, refused, graphs;
        bool operator==(const Counts&) const = default;
        friend std::ostream& operator<<(std::ostream& out, const Counts& counts) {
            return out << counts.hits << " hits, " << counts.misses << " misses, " << counts.captures << " captures, "
                       << counts.refused << " refused, " << counts.graphs << " graphs";
        }
    };
    static Counts counts(const Runner& model) {
        return {counter(model, "graph_hits"), counter(model, "graph_misses"), counter(model, "graph_captures"),
                counter(model, "graphs_refused"), counter(model, "graphs")};
    }
    /// Asks with rows of `value`, and expects the right answer.
    static void expect_right(Runner& model, std::int64_t rows, float value) {
        EXPECT_EQ(values_of(answer(model, {rows_of(rows, value)})[0]),
                  std::vector<float>(static_cast<std::size_t>(rows) * 4, 2 * value));
    }
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerGraphs, releases(), release_name);

TEST_P(RunnerGraphs, AreCapturedTheSecondTimeAndReplayedFromThenOn) {
    const auto model = load(kTwice, with_graphs());
    expect_right(*model, 1, 1);
    EXPECT_EQ(counts(*model), (Counts{0, 1, 0, 0, 0}));
    expect_right(*model, 1, 2);
    EXPECT_EQ(counts(*model), (Counts{0, 2, 1, 0, 1}));
    for (int i = 3; i < 10; ++i) expect_right(*model, 1, static_cast<float>(i));
    EXPECT_EQ(counts(*model), (Counts{7, 2, 1, 0, 1}));
    EXPECT_EQ(fake().enqueues, 2) << "one that ran, one that was captured";
    EXPECT_EQ(fake().executions, 9);
}

TEST_P(RunnerGraphs, OfShapesThatAlternateAreCapturedToo) {
    const auto model = load(kTwice, with_graphs());
    expect_right(*model, 8, 1);  // everything has its final size
    for (int i = 0; i < 6; ++i) {
        for (const std::int64_t rows : {1, 2, 3}) expect_right(*model, rows, static_cast<float>(i));
    }
    EXPECT_EQ(counts(*model), (Counts{12, 1 + 6, 3, 0, 3}));
}

TEST_P(RunnerGraphs, OfProfilesThatAlternateAreRight) {
    const auto model = load(kTwice, with_graphs());
    for (int i = 0; i < 6; ++i) {
        for (const std::int64_t rows : {8, 2, 6, 1}) expect_right(*model, rows, static_cast<float>(i));
    }
    EXPECT_EQ(counts(*model).captures, 4U);
    EXPECT_EQ(counter(*model, "contexts"), 2U);
}

TEST_P(RunnerGraphs, AreThoseOfTheirBuffersAndTokens) {
    const auto model = load(kTwice, with_graphs(budget_of(2, 4)));
    std::vector<Tensor> inputs;
    for (int i = 0; i < 200; ++i) inputs.push_back(rows_of(i % 3 + 1, static_cast<float>(i)));
    std::vector<Future<Tensors>> futures;
    for (const Tensor& input : inputs) futures.push_back(ask(*model, {input}));
    for (int i = 0; i < 200; ++i) {
        EXPECT_EQ(values_of(futures[static_cast<std::size_t>(i)].get(std::chrono::minutes(1))[0]),
                  std::vector<float>(static_cast<std::size_t>(i % 3 + 1) * 4, 2.0F * i));
    }
    const Counts all = counts(*model);
    EXPECT_EQ(all.hits + all.misses, 200U);
    EXPECT_LE(all.captures, 2U * 4U * 3U);
}

TEST_P(RunnerGraphs, ComeToAnEndWhenMemoryMoves) {
    const auto model = load(kTwice, with_graphs());
    for (int i = 0; i < 3; ++i) expect_right(*model, 1, static_cast<float>(i));
    expect_right(*model, 8, 5);  // inputs, outputs and scratch memory grow, and lie elsewhere
    for (int i = 0; i < 4; ++i) expect_right(*model, 1, static_cast<float>(i));
    EXPECT_GE(counts(*model).captures, 2U);
}

TEST_P(RunnerGraphs, AreNoMoreThanAskedForAndTheLeastRecentlyUsedGoesFirst) {
    Runner::Options options = with_graphs();
    options.max_graphs = 4;  // two for each profile
    const auto model = load(kTwice, options);
    expect_right(*model, 8, 0);  // everything has its final size
    for (const std::int64_t rows : {1, 2}) {
        for (int i = 0; i < 3; ++i) expect_right(*model, rows, static_cast<float>(i));
    }
    EXPECT_EQ(counts(*model).graphs, 2U);
    const Counts before = counts(*model);
    expect_right(*model, 1, 7);  // 2 is the oldest now
    expect_right(*model, 3, 7);
    EXPECT_EQ(counts(*model).graphs, 1U) << "3 took the place of 2";
    expect_right(*model, 1, 8);
    EXPECT_EQ(counts(*model).hits, before.hits + 2);
    expect_right(*model, 2, 8);
    EXPECT_EQ(counts(*model).hits, before.hits + 2);
    EXPECT_EQ(fake_cuda().live().executables, counts(*model).graphs);
}

TEST_P(RunnerGraphs, ThatAreRefusedAreDoneWithoutAndLoggedOnce) {
    const auto model = load(kTwice, with_graphs());
    LogCapture log;
    fake().refuse_capture = true;
    for (int i = 0; i < 5; ++i) expect_right(*model, 1, static_cast<float>(i));
    EXPECT_EQ(counts(*model), (Counts{0, 5, 0, 1, 0}));
    EXPECT_THAT(log.text(),
                AllOf(HasSubstr("'m'"), HasSubstr("without a CUDA graph"), HasSubstr("the stream is not captured")));
    EXPECT_EQ(log.text().find("without a CUDA graph"), log.text().rfind("without a CUDA graph"));
    fake().refuse_capture = false;
    expect_right(*model, 1, 1);
    EXPECT_EQ(counts(*model).captures, 0U) << "what was refused is not tried again";
    for (int i = 0; i < 3; ++i) expect_right(*model, 2, 1);
    EXPECT_EQ(counts(*model).captures, 1U) << "other shapes are";
}

TEST_P(RunnerGraphs, ThatCudaCannotMakeAreDoneWithout) {
    const auto model = load(kTwice, with_graphs());
    LogCapture log;
    expect_right(*model, 1, 1);
    fake_cuda().fail("cudaGraphInstantiate", 1, 2);
    for (int i = 0; i < 3; ++i) expect_right(*model, 1, static_cast<float>(i));
    EXPECT_EQ(counts(*model), (Counts{0, 4, 0, 1, 0}));
    EXPECT_THAT(log.text(), HasSubstr("cudaGraphInstantiate"));
}

TEST_P(RunnerGraphs, ThatCannotBeLaunchedFailTheirRequest) {
    const auto model = load(kTwice, with_graphs());
    for (int i = 0; i < 3; ++i) expect_right(*model, 1, 1);
    fake_cuda().fail("cudaGraphLaunch", 1, 801);
    EXPECT_THAT(failure_of<core::CudaError>(ask(*model, {rows_of(1, 1)})), HasSubstr("cudaGraphLaunch"));
    expect_right(*model, 1, 2);
}

TEST_P(RunnerGraphs, AreNotMadeWhereNobodyWantsThem) {
    Runner::Options options = with_graphs();
    options.graphs = false;
    const auto model = load(kTwice, options);
    for (int i = 0; i < 4; ++i) expect_right(*model, 1, static_cast<float>(i));
    EXPECT_EQ(counts(*model), (Counts{0, 4, 0, 0, 0}));
    EXPECT_EQ(fake_cuda().calls("cudaStreamBeginCapture"), 0U);
}

TEST_P(RunnerGraphs, OfNoneKeptAreRefusedWhenTheModelIsLoaded) {
    Runner::Options options = with_graphs();
    options.max_graphs = 0;
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { load(kTwice, options); }),
                AllOf(HasSubstr("'m'"), HasSubstr("max_graphs"), HasSubstr("graphs to false")));
}

TEST_P(RunnerGraphs, OfInputsOnTheDeviceAreThoseOfTheBufferThatTheyAreCopiedTo) {
    const auto model = load(kTwice, with_graphs());
    std::vector<Tensor> inputs;
    for (int i = 0; i < 20; ++i) inputs.push_back(on_device({1, 4}, std::vector<float>(4, static_cast<float>(i))));
    const std::uint64_t before = fake_cuda().copies().device_to_host;
    for (int i = 0; i < 20; ++i) {
        const std::vector<float> got = values_of(answer(*model, {inputs[static_cast<std::size_t>(i)]})[0]);
        EXPECT_EQ(got, std::vector<float>(4, 2.0F * static_cast<float>(i)));
    }
    EXPECT_EQ(counts(*model), (Counts{18, 2, 1, 0, 1}));
    EXPECT_EQ(counter(*model, "inputs_copied"), 20U);
    EXPECT_EQ(counter(*model, "inputs_in_place"), 0U);
    EXPECT_GE(fake_cuda().copies().device_to_host, before + 20 * 16) << "answers; a graph copies its own";
}

TEST_P(RunnerGraphs, OfInputsOnTheDeviceReadThemInPlaceWhereThereAreNone) {
    Runner::Options options = with_graphs();
    options.graphs = false;
    const auto model = load(kTwice, options);
    const std::uint64_t before = fake_cuda().copies().device_to_device;
    EXPECT_EQ(values_of(answer(*model, {on_device({1, 4}, {1, 1, 1, 1})})[0]), std::vector<float>(4, 2));
    EXPECT_EQ(counter(*model, "inputs_in_place"), 1U);
    EXPECT_EQ(fake_cuda().copies().device_to_device, before);
}

TEST_P(RunnerGraphs, OfModelsThatShareScratchMemoryAreRightWhenItGrows) {
    const auto budget = budget_of(1, 1);
    const auto small = load(kTwice, with_graphs(budget));
    const auto large = load(kTwice, with_graphs(budget));
    for (int i = 0; i < 3; ++i) expect_right(*small, 1, static_cast<float>(i));
    for (int i = 0; i < 3; ++i) expect_right(*large, 4, static_cast<float>(i));
    for (int i = 0; i < 3; ++i) expect_right(*small, 1, static_cast<float>(i));
    for (int i = 0; i < 3; ++i) expect_right(*small, 4, static_cast<float>(i));
    EXPECT_GE(counts(*small).captures, 3U);
}

TEST_P(RunnerGraphs, AreThereAfterAWarmUp) {
    Runner::Options options = with_graphs();
    options.skip_warm_up = false;
    const auto model = load(kTwice, options);
    const Counts before = counts(*model);
    EXPECT_GE(before.captures, 2U) << "one for the optimum of each profile";
    expect_right(*model, 2, 1);
    expect_right(*model, 6, 1);
    EXPECT_EQ(counts(*model).hits, before.hits + 2);
    EXPECT_EQ(counts(*model).captures, before.captures);
}

}  // namespace
}  // namespace trtlab::tensorrt::test
