#include "runner_fixture.hpp"
#include "trtlab/core/replicas.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// One model on two GPUs.
class RunnerReplicas : public RunnerOfRelease {
protected:
    RunnerReplicas() { fake_cuda().set_devices(2); }
    void SetUp() override {
        for (int ordinal = 0; ordinal < 2; ++ordinal) {
            runners_.push_back(Runner::load_from_memory(library(), gpu(ordinal), bytes_of(kTwice),
                                                        cold(budget_of(2), "m on cuda:" + std::to_string(ordinal))));
        }
        model_ = std::make_unique<core::Replicas>(
            "m", std::vector<std::shared_ptr<core::Model>>(runners_.begin(), runners_.end()));
    }
    static cuda::Device gpu(int ordinal) { return cuda::Device(cuda_library(), ordinal); }
    Tensor on_gpu(int ordinal, float value) const {
        return place(gpu(ordinal), device_memory(ordinal), DType::float32, {1, 4}, std::vector<float>(4, value));
    }
    std::uint64_t completed(std::size_t index) const { return runners_[index]->stats().completed; }

    std::vector<std::shared_ptr<Runner>> runners_;
    std::unique_ptr<core::Replicas> model_;
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerReplicas, two_releases(), release_name);

TEST_P(RunnerReplicas, ShareRequestsFromTheHost) {
    std::vector<Tensor> inputs;
    for (int i = 0; i < 8; ++i) inputs.push_back(rows_of(1, static_cast<float>(i)));
    fake_cuda().hold();
    std::vector<Future<Tensors>> futures;
    for (const Tensor& input : inputs) futures.push_back(ask(*model_, {input}));
    EXPECT_EQ(model_->outstanding(0), 4U);
    EXPECT_EQ(model_->outstanding(1), 4U);
    fake_cuda().release();
    for (int i = 0; i < 8; ++i)
        EXPECT_EQ(values_of(futures[static_cast<std::size_t>(i)].get(std::chrono::minutes(1))[0]),
                  std::vector<float>(4, 2.0F * i));
}

TEST_P(RunnerReplicas, GetWhatIsInTheirMemory) {
    for (int i = 0; i < 5; ++i) EXPECT_EQ(values_of(answer(*model_, {on_gpu(1, 3)})[0]), std::vector<float>(4, 6));
    EXPECT_EQ(counter(*runners_[1], "inputs_in_place"), 5U);
    EXPECT_EQ(counter(*runners_[0], "inputs_in_place"), 0U);
    (void)answer(*model_, {on_gpu(0, 3)});
    EXPECT_EQ(counter(*runners_[0], "inputs_in_place"), 1U);
    const Tensor nowhere(core::TensorView(on_gpu(0, 1).data(), DType::float32, {1, 4}, {core::DeviceType::cuda, 7}));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { ask(*model_, {nowhere}); }),
                AllOf(HasSubstr("cuda:7"), HasSubstr("cuda:1")));
}

TEST_P(RunnerReplicas, ServeOnWhenTheDeviceOfOneIsLost) {
    LogCapture log;
    const Tensor on_first = on_gpu(0, 1);
    (void)answer(*model_, {on_first});
    (void)answer(*model_, {on_gpu(1, 1)});
    fake_cuda().fail("execute", 1, 700, true);
    EXPECT_THROW((void)answer(*model_, {on_first}), core::CudaError);
    EXPECT_TRUE(comes_true([&] { return model_->healthy() == 1; }));
    for (int i = 0; i < 10; ++i) EXPECT_EQ(values_of(answer(*model_, {rows_of(1, 5)})[0]), std::vector<float>(4, 10));
    EXPECT_EQ(counter(*runners_[0], "device_lost"), 1U);
    EXPECT_EQ(counter(*runners_[1], "device_lost"), 0U);
    EXPECT_EQ(counter(*model_, "healthy_replicas"), 1U);
    fake_cuda().fail("execute", 1, 700, true);
    EXPECT_THROW((void)answer(*model_, {rows_of(1, 5)}), core::CudaError);
    EXPECT_TRUE(comes_true([&] { return model_->healthy() == 0; }));
    EXPECT_THROW((void)answer(*model_, {rows_of(1, 5)}), core::CudaError);
}

TEST_P(RunnerReplicas, ReportTheMemoryOfBoth) {
    (void)answer(*model_, {on_gpu(0, 1)});
    (void)answer(*model_, {on_gpu(1, 1)});
    std::size_t weights[2] = {};
    for (const core::MemoryUse& use : model_->memory()) {
        if (use.what == "weights") weights[use.device.index] += use.size_bytes;
    }
    EXPECT_EQ(weights[0], 1536U);
    EXPECT_EQ(weights[1], 1536U);
}

}  // namespace
}  // namespace trtlab::tensorrt::test
