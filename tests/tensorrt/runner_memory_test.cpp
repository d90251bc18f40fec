#include "runner_fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// 256 bytes of scratch memory for each of 4 to 64 elements.
constexpr std::string_view kHungry = R"(trtlab fake plan 1
name hungry
input x float32 -1
output y float32 -1 = double x
profile x 1 4 4096
weights 2048
activation 256
end
)";

class RunnerMemory : public RunnerOfRelease {
protected:
    static Tensor numbers(std::int64_t count, float value = 1) {
        return floats({count}, std::vector<float>(static_cast<std::size_t>(count), value));
    }
    /// Sends `count` requests that are all in flight at a time.
    static void ask_at_once(Runner& model, const Tensor& input, int count) {
        fake_cuda().hold();
        std::vector<Future<Tensors>> futures;
        for (int i = 0; i < count; ++i) futures.push_back(ask(model, {input}));
        fake_cuda().release();
        for (const auto& future : futures) (void)future.get(std::chrono::minutes(1));
    }
    static std::size_t on_gpu(const std::vector<core::MemoryUse>& uses) {
        std::size_t bytes = 0;
        for (const core::MemoryUse& use : uses) bytes += use.device.type == core::DeviceType::cuda ? use.size_bytes : 0;
        return bytes;
    }
    static std::size_t in_pinned(const std::vector<core::MemoryUse>& uses) {
        std::size_t bytes = 0;
        for (const core::MemoryUse& use : uses)
            bytes += use.device.type == core::DeviceType::cuda_host ? use.size_bytes : 0;
        return bytes;
    }
    /// What models and their budget say of themselves is what the fake GPU has given.
    static void expect_truthful(const std::vector<std::shared_ptr<Runner>>& models) {
        std::vector<core::MemoryUse> all = models.front()->budget()->memory();
        for (const auto& model : models) {
            for (const core::MemoryUse& use : model->memory()) all.push_back(use);
        }
        const FakeCudaLive live = fake_cuda().live();
        EXPECT_EQ(on_gpu(all), live.device_bytes);
        EXPECT_EQ(in_pinned(all), live.pinned_bytes);
    }
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerMemory, two_releases(), release_name);

TEST_P(RunnerMemory, ModelsShareScratchMemoryForEachTokenOfTheLargestSize) {
    const auto budget = budget_of(2);
    const auto twice = load(kTwice, cold(budget, "twice"));
    const auto hungry = load(kHungry, cold(budget, "hungry"));
    ask_at_once(*twice, rows_of(2, 1), 4);
    EXPECT_EQ(bytes_for(budget->memory(), "activations"), 2U * 512U);
    ask_at_once(*hungry, numbers(16), 4);
    EXPECT_EQ(bytes_for(budget->memory(), "activations"), 2U * 16U * 256U);
    ask_at_once(*twice, rows_of(1, 1), 4);
    ask_at_once(*hungry, numbers(4), 4);
    EXPECT_EQ(bytes_for(budget->memory(), "activations"), 2U * 16U * 256U);
    EXPECT_EQ(counter(*twice, "contexts"), 2U);
    EXPECT_EQ(counter(*hungry, "contexts"), 2U);
    expect_truthful({twice, hungry});
}

TEST_P(RunnerMemory, IsTruthfullyReported) {
    fake().context_bytes = 4096;
    fake().enqueue_bytes = 0;
    const auto budget = budget_of(2, 3);
    Runner::Options on_device_options = cold(budget, "stays there");
    on_device_options.outputs = Runner::Outputs::device;
    const auto a = load(kTwice, cold(budget, "a"));
    const auto b = load(kHungry, on_device_options);
    const auto c = load(kNonzero, cold(budget, "c"));
    const auto d = load(kFill, cold(budget, "d"));
    expect_truthful({a, b, c, d});
    ask_at_once(*a, rows_of(4, 1), 5);
    ask_at_once(*b, numbers(100), 5);
    for (int i = 0; i < 5; ++i) (void)answer(*c, {floats({16}, std::vector<float>(16, 1))});
    (void)answer(*d, {numbers(1), tensor<std::int32_t>(DType::int32, {2}, {4, 4})});
    const Tensor held = answer(*a, {rows_of(1, 1)})[0];
    expect_truthful({a, b, c, d});
    EXPECT_EQ(bytes_for(a->memory(), "weights"), 1536U);
    EXPECT_EQ(bytes_for(a->memory(), "contexts"), counter(*a, "contexts") * 4096U);
    EXPECT_GE(bytes_for(b->memory(), "outputs"), 400U);
    EXPECT_GE(bytes_for(c->memory(), "outputs of computed shape"), 128U);
    EXPECT_GT(bytes_for(budget->memory(), "shape tensors"), 0U);
}

TEST_P(RunnerMemory, OfOutputsOfComputedShapeIsBoundedByTheBuffers) {
    const auto model = load(kNonzero, cold(budget_of(1, 2)));
    std::vector<Tensor> inputs(40, floats({16}, std::vector<float>(16, 1)));
    std::vector<Future<Tensors>> futures;
    for (const Tensor& input : inputs) futures.push_back(ask(*model, {input}));
    for (const auto& future : futures) (void)future.get(std::chrono::minutes(1));
    EXPECT_LE(bytes_for(model->memory(), "outputs of computed shape"), 2U * 128U);
}

TEST_P(RunnerMemory, MissingWhenAModelIsLoadedIsOutOfMemoryThatNamesTheModel) {
    fake_cuda().set_memory(0, 1000);
    EXPECT_THAT(message_of<core::OutOfMemory>([&] { load(kTwice, cold({}, "large")); }),
                AllOf(HasSubstr("'large'"), HasSubstr("1024")));
    EXPECT_EQ(fake_cuda().live().device_bytes, 0U);
    fake_cuda().set_memory(0, std::size_t{1} << 30);
    EXPECT_EQ(values_of(answer(*load(), {rows_of(1, 1)})[0]), std::vector<float>(4, 2));
}

TEST_P(RunnerMemory, MissingInAWarmUpIsOutOfMemoryAndLeavesNothing) {
    fake_cuda().set_memory(0, 1600);
    Runner::Options options = cold();
    options.skip_warm_up = false;
    EXPECT_THROW(load(kTwice, options), core::OutOfMemory);
    EXPECT_TRUE(nothing_is_left());
}

TEST_P(RunnerMemory, MissingOnTheDeviceFailsTheRequestAndNoOther) {
    const auto model = load(kHungry, cold(budget_of(1, 1)));
    (void)answer(*model, {numbers(16)});
    const std::size_t used = fake_cuda().live().device_bytes;
    fake_cuda().set_memory(0, used + 4096);
    EXPECT_THAT(failure_of<core::OutOfMemory>(ask(*model, {numbers(4096)})), HasSubstr("cuda:0"));
    expect_truthful({model});
    EXPECT_EQ(values_of(answer(*model, {numbers(16, 3)})[0]), std::vector<float>(16, 6));
    EXPECT_EQ(values_of(answer(*model, {numbers(18, 4)})[0]), std::vector<float>(18, 8));
    expect_truthful({model});
    EXPECT_EQ(model->stats().failed, 1U);
    EXPECT_EQ(model->budget()->stats().buffers_in_use, 0U);
    EXPECT_EQ(counter(*model, "device_lost"), 0U);
}

TEST_P(RunnerMemory, MissingInPinnedMemoryFailsTheRequestAndNoOther) {
    const auto model = load(kHungry, cold(budget_of(1, 1)));
    (void)answer(*model, {numbers(16)});
    fake_cuda().set_pinned_memory(fake_cuda().live().pinned_bytes);
    EXPECT_THAT(failure_of<core::OutOfMemory>(ask(*model, {numbers(1024)})), HasSubstr("pinned host memory"));
    EXPECT_EQ(values_of(answer(*model, {numbers(16, 3)})[0]), std::vector<float>(16, 6));
    // Inputs that need no staging: then it is the answer for which there is none.
    EXPECT_THAT(failure_of<core::OutOfMemory>(ask(*model, {on_device({1024}, std::vector<float>(1024, 1))})),
                HasSubstr("pinned host memory"));
    EXPECT_EQ(values_of(answer(*model, {numbers(16, 3)})[0]), std::vector<float>(16, 6));
    expect_truthful({model});
}

TEST_P(RunnerMemory, MissingForAnOutputOfComputedShapeFailsTheRequestAndNoOther) {
    const auto model = load(kNonzero, cold(budget_of(1, 1)));
    std::vector<float> one(16, 0);
    one[3] = 1;
    (void)answer(*model, {floats({16}, one)});
    LogCapture log;
    fake_cuda().set_memory(0, fake_cuda().live().device_bytes + 8);
    EXPECT_THROW((void)answer(*model, {floats({16}, std::vector<float>(16, 1))}), core::OutOfMemory);
    EXPECT_THAT(values_of<std::int64_t>(answer(*model, {floats({16}, one)})[0]), testing::ElementsAre(3));
    expect_truthful({model});
}

TEST_P(RunnerMemory, MissingForAContextFailsTheRequestAndNoOther) {
    const auto model = load(kHungry, cold(budget_of(1, 1)));
    fake().fail_context("Error Code 2: OutOfMemory (Requested size was 12345 bytes.)");
    EXPECT_THAT(failure_of<core::EngineError>(ask(*model, {numbers(4)})), HasSubstr("12345"));
    EXPECT_EQ(values_of(answer(*model, {numbers(4)})[0]), std::vector<float>(4, 2));
}

TEST_P(RunnerMemory, GoesBackWithTheModelAndItsBudget) {
    {
        const auto budget = budget_of(2);
        {
            const auto model = load(kTwice, cold(budget));
            (void)answer(*model, {rows_of(1, 1)});
        }
        EXPECT_TRUE(comes_true([] { return fake().runtimes == 0; }));
        EXPECT_EQ(fake().contexts, 0);
        EXPECT_EQ(bytes_for(budget->memory(), "activations"), 256U) << "the tokens' stays for the next model";
        const FakeCudaLive live = fake_cuda().live();
        EXPECT_EQ(live.device_bytes, on_gpu(budget->memory()));
        EXPECT_EQ(live.executables, 0U);
    }
    EXPECT_TRUE(nothing_is_left());
}

TEST_P(RunnerMemory, OfWeightsMovesIfItIsManaged) {
    Runner::Options options = cold();
    options.weights = Runner::Weights::managed;
    const auto model = load(kTwice, options);
    const std::vector<core::BufferView> weights = model->engine()->weights();
    ASSERT_FALSE(weights.empty());
    EXPECT_EQ(fake_cuda().live().managed_bytes, 1536U);
    model->evict();
    for (const auto& block : weights) EXPECT_NE(fake_cuda().managed_state(block.data) & 8U, 0U);
    EXPECT_EQ(values_of(answer(*model, {rows_of(1, 1)})[0]), std::vector<float>(4, 2));
    model->prefetch();
    for (const auto& block : weights) EXPECT_NE(fake_cuda().managed_state(block.data) & 4U, 0U);
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { load()->evict(); }), HasSubstr("managed memory"));
}

}  // namespace
}  // namespace trtlab::tensorrt::test
