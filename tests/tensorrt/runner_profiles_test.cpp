#include "runner_fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// Three profiles: for few, for some and for many.
constexpr std::string_view kThree = R"(trtlab fake plan 1
name three
input a float32 -1x-1
input b float32 -1
output y float32 -1x-1 = double a
profile a 1x1 2x2 8x8
profile a 1x1 8x8 16x16
profile a 10x10 32x32 64x64
profile b 1 1 8
profile b 1 4 8
profile b 2 4 4
end
)";

class RunnerProfiles : public RunnerOfRelease {
protected:
    static std::vector<Tensor> of(std::int64_t rows, std::int64_t columns, std::int64_t b) {
        return {floats({rows, columns}, std::vector<float>(static_cast<std::size_t>(rows * columns), 1)),
                floats({b}, std::vector<float>(static_cast<std::size_t>(b), 1))};
    }
    /// How many contexts there are after the request: each profile has its own.
    static std::uint64_t contexts_after(Runner& model, const std::vector<Tensor>& inputs) {
        EXPECT_EQ(values_of(answer(model, inputs)[0]), std::vector<float>(inputs[0].elements(), 2));
        return counter(model, "contexts");
    }
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerProfiles, releases(), release_name);

TEST_P(RunnerProfiles, WithTheNearestOptimumIsTaken) {
    const auto model = load(kThree, cold(budget_of(1, 1)));
    EXPECT_EQ(contexts_after(*model, of(2, 2, 1)), 1U);
    EXPECT_EQ(contexts_after(*model, of(1, 2, 1)), 1U) << "the same";
    EXPECT_EQ(contexts_after(*model, of(8, 8, 4)), 2U) << "the first takes it too, but was tuned for less";
    EXPECT_EQ(contexts_after(*model, of(7, 6, 3)), 2U);
    EXPECT_EQ(contexts_after(*model, of(12, 12, 4)), 2U) << "the third takes it too, but was tuned for more";
    EXPECT_EQ(contexts_after(*model, of(16, 16, 8)), 2U) << "which only the second takes";
    EXPECT_EQ(contexts_after(*model, of(30, 64, 4)), 3U);
}

TEST_P(RunnerProfiles, ThatTakeNothingOfItAreNamedAtOnce) {
    const auto model = load(kThree, cold(budget_of(1, 1), "three"));
    const auto refusal = [&](const std::vector<Tensor>& inputs) {
        return message_of<core::InvalidArgument>([&] { ask(*model, inputs); });
    };
    EXPECT_THAT(refusal(of(65, 10, 4)),
                AllOf(HasSubstr("'three'"), HasSubstr("input 'a'"), HasSubstr("axis 0 is 65"), HasSubstr("profile 0"),
                      HasSubstr("min 1, opt 2, max 8"), HasSubstr("min 10, opt 32, max 64")));
    EXPECT_THAT(refusal(of(9, 20, 4)),
                AllOf(HasSubstr("axis 0 is 9"), HasSubstr("axis 1 is 20"), HasSubstr("profile 2")))
        << "between two profiles: each says what it misses";
    EXPECT_THAT(refusal(of(2, 2, 9)), AllOf(HasSubstr("input 'b'"), HasSubstr("is 9"), HasSubstr("max 8"),
                                            Not(HasSubstr("input 'a': axis 0 is 2, profile 0"))));
    EXPECT_EQ(model->stats().failed, 0U);
    EXPECT_EQ(fake().contexts, 0);
}

TEST_P(RunnerProfiles, AreForgottenWithTheirShapesAndFoundAgain) {
    const auto model = load(kThree, cold(budget_of(1, 1)));
    for (int round = 0; round < 2; ++round) {
        for (std::int64_t rows = 1; rows <= 16; ++rows) {
            for (std::int64_t columns = 1; columns <= 16; columns += 1) {
                (void)answer(*model, of(rows, columns, 4));
                (void)answer(*model, of(columns, rows, 3));
            }
        }
    }
    EXPECT_EQ(model->stats().failed, 0U);
}

class RunnerWarmUp : public RunnerOfRelease {
protected:
    static Runner::Options warm(std::vector<Runner::Shapes> shapes = {}) {
        Runner::Options options;
        options.name = "m";
        options.budget = budget_of(2, 3);
        options.warm_up = std::move(shapes);
        return options;
    }
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerWarmUp, releases(), release_name);

TEST_P(RunnerWarmUp, MakesAllContextsBeforeTheModelIsReady) {
    const auto model = load(kTwice, warm());
    EXPECT_EQ(counter(*model, "contexts"), 2U * 2U) << "tokens x profiles";
    EXPECT_GT(fake().executions, 0);
    const int contexts = fake().contexts;
    for (std::int64_t rows = 1; rows <= 8; ++rows) (void)answer(*model, {rows_of(rows, 1)});
    EXPECT_EQ(fake().contexts, contexts);
}

TEST_P(RunnerWarmUp, RunsTheShapesThatAreNamed) {
    const auto model = load(kTwice, warm({{{"x", {3, 4}}}, {{"x", {7, 4}}}}));
    EXPECT_GE(bytes_for(model->budget()->memory(), "inputs and outputs"), 2U * 7U * 16U);
    EXPECT_GT(counter(*model, "graph_captures"), 0U);
    EXPECT_EQ(model->stats().failed, 0U);
}

TEST_P(RunnerWarmUp, RefusesShapesThatAreWrong) {
    const auto refusal = [&](std::vector<Runner::Shapes> shapes) {
        return message_of<core::InvalidArgument>([&] { load(kTwice, warm(std::move(shapes))); });
    };
    EXPECT_THAT(message_of<core::NotFound>([&] { load(kTwice, warm({{{"z", {1, 4}}}})); }),
                AllOf(HasSubstr("'m'"), HasSubstr("'z'"), HasSubstr("'x'")));
    EXPECT_THAT(refusal({{}}), AllOf(HasSubstr("'m'"), HasSubstr("'x'"), HasSubstr("missing")));
    EXPECT_THAT(refusal({{{"x", {9, 4}}}}), AllOf(HasSubstr("'x'"), HasSubstr("is 9"), HasSubstr("max 8")));
    EXPECT_THAT(refusal({{{"x", {4}}}}), AllOf(HasSubstr("'x'"), HasSubstr("rank 1")));
    EXPECT_THAT(refusal({{{"x", {1, 4}}}, {{"x", {1, 5}}}}), HasSubstr("'x'"));
    EXPECT_THAT(refusal({{{"x", {-1, 4}}}}), HasSubstr("'x'"));
    EXPECT_TRUE(nothing_is_left());
}

TEST_P(RunnerWarmUp, IsSkippedWhereAskedFor) {
    Runner::Options options = warm();
    options.skip_warm_up = true;
    const auto model = load(kTwice, options);
    EXPECT_EQ(fake().contexts, 0);
    EXPECT_EQ(fake().executions, 0);
    EXPECT_EQ(values_of(answer(*model, {rows_of(1, 1)})[0]), std::vector<float>(4, 2));
}

TEST_P(RunnerWarmUp, MakesContextsButRunsNothingWhereValuesDecideAboutShapes) {
    const auto model = load(kFill, warm());
    EXPECT_EQ(counter(*model, "contexts"), 2U);
    EXPECT_EQ(fake().executions, 0);
    EXPECT_EQ(answer(*model, {floats({1}, {1}), tensor<std::int32_t>(DType::int32, {2}, {2, 3})})[0].shape(),
              Shape({2, 3}));
}

TEST_P(RunnerWarmUp, ThatFailsFailsTheLoadInTensorRTsWords) {
    Runner::Options options = warm();
    options.graphs = false;
    fake().enqueues_until_failure = 1;
    EXPECT_THAT(message_of<core::EngineError>([&] { load(kTwice, options); }),
                AllOf(HasSubstr("'m'"), HasSubstr("was meant to fail")));
    fake().enqueues_until_failure = 6;  // among the requests that warm the buffers up
    EXPECT_THAT(message_of<core::EngineError>([&] { load(kTwice, options); }), HasSubstr("was meant to fail"));
    options.budget.reset();
    EXPECT_TRUE(nothing_is_left());
}

TEST_P(RunnerWarmUp, OfAModelMayHappenWhileAnotherIsBusy) {
    Runner::Options options = warm();
    const auto busy = load(kTwice, options);
    std::atomic<bool> stop{false};
    std::jthread user([&] {
        while (!stop) EXPECT_EQ(values_of(answer(*busy, {rows_of(3, 1)})[0]), std::vector<float>(12, 2));
    });
    for (int i = 0; i < 5; ++i)
        EXPECT_EQ(values_of(answer(*load(kTwice, options), {rows_of(1, 4)})[0]), std::vector<float>(4, 8));
    stop = true;
}

TEST_P(RunnerWarmUp, NothingIsLoadedWithoutANameOrALibraryOrAnEngine) {
    Runner::Options options = warm();
    options.name.clear();
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { load(kTwice, options); }), HasSubstr("name is empty"));
    EXPECT_THAT(message_of<core::InvalidArgument>(
                    [&] { Runner::load_from_memory(nullptr, device(), bytes_of(kTwice), warm()); }),
                AllOf(HasSubstr("'m'"), HasSubstr("library is null")));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { Runner::serve(nullptr, warm()); }),
                HasSubstr("engine is null"));
}

TEST_P(RunnerWarmUp, ServesAnEngineThatExists) {
    const auto twice = engine();
    const auto a = Runner::serve(twice, warm());
    const auto b = Runner::serve(twice, warm());
    EXPECT_EQ(a->engine(), b->engine());
    EXPECT_EQ(values_of(answer(*a, {rows_of(1, 1)})[0]), std::vector<float>(4, 2));
    EXPECT_EQ(values_of(answer(*b, {rows_of(1, 2)})[0]), std::vector<float>(4, 4));
}

}  // namespace
}  // namespace trtlab::tensorrt::test
