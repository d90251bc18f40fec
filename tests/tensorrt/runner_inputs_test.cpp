#include "runner_fixture.hpp"
#include "trtlab/cuda/fence.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

/// y = x, of rows that may be none.
constexpr std::string_view kCopy = R"(trtlab fake plan 1
name copy
input x float32 -1x4
output y float32 -1x4 = copy x
profile x 0x4 2x4 4x4
end
)";

/// Large enough for CUDA to be asked whether its memory is pinned.
constexpr std::string_view kLarge = R"(trtlab fake plan 1
name large
input x float32 -1
output y float32 -1 = double x
profile x 1 65536 65536
end
)";

class RunnerInputs : public RunnerOfRelease {
protected:
    const std::vector<float> four_{1, 2, 3, 4};
    const std::vector<float> doubled_{2, 4, 6, 8};
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerInputs, releases(), release_name);

TEST_P(RunnerInputs, OfPageableMemoryGoThroughPinnedMemory) {
    const auto model = load();
    EXPECT_EQ(values_of(answer(*model, {floats({1, 4}, four_)})[0]), doubled_);
    const FakeCudaCopies copies = fake_cuda().copies();
    EXPECT_EQ(copies.pageable, 0U) << "CUDA would have waited for such a copy";
    EXPECT_EQ(copies.host_to_device, 16U);
    EXPECT_EQ(counter(*model, "inputs_copied"), 1U);
    EXPECT_EQ(counter(*model, "inputs_in_place"), 0U);
    EXPECT_EQ(bytes_for(model->budget()->memory(), "inputs being staged"), 256U);
}

TEST_P(RunnerInputs, WithStridesAreMadeDense) {
    const auto model = load();
    const std::vector<float> every_second{1, 0, 2, 0, 3, 0, 4, 0};
    const Tensor strided(core::TensorView(const_cast<float*>(every_second.data()), DType::float32, {1, 4}, {32, 8}));
    EXPECT_EQ(values_of(answer(*model, {strided})[0]), doubled_);
    const Tensor backwards(
        core::TensorView(const_cast<float*>(every_second.data() + 6), DType::float32, {1, 4}, {0, -8}));
    EXPECT_THAT(values_of(answer(*model, {backwards})[0]), ElementsAre(8, 6, 4, 2));
    const Tensor repeated(core::TensorView(const_cast<float*>(every_second.data()), DType::float32, {3, 4}, {0, 8}));
    EXPECT_THAT(values_of(answer(*model, {repeated})[0]), ElementsAre(2, 4, 6, 8, 2, 4, 6, 8, 2, 4, 6, 8));
}

TEST_P(RunnerInputs, OfPinnedMemoryAreCopiedFromWhereTheyAre) {
    const auto model = load();
    EXPECT_EQ(values_of(answer(*model, {pinned({1, 4}, four_)})[0]), doubled_);
    const FakeCudaCopies copies = fake_cuda().copies();
    EXPECT_EQ(copies.pageable, 0U);
    EXPECT_EQ(copies.host_to_device, 16U);
    EXPECT_EQ(copies.count, 2U);
    EXPECT_EQ(bytes_for(model->budget()->memory(), "inputs being staged"), 0U);
}

TEST_P(RunnerInputs, OfPinnedMemoryWithStridesAreMadeDense) {
    const auto model = load();
    const Tensor whole = pinned({2, 4}, {1, 0, 2, 0, 3, 0, 4, 0});
    const Tensor strided(core::TensorView(whole.data(), DType::float32, {1, 4}, {32, 8}, whole.device()),
                         whole.owner());
    EXPECT_EQ(values_of(answer(*model, {strided})[0]), doubled_);
}

TEST_P(RunnerInputs, OfPinnedMemoryThatNobodyCalledSoAreRecognisedIfTheyAreLarge) {
    const auto model = load(kLarge);
    const std::size_t count = 65536;
    const Tensor whole = pinned({65536}, std::vector<float>(count, 1.5F));
    const Tensor unnamed(core::TensorView(whole.data(), DType::float32, {65536}), whole.owner());
    EXPECT_THAT(values_of(answer(*model, {unnamed})[0]), Each(3.0F));
    EXPECT_EQ(bytes_for(model->budget()->memory(), "inputs being staged"), 0U);
    const Tensor pageable = floats({65536}, std::vector<float>(count, 2.5F));
    EXPECT_THAT(values_of(answer(*model, {pageable})[0]), Each(5.0F));
    EXPECT_EQ(bytes_for(model->budget()->memory(), "inputs being staged"), count * sizeof(float));
    EXPECT_EQ(fake_cuda().copies().pageable, 0U);
}

TEST_P(RunnerInputs, OnTheDeviceAreReadInPlace) {
    const auto model = load();
    const Tensor input = on_device({1, 4}, four_);
    const std::uint64_t before = fake_cuda().copies().count;
    EXPECT_EQ(values_of(answer(*model, {input})[0]), doubled_);
    EXPECT_EQ(fake_cuda().copies().count, before + 1) << "the output's";
    EXPECT_EQ(counter(*model, "inputs_in_place"), 1U);
    EXPECT_EQ(counter(*model, "inputs_copied"), 0U);
}

TEST_P(RunnerInputs, OnTheDeviceAreCopiedThereIfTheyAreNotAligned) {
    const auto model = load();
    const Tensor input = on_device({1, 4}, four_, 16);
    EXPECT_EQ(values_of(answer(*model, {input})[0]), doubled_);
    EXPECT_EQ(fake_cuda().copies().device_to_device, 16U);
    EXPECT_EQ(counter(*model, "inputs_in_place"), 0U);
    EXPECT_EQ(counter(*model, "inputs_copied"), 1U);
}

TEST_P(RunnerInputs, OnTheDeviceWithStridesAreRefused) {
    const auto model = load();
    const Tensor whole = on_device({2, 4}, {1, 0, 2, 0, 3, 0, 4, 0});
    const Tensor strided(core::TensorView(whole.data(), DType::float32, {1, 4}, {32, 8}, whole.device()),
                         whole.owner());
    EXPECT_THAT(failure_of<core::InvalidArgument>(ask(*model, {strided})),
                AllOf(HasSubstr("'m'"), HasSubstr("'x'"), HasSubstr("must be contiguous"), HasSubstr("[32, 8]")));
    EXPECT_EQ(values_of(answer(*model, {floats({1, 4}, four_)})[0]), doubled_) << "the buffer is free again";
    EXPECT_EQ(model->stats().failed, 1U);
}

TEST_P(RunnerInputs, InManagedMemoryAreReadInPlaceOrMadeDense) {
    const auto model = load();
    const Tensor input = place(device(), managed_memory(), DType::float32, {1, 4}, four_);
    EXPECT_EQ(values_of(answer(*model, {input})[0]), doubled_);
    EXPECT_EQ(counter(*model, "inputs_in_place"), 1U);
    const Tensor unaligned = place(device(), managed_memory(), DType::float32, {1, 4}, four_, 32);
    EXPECT_EQ(values_of(answer(*model, {unaligned})[0]), doubled_);
    const Tensor whole =
        place(device(), managed_memory(), DType::float32, {2, 4}, std::vector<float>{1, 0, 2, 0, 3, 0, 4, 0});
    const Tensor strided(core::TensorView(whole.data(), DType::float32, {1, 4}, {32, 8}, whole.device()),
                         whole.owner());
    EXPECT_EQ(values_of(answer(*model, {strided})[0]), doubled_);
    EXPECT_EQ(counter(*model, "inputs_copied"), 2U);
}

TEST_P(RunnerInputs, OfNoElementsHaveAnAnswerOfNone) {
    const auto model = load(kCopy);
    for (const Tensor& none :
         {floats({0, 4}, {}), pinned({0, 4}, {}), on_device({0, 4}, {}),
          Tensor(core::TensorView(nullptr, DType::float32, {0, 4})),
          Tensor(core::TensorView(nullptr, DType::float32, {0, 4}, {core::DeviceType::cuda, 0}))}) {
        const Tensors result = answer(*model, {none});
        EXPECT_EQ(result[0].shape(), Shape({0, 4})) << none.device().to_string();
    }
    EXPECT_EQ(values_of(answer(*model, {floats({1, 4}, four_)})[0]), four_);
}

TEST_P(RunnerInputs, OfAnotherGpuAreRefusedAtOnce) {
    fake_cuda().set_devices(2);
    const auto model = load();
    const Tensor elsewhere = place(cuda::Device(cuda_library(), 1), device_memory(1), DType::float32, {1, 4}, four_);
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { ask(*model, {elsewhere}); }),
                AllOf(HasSubstr("'m'"), HasSubstr("'x'"), HasSubstr("cuda:1"), HasSubstr("cuda:0")));
}

TEST_P(RunnerInputs, ThatDoNotFitTheSpecAreRefusedAtOnce) {
    const auto model = load();
    const auto refusal = [&](const std::vector<Tensor>& inputs) {
        return message_of<core::InvalidArgument>([&] { ask(*model, inputs); });
    };
    EXPECT_THAT(refusal({}), AllOf(HasSubstr("'m'"), HasSubstr("1 inputs"), HasSubstr("got 0")));
    EXPECT_THAT(refusal({floats({4}, four_)}), AllOf(HasSubstr("'x'"), HasSubstr("rank 1")));
    EXPECT_THAT(refusal({floats({1, 3}, {1, 2, 3})}), AllOf(HasSubstr("'x'"), HasSubstr("axis 1")));
    EXPECT_THAT(refusal({tensor<std::int32_t>(DType::int32, {1, 4}, {1, 2, 3, 4})}),
                AllOf(HasSubstr("'x'"), HasSubstr("int32")));
    EXPECT_THAT(refusal({Tensor(core::TensorView(nullptr, DType::float32, {1, 4}))}), HasSubstr("null"));
    EXPECT_EQ(model->stats().failed, 0U);
    EXPECT_EQ(model->under_way(), 0U);
}

TEST_P(RunnerInputs, WithAFenceAreReadWhenItIsReached) {
    const auto model = load();
    const cuda::Stream producer(device());
    Tensor in_place = on_device({1, 4}, {0, 0, 0, 0});
    Tensor copied = on_device({1, 4}, {0, 0, 0, 0}, 16);
    Tensor in_pinned = pinned({1, 4}, {0, 0, 0, 0});
    const Tensor source = pinned({1, 4}, four_);
    fake_cuda().hold();
    std::vector<Future<Tensors>> futures;
    for (Tensor* input : {&in_place, &copied, &in_pinned}) {
        producer.copy_unchecked(input->data(), source.data(), 16);
        input->set_fence(cuda::EventFence::record(producer));
        futures.push_back(ask(*model, {*input}));
    }
    // Of two requests that may execute, what is in their own streams: nothing of it can run before the producer has.
    fake_cuda().release();
    for (const auto& future : futures) EXPECT_EQ(values_of(future.get(std::chrono::minutes(1))[0]), doubled_);
}

TEST_P(RunnerInputs, WithAFenceWaitInTheStreamAndNotOnTheHost) {
    const auto model = load();
    const cuda::Stream producer(device());
    Tensor input = on_device({1, 4}, {0, 0, 0, 0});
    const Tensor source = pinned({1, 4}, four_);
    fake_cuda().hold();
    producer.copy_unchecked(input.data(), source.data(), 16);
    input.set_fence(cuda::EventFence::record(producer));
    const auto future = ask(*model, {input});
    EXPECT_FALSE(future.done());
    EXPECT_EQ(fake_cuda().queued(), 2U + 4U)
        << "copy and record of the producer; wait, execution, copy, record of the request";
    EXPECT_EQ(fake_cuda().step(2, producer.handle()), 2U);
    fake_cuda().release();
    EXPECT_EQ(values_of(future.get(std::chrono::minutes(1))[0]), doubled_);
}

TEST_P(RunnerInputs, WithAForeignFenceAreRefused) {
    class Foreign final : public core::Fence {};
    const auto model = load();
    Tensor input = on_device({1, 4}, four_);
    input.set_fence(core::make_ref<Foreign>());
    EXPECT_THAT(failure_of<core::InvalidArgument>(ask(*model, {input})),
                AllOf(HasSubstr("'m'"), HasSubstr("'x'"), HasSubstr("fence is not CUDA's")));
    input.set_fence({});
    EXPECT_EQ(values_of(answer(*model, {input})[0]), doubled_);
}

TEST_P(RunnerInputs, WithAFenceThatTheHostWouldHaveToWaitForAreRefused) {
    const auto twice = load();
    const cuda::Stream stream(device());
    const Tensor whole = pinned({2, 4}, {1, 0, 2, 0, 3, 0, 4, 0});
    Tensor strided(core::TensorView(whole.data(), DType::float32, {1, 4}, {32, 8}, whole.device()), whole.owner());
    strided.set_fence(cuda::EventFence::record(stream));
    EXPECT_THAT(failure_of<core::InvalidArgument>(ask(*twice, {strided})),
                AllOf(HasSubstr("'m'"), HasSubstr("'x'"), HasSubstr("fence"), HasSubstr("contiguous")));
    const auto fill = load(kFill);
    Tensor shape = place(device(), pinned_memory(), DType::int32, {2}, std::vector<std::int32_t>{2, 3});
    shape.set_fence(cuda::EventFence::record(stream));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { ask(*fill, {floats({1}, {1}), shape}); }),
                AllOf(HasSubstr("'m'"), HasSubstr("'s'"), HasSubstr("fence")));
}

}  // namespace
}  // namespace trtlab::tensorrt::test
