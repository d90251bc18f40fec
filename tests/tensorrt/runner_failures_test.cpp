#include "runner_fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

constexpr int kIllegalAddress = 700, kLaunchFailure = 719, kInvalidValue = 1, kNotSupported = 801;

/// An output of half a MiB, which is copied after the token went back.
constexpr std::string_view kLong = R"(trtlab fake plan 1
name long
input x float32 131072
output y float32 131072 = double x
end
)";

class RunnerFailures : public RunnerOfRelease {
protected:
    static void expect_works(Runner& model, float value = 5) {
        EXPECT_EQ(values_of(answer(model, {rows_of(1, value)})[0]), std::vector<float>(4, 2 * value));
    }
    static void expect_idle(const Runner& model) {
        const core::ExecutionBudget::Stats stats = model.budget()->stats();
        EXPECT_EQ(stats.executing, 0U);
        EXPECT_EQ(stats.buffers_in_use, 0U);
        EXPECT_EQ(stats.queued, 0U);
        EXPECT_EQ(counter(model, "device_lost"), 0U);
    }
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerFailures, releases(), release_name);

TEST_P(RunnerFailures, ToEnqueueReachTheFutureInTensorRTsWordsAndHarmNoOther) {
    const auto model = load();
    expect_works(*model, 1);
    for (int i = 0; i < 5; ++i) {
        fake().enqueues_until_failure = 0;
        EXPECT_THAT(failure_of<core::EngineError>(ask(*model, {rows_of(1, 9)})),
                    AllOf(HasSubstr("'m'"), HasSubstr("was meant to fail")));
        expect_works(*model, static_cast<float>(i));
    }
    EXPECT_EQ(model->stats().failed, 5U);
    EXPECT_EQ(model->stats().completed, 6U);
    expect_idle(*model);
}

TEST_P(RunnerFailures, ToEnqueueWhileOthersAreInFlightHarmNoOther) {
    const auto model = load(kTwice, cold(budget_of(2, 4)));
    std::vector<Tensor> inputs;
    for (int i = 0; i < 40; ++i) inputs.push_back(rows_of(1, static_cast<float>(i)));
    fake().enqueues_until_failure = 7;
    std::vector<Future<Tensors>> futures;
    for (const Tensor& input : inputs) futures.push_back(ask(*model, {input}));
    int failed = 0;
    for (int i = 0; i < 40; ++i) {
        const auto& future = futures[static_cast<std::size_t>(i)];
        ASSERT_TRUE(future.wait(std::chrono::minutes(1)));
        if (future.error()) {
            ++failed;
        } else {
            EXPECT_EQ(values_of(future.get()[0]), std::vector<float>(4, 2.0F * i));
        }
    }
    EXPECT_EQ(failed, 1);
    expect_idle(*model);
}

TEST_P(RunnerFailures, OfCallsOfCudaFailTheRequestAndNoOther) {
    for (const auto& [plan, input] : std::vector<std::pair<std::string_view, Tensor>>{
             {kTwice, rows_of(1, 2)}, {kLong, floats({131072}, std::vector<float>(131072, 1))}}) {
        const auto model = load(plan);
        (void)answer(*model, {input});
        for (const char* call : {"cudaMemcpyAsync", "cudaEventRecord", "cudaSetDevice", "cudaGetDevice"}) {
            for (int nth = 1; nth <= 3; ++nth) {
                const std::uint64_t before = fake_cuda().calls(call);
                fake_cuda().fail(call, nth, kNotSupported);
                const auto future = ask(*model, {input});
                ASSERT_TRUE(future.wait(std::chrono::minutes(1)));
                fake_cuda().fail(call, nth, 0);
                if (future.error()) {
                    EXPECT_GE(fake_cuda().calls(call) - before, static_cast<std::uint64_t>(nth));
                    EXPECT_THAT(failure_of<core::CudaError>(future), HasSubstr(call)) << nth;
                } else {
                    EXPECT_EQ(values_of(future.get()[0])[0], 2 * values_of(input)[0]) << call << " " << nth;
                }
            }
        }
        EXPECT_EQ(values_of(answer(*model, {input})[0])[0], 2 * values_of(input)[0]);
        expect_idle(*model);
    }
}

TEST_P(RunnerFailures, OfTheCopiesNameTheCall) {
    const auto model = load();
    expect_works(*model, 1);
    for (const int nth : {1, 2}) {  // to the device, and from it
        fake_cuda().fail("cudaMemcpyAsync", nth, kInvalidValue);
        EXPECT_THAT(failure_of<core::CudaError>(ask(*model, {rows_of(1, 9)})),
                    AllOf(HasSubstr("cudaMemcpyAsync"), HasSubstr("cuda:0")));
        expect_works(*model, 3);
    }
    const auto longer = load(kLong);
    const Tensor input = floats({131072}, std::vector<float>(131072, 1));
    fake_cuda().fail("cudaMemcpyAsync", 2, kInvalidValue);  // after the token went back
    EXPECT_THAT(failure_of<core::CudaError>(ask(*longer, {input})), HasSubstr("cudaMemcpyAsync"));
    EXPECT_THAT(values_of(answer(*longer, {input})[0]), Each(2.0F));
    expect_idle(*longer);
}

TEST_P(RunnerFailures, OfAnEventWaitForWhatIsInTheStream) {
    const auto model = load(kTwice, cold(budget_of(1, 2)));
    expect_works(*model, 1);
    const Tensor input = rows_of(1, 9);
    fake_cuda().hold();
    const auto asked = ask(*model, {input});
    const std::uint64_t before = fake_cuda().calls("cudaStreamSynchronize");
    fake_cuda().fail("cudaEventQuery", 1, kInvalidValue);
    EXPECT_TRUE(comes_true([&] { return fake_cuda().calls("cudaStreamSynchronize") > before; }));
    EXPECT_FALSE(asked.done()) << "the GPU still reads and writes for it";
    EXPECT_EQ(model->budget()->stats().executing, 1U);
    fake_cuda().release();
    EXPECT_THAT(failure_of<core::CudaError>(asked), HasSubstr("the execution of a request"));
    expect_works(*model, 2);
    expect_idle(*model);
}

class RunnerLostDevice : public RunnerOfRelease {
protected:
    static void expect_lost(const Future<Tensors>& future) {
        try {
            (void)future.get(std::chrono::minutes(1));
            ADD_FAILURE() << "an answer of a device that is lost";
        } catch (const core::CudaError& error) {
            EXPECT_TRUE(error.device_lost()) << error.what();
            EXPECT_THAT(error.what(), HasSubstr("cuda:0"));
        } catch (const std::exception& error) {
            ADD_FAILURE() << "another exception: " << error.what();
        }
    }
    LogCapture log_;  // destructors say it, too
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerLostDevice, releases(), release_name);

TEST_P(RunnerLostDevice, FailsWhatIsInFlightAndEverythingLaterAtOnce) {
    const auto model = load(kTwice, cold(budget_of(2, 3)));
    const std::vector<Tensor> input{rows_of(1, 1)};
    (void)answer(*model, input);
    fake_cuda().hold();
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 8; ++i) futures.push_back(ask(*model, input));
    fake_cuda().fail("execute", 1, kIllegalAddress, true);
    fake_cuda().release();
    for (const auto& future : futures) expect_lost(future);
    EXPECT_EQ(counter(*model, "device_lost"), 1U);
    const std::uint64_t copies = fake_cuda().calls("cudaMemcpyAsync");
    expect_lost(ask(*model, input));
    EXPECT_EQ(fake_cuda().calls("cudaMemcpyAsync"), copies) << "CUDA is not asked any more";
    EXPECT_EQ(model->stats().completed, 1U);
    EXPECT_EQ(model->budget()->stats().executing, 0U);
    EXPECT_EQ(model->budget()->stats().buffers_in_use, 0U);
    model->close();
}

TEST_P(RunnerLostDevice, IsNoticedWhateverCallSaysIt) {
    for (const char* call : {"cudaMemcpyAsync", "cudaEventRecord", "cudaEventQuery", "fake_cuda_enqueue"}) {
        {
            const auto model = load();
            (void)answer(*model, {rows_of(1, 1)});
            const Tensor in_place = on_device({1, 4}, {1, 2, 3, 4});
            fake_cuda().fail(call, 1, kLaunchFailure, true);
            expect_lost(ask(*model, {in_place}));
            EXPECT_EQ(counter(*model, "device_lost"), 1U) << call;
            expect_lost(ask(*model, {in_place}));
        }
        EXPECT_TRUE(nothing_is_left()) << call;
        fake_cuda().reset();
    }
}

TEST_P(RunnerLostDevice, IsNoticedAfterTheTokenWentBack) {
    const auto model = load(kLong, cold(budget_of(1, 2)));
    const Tensor input = floats({131072}, std::vector<float>(131072, 1));
    fake_cuda().hold();
    const auto first = ask(*model, {input});
    const auto second = ask(*model, {input});
    fake_cuda().step(3);
    EXPECT_TRUE(comes_true([] { return fake_cuda().queued() == 2 + 3; }));
    fake_cuda().fail("execute", 1, kIllegalAddress, true);
    fake_cuda().release();
    expect_lost(first);
    expect_lost(second);
    EXPECT_EQ(counter(*model, "device_lost"), 1U);
}

TEST_P(RunnerLostDevice, MayBeDestroyedBusy) {
    std::vector<Future<Tensors>> futures;
    const std::vector<Tensor> input{rows_of(1, 1)};
    {
        const auto model = load(kTwice, cold(budget_of(2, 3)));
        fake_cuda().hold();
        for (int i = 0; i < 8; ++i) futures.push_back(ask(*model, input));
        fake_cuda().fail("execute", 1, kIllegalAddress, true);
        fake_cuda().release();
    }
    for (const auto& future : futures) {
        ASSERT_TRUE(future.done());
        EXPECT_TRUE(future.error());
    }
}

TEST_P(RunnerLostDevice, IsNothingToAModelOnAnother) {
    fake_cuda().set_devices(2);
    const auto budget = budget_of(2);
    const auto here = load(kTwice, cold(budget, "here"));
    const auto there =
        Runner::load_from_memory(library(), cuda::Device(cuda_library(), 1), bytes_of(kTwice), cold(budget, "there"));
    (void)answer(*here, {rows_of(1, 1)});
    fake_cuda().fail("execute", 1, kIllegalAddress, true);
    expect_lost(ask(*here, {rows_of(1, 1)}));
    for (int i = 0; i < 10; ++i) EXPECT_EQ(values_of(answer(*there, {rows_of(1, 3)})[0]), std::vector<float>(4, 6));
    EXPECT_EQ(counter(*there, "device_lost"), 0U);
}

}  // namespace
}  // namespace trtlab::tensorrt::test
