#include <mutex>

#include "runner_fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::ElementsAre;

/// An output of half a MiB, which takes long to be copied.
constexpr std::string_view kLong = R"(trtlab fake plan 1
name long
input x float32 131072
output y float32 131072 = double x
end
)";

class RunnerLimits : public RunnerOfRelease {
protected:
    static core::ExecutionBudget::Stats stats(const Runner& model) { return model.budget()->stats(); }
    /// Notes `name` when the future is ready.
    void note(const Future<Tensors>& future, const std::string& name) {
        future.on_ready([this, name] {
            const std::lock_guard lock(mutex_);
            order_.push_back(name);
        });
    }
    std::mutex mutex_;
    std::vector<std::string> order_;
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerLimits, two_releases(), release_name);

TEST_P(RunnerLimits, TokensExecuteBuffersAreStagedAndTheRestWaits) {
    const auto model = load(kTwice, cold(budget_of(2, 3)));
    (void)answer(*model, {rows_of(1, 1)});
    const int before = fake().enqueues;
    std::vector<Tensor> inputs;
    for (int i = 0; i < 6; ++i) inputs.push_back(rows_of(1, static_cast<float>(i)));
    fake_cuda().hold();
    std::vector<Future<Tensors>> futures;
    for (const Tensor& input : inputs) futures.push_back(ask(*model, {input}));
    EXPECT_EQ(stats(*model).executing, 2U);
    EXPECT_EQ(stats(*model).buffers_in_use, 3U);
    EXPECT_EQ(stats(*model).queued, 3U);
    EXPECT_EQ(fake().enqueues, before + 2);
    EXPECT_EQ(fake_cuda().queued(), 2U * 4U + 1U)
        << "input, execution, output, record of each that executes; the next one's input";
    fake_cuda().release();
    for (int i = 0; i < 6; ++i) {
        EXPECT_EQ(values_of(futures[static_cast<std::size_t>(i)].get(std::chrono::minutes(1))[0]),
                  std::vector<float>(4, 2.0F * i));
    }
    EXPECT_EQ(counter(*model, "contexts"), 2U);
}

TEST_P(RunnerLimits, InputsOfTheNextAreCopiedWhileOneIsComputed) {
    const auto model = load(kTwice, cold(budget_of(1, 2)));
    (void)answer(*model, {rows_of(1, 1)});
    StandingStream standing(device());
    const auto first = ask(*model, {standing.behind(on_device({1, 4}, {1, 1, 1, 1}))});
    const std::uint64_t before = fake_cuda().copies().host_to_device;
    const auto second = ask(*model, {rows_of(1, 2)});
    EXPECT_EQ(fake_cuda().copies().host_to_device, before + 16) << "already there";
    EXPECT_FALSE(first.done());
    EXPECT_FALSE(second.done());
    EXPECT_EQ(stats(*model).executing, 1U);
    standing.open();
    EXPECT_EQ(values_of(second.get(std::chrono::minutes(1))[0]), std::vector<float>(4, 4));
    EXPECT_EQ(values_of(first.get(std::chrono::minutes(1))[0]), std::vector<float>(4, 2));
}

TEST_P(RunnerLimits, ModelsOfOneBudgetAreServedInOrderOfAdmission) {
    const auto budget = budget_of(1, 2);
    const auto a = load(kTwice, cold(budget, "a"));
    const auto b = load(kTwice, cold(budget, "b"));
    const Tensor input = rows_of(1, 1);
    fake_cuda().hold();
    std::vector<Future<Tensors>> futures;
    for (const auto& [model, name] : std::vector<std::pair<Runner*, std::string>>{
             {a.get(), "a1"}, {b.get(), "b1"}, {b.get(), "b2"}, {a.get(), "a2"}, {b.get(), "b3"}, {a.get(), "a3"}}) {
        futures.push_back(ask(*model, {input}));
        note(futures.back(), name);
    }
    EXPECT_EQ(budget->stats().executing, 1U);
    fake_cuda().release();
    a->close();
    b->close();
    EXPECT_THAT(order_, ElementsAre("a1", "b1", "b2", "a2", "b3", "a3"));
}

TEST_P(RunnerLimits, OneThatStandsDoesNotStopTheOthers) {
    const auto budget = budget_of(2, 4);
    const auto a = load(kTwice, cold(budget, "a"));
    const auto b = load(kTwice, cold(budget, "b"));
    StandingStream standing(device());
    const auto stands = ask(*a, {standing.behind(on_device({1, 4}, {1, 1, 1, 1}))});
    for (int i = 0; i < 10; ++i) {
        EXPECT_EQ(values_of(answer(*b, {rows_of(1, 1)})[0]), std::vector<float>(4, 2));
        EXPECT_EQ(values_of(answer(*a, {rows_of(2, 3)})[0]), std::vector<float>(8, 6));
    }
    EXPECT_FALSE(stands.done());
    standing.open();
    EXPECT_EQ(values_of(stands.get(std::chrono::minutes(1))[0]), std::vector<float>(4, 2));
}

TEST_P(RunnerLimits, TokenGoesOnBeforeALongOutputIsCopied) {
    const auto model = load(kLong, cold(budget_of(1, 2)));
    const Tensor one = floats({131072}, std::vector<float>(131072, 1)),
                 two = floats({131072}, std::vector<float>(131072, 2));
    fake_cuda().hold();
    const auto first = ask(*model, {one});
    const auto second = ask(*model, {two});
    EXPECT_EQ(fake_cuda().queued(), 3U + 1U) << "input, execution, record of the first; input of the second";
    EXPECT_EQ(fake_cuda().step(3), 3U);
    // The first one's output and record; the second one's input, execution and record.
    EXPECT_TRUE(comes_true([] { return fake_cuda().queued() == 2 + 3; }));
    EXPECT_FALSE(first.done());
    EXPECT_EQ(stats(*model).executing, 1U);
    EXPECT_EQ(fake().enqueues, 2);
    fake_cuda().release();
    EXPECT_EQ(values_of(first.get(std::chrono::minutes(1))[0]), std::vector<float>(131072, 2));
    EXPECT_EQ(values_of(second.get(std::chrono::minutes(1))[0]), std::vector<float>(131072, 4));
}

TEST_P(RunnerLimits, TokenGoesOnBeforeOutputsOfComputedShapeAreCopied) {
    const auto model = load(kNonzero, cold(budget_of(1, 2)));
    const Tensor input = floats({3}, {0, 1, 0});
    (void)answer(*model, {input});
    const std::uint64_t before = fake_cuda().calls("cudaEventRecord");
    EXPECT_THAT(values_of<std::int64_t>(answer(*model, {input})[0]), ElementsAre(1));
    EXPECT_EQ(fake_cuda().calls("cudaEventRecord"), before + 2) << "when it was computed, and when it was copied";
}

TEST_P(RunnerLimits, FullQueueIsOverloadedAndNamesTheModel) {
    const auto model = load(kTwice, cold(budget_of(1, 1, 1), "busy"));
    const std::vector<Tensor> input{rows_of(1, 1)};
    fake_cuda().hold();
    const auto executes = ask(*model, input);
    const auto waits = ask(*model, input);
    EXPECT_THAT(message_of<core::Overloaded>([&] {
                    (void)model->infer(std::span<const Tensor>(input), core::WaitOptions(std::chrono::seconds(0)));
                }),
                testing::HasSubstr("'busy'"));
    fake_cuda().release();
    EXPECT_EQ(values_of(waits.get(std::chrono::minutes(1))[0]), std::vector<float>(4, 2));
    EXPECT_EQ(values_of(executes.get(std::chrono::minutes(1))[0]), std::vector<float>(4, 2));
}

TEST_P(RunnerLimits, OneThreadHoldsAHundredTimesTheBuffersInFlight) {
    const auto model = load(kTwice, cold(budget_of(2)));
    std::vector<Tensor> inputs;
    for (int i = 0; i < 400; ++i) inputs.push_back(rows_of(i % 8 + 1, static_cast<float>(i)));
    std::vector<Future<Tensors>> futures;
    for (const Tensor& input : inputs) futures.push_back(ask(*model, {input}));
    for (int i = 0; i < 400; ++i) {
        const Tensor y = futures[static_cast<std::size_t>(i)].get(std::chrono::minutes(1))[0];
        EXPECT_EQ(values_of(y), std::vector<float>(static_cast<std::size_t>(i % 8 + 1) * 4, 2.0F * i));
    }
    EXPECT_EQ(model->stats().completed, 400U);
    EXPECT_LE(fake_cuda().live().streams, 4U) << "one for each buffer";
}

}  // namespace
}  // namespace trtlab::tensorrt::test
