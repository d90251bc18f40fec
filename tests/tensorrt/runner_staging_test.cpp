#include "device_resources.hpp"
#include "runner_fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::Each;
using testing::HasSubstr;

/// Inputs large enough to be handed over to the threads that stage, and small outputs.
constexpr std::string_view kLargeInput = R"(trtlab fake plan 1
name large
input x float32 -1
input s int32 1 shape
output y float32 -1 = fill x s
profile x 1 65536 131072
values s 1 2 4
end
)";

/// Inputs that wait for a buffer are staged where a buffer becomes free: by the thread that sees answers come.
class RunnerStaging : public RunnerOfRelease {
protected:
    static constexpr std::int64_t kCount = 65536;  // 256 KiB
    static std::vector<Tensor> large(float value, std::int64_t count = kCount) {
        return {floats({count}, std::vector<float>(static_cast<std::size_t>(count), value)),
                tensor<std::int32_t>(DType::int32, {1}, {2})};
    }
    static void expect_right(const Future<Tensors>& future, float value) {
        EXPECT_EQ(values_of(future.get(std::chrono::minutes(1))[0]), std::vector<float>(2, 2 * value));
    }
    /// How often the threads that stage have done so.
    std::uint64_t staged_elsewhere(Runner& model) const {
        return DeviceResources::of(*model.budget(), device())->stagers.stats().executed;
    }
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerStaging, two_releases(), release_name);

TEST_P(RunnerStaging, OfLargeInputsThatWaitedIsDoneByThreadsOfItsOwn) {
    const auto model = load(kLargeInput, cold(budget_of(1, 1)));
    std::vector<std::vector<Tensor>> inputs;
    for (int i = 0; i < 6; ++i) inputs.push_back(large(static_cast<float>(i)));
    fake_cuda().hold();
    std::vector<Future<Tensors>> futures;
    for (const auto& input : inputs) futures.push_back(ask(*model, input));
    EXPECT_EQ(staged_elsewhere(*model), 0U) << "the first by who asked";
    fake_cuda().release();
    for (int i = 0; i < 6; ++i) expect_right(futures[static_cast<std::size_t>(i)], static_cast<float>(i));
    EXPECT_TRUE(comes_true([&] { return staged_elsewhere(*model) == 5; }));
    EXPECT_EQ(fake_cuda().copies().pageable, 0U);
    EXPECT_EQ(model->budget()->stats().buffers_in_use, 0U);
}

TEST_P(RunnerStaging, OfSmallInputsAndOfPinnedOnesIsDoneAtOnce) {
    const auto model = load(kLargeInput, cold(budget_of(1, 1)));
    const Tensor in_pinned = pinned({kCount}, std::vector<float>(kCount, 3));
    const std::vector<Tensor> first = large(1), small = large(2, 16), third{in_pinned, first[1]};
    fake_cuda().hold();
    const auto a = ask(*model, first), b = ask(*model, small), c = ask(*model, third);
    fake_cuda().release();
    expect_right(a, 1);
    expect_right(b, 2);
    expect_right(c, 3);
    EXPECT_EQ(staged_elsewhere(*model), 0U);
}

TEST_P(RunnerStaging, ThatFailsElsewhereReachesTheFutureAndHarmsNoOther) {
    const auto model = load(kLargeInput, cold(budget_of(1, 1)));
    (void)answer(*model, large(1, 16));
    const std::vector<Tensor> first = large(1, 16), second = large(2), third = large(3, 16);
    fake_cuda().set_pinned_memory(fake_cuda().live().pinned_bytes + 4096);
    fake_cuda().hold();
    const auto a = ask(*model, first), b = ask(*model, second), c = ask(*model, third);
    fake_cuda().release();
    expect_right(a, 1);
    EXPECT_THAT(failure_of<core::OutOfMemory>(b), HasSubstr("pinned host memory"));
    expect_right(c, 3);
    EXPECT_TRUE(comes_true([&] { return staged_elsewhere(*model) == 1; }));
    EXPECT_EQ(model->stats().failed, 1U);
}

TEST_P(RunnerStaging, DoesNotKeepTheTokenFromOneThatIsReady) {
    const auto budget = budget_of(1, 3);
    const auto large_model = load(kLargeInput, cold(budget, "large"));
    const auto small_model = load(kTwice, cold(budget, "small"));
    std::vector<std::vector<Tensor>> inputs;
    for (int i = 0; i < 20; ++i)
        inputs.push_back(i % 2 == 0 ? large(static_cast<float>(i))
                                    : std::vector<Tensor>{rows_of(1, static_cast<float>(i))});
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 20; ++i)
        futures.push_back(ask(i % 2 == 0 ? *large_model : *small_model, inputs[static_cast<std::size_t>(i)]));
    for (int i = 0; i < 20; ++i)
        EXPECT_THAT(values_of(futures[static_cast<std::size_t>(i)].get(std::chrono::minutes(1))[0]), Each(2.0F * i));
}

TEST_P(RunnerStaging, IsWaitedForByClose) {
    for (const core::Pending pending : {core::Pending::drain, core::Pending::cancel}) {
        const auto model = load(kLargeInput, cold(budget_of(1, 2)));
        std::vector<std::vector<Tensor>> inputs;
        for (int i = 0; i < 8; ++i) inputs.push_back(large(static_cast<float>(i)));
        std::vector<Future<Tensors>> futures;
        for (const auto& input : inputs) futures.push_back(ask(*model, input));
        model->close(pending);
        for (int i = 0; i < 8; ++i) {
            const auto& future = futures[static_cast<std::size_t>(i)];
            ASSERT_TRUE(future.done());
            if (!future.error()) {
                expect_right(future, static_cast<float>(i));
            } else {
                EXPECT_EQ(pending, core::Pending::cancel);
                EXPECT_THROW((void)future.get(), core::Closed);
            }
        }
        EXPECT_EQ(model->budget()->stats().buffers_in_use, 0U);
    }
}

TEST_P(RunnerStaging, OutlivesTheModelAndItsBudget) {
    for (int round = 0; round < 20; ++round) {
        std::vector<std::vector<Tensor>> inputs;
        for (int i = 0; i < 6; ++i) inputs.push_back(large(static_cast<float>(i)));
        std::vector<Future<Tensors>> futures;
        auto model = load(kLargeInput, cold(budget_of(1, 2)));
        for (const auto& input : inputs) futures.push_back(ask(*model, input));
        std::latch destroyed(1);
        futures.front().on_ready([&] {
            model.reset();
            destroyed.count_down();
        });
        destroyed.wait();
        for (const auto& future : futures) ASSERT_TRUE(future.wait(std::chrono::minutes(1)));
        EXPECT_TRUE(comes_true([] { return fake_cuda().live().streams == 0; }));
    }
}

TEST_P(RunnerStaging, MayBeCancelledMeanwhile) {
    const auto model = load(kLargeInput, cold(budget_of(1, 2)));
    std::vector<std::vector<Tensor>> inputs;
    for (int i = 0; i < 40; ++i) inputs.push_back(large(static_cast<float>(i)));
    std::vector<Future<Tensors>> futures;
    for (const auto& input : inputs) futures.push_back(ask(*model, input));
    std::uint64_t cancelled = 0;
    for (std::size_t i = futures.size(); i-- > 0;) cancelled += futures[i].cancel() ? 1 : 0;
    for (int i = 0; i < 40; ++i) {
        const auto& future = futures[static_cast<std::size_t>(i)];
        ASSERT_TRUE(future.wait(std::chrono::minutes(1)));
        if (!future.cancelled()) expect_right(future, static_cast<float>(i));
    }
    model->close();
    EXPECT_EQ(model->stats().cancelled, cancelled);
    EXPECT_EQ(model->stats().completed, 40 - cancelled);
}

}  // namespace
}  // namespace trtlab::tensorrt::test
