#include "runner_fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// Two inputs, three outputs.
constexpr std::string_view kMany = R"(trtlab fake plan 1
name many
input a float32 -1
input b float32 -1
output sum float32 -1 = add a b
output twice float32 -1 = double a
output same float32 -1 = copy b
profile a 1 4 64
profile b 1 4 64
activation 8
end
)";

/// The shape as an output, too: TensorRT writes that on the host.
constexpr std::string_view kFillAndTell = R"(trtlab fake plan 1
name fill
input x float32 1
input s int64 2 shape
output y float32 -1x-1 = fill x s
output n int64 2 shape = copy s
values s 1x1 2x3 4x4
end
)";

class RunnerOutputs : public RunnerOfRelease {};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerOutputs, releases(), release_name);

TEST_P(RunnerOutputs, OnTheHostAreInPinnedMemoryAndOutliveTheModel) {
    Tensor y;
    {
        const auto model = load();
        y = answer(*model, {rows_of(2, 1.5F)})["y"];
    }
    EXPECT_EQ(y.device().type, core::DeviceType::cuda_host);
    EXPECT_EQ(y.shape(), Shape({2, 4}));
    EXPECT_EQ(values_of(y), std::vector<float>(8, 3));
    EXPECT_EQ(fake_cuda().copies().pageable, 0U);
}

TEST_P(RunnerOutputs, OnTheDeviceStayThereAndAreReadInPlaceByTheNextModel) {
    Runner::Options options = cold();
    options.outputs = Runner::Outputs::device;
    const auto model = load(kTwice, options);
    const Tensor once = answer(*model, {rows_of(1, 1)})[0];
    EXPECT_EQ(once.device(), (core::Device{core::DeviceType::cuda, 0}));
    const Tensor again = answer(*model, {once})[0];
    EXPECT_EQ(fake_cuda().copies().device_to_host, 0U);
    EXPECT_EQ(counter(*model, "inputs_in_place"), 1U);
    EXPECT_EQ(values_of(once), std::vector<float>(4, 2));
    EXPECT_EQ(values_of(again), std::vector<float>(4, 4));
}

TEST_P(RunnerOutputs, AreTheirOwnAsLongAsTheyAreHeldAndUsedAgainAfterwards) {
    const auto model = load();
    std::vector<Tensor> held;
    for (int i = 0; i < 8; ++i) held.push_back(answer(*model, {rows_of(1, static_cast<float>(i))})[0]);
    for (int i = 0; i < 8; ++i)
        EXPECT_EQ(values_of(held[static_cast<std::size_t>(i)]), std::vector<float>(4, 2.0F * i));
    const std::size_t blocks = fake_cuda().live().pinned_blocks;
    held.clear();
    for (int i = 0; i < 8; ++i) held.push_back(answer(*model, {rows_of(1, 1)})[0]);
    EXPECT_EQ(fake_cuda().live().pinned_blocks, blocks);
}

TEST_P(RunnerOutputs, OfSeveralHaveTheirOwnShapesAndNames) {
    const auto model = load(kMany);
    const Tensors result = answer(*model, {floats({3}, {1, 2, 3}), floats({3}, {10, 20, 30})});
    EXPECT_THAT(values_of(result["sum"]), ElementsAre(11, 22, 33));
    EXPECT_THAT(values_of(result["twice"]), ElementsAre(2, 4, 6));
    EXPECT_THAT(values_of(result["same"]), ElementsAre(10, 20, 30));
    const auto by_name = model->infer({{"b", floats({1}, {5})}, {"a", floats({1}, {7})}});
    EXPECT_THAT(values_of(by_name.get()["sum"]), ElementsAre(12));
}

template <class T>
void expect_carried(core::Model& model, DType dtype, const std::vector<T>& values) {
    const Tensor input = tensor<T>(dtype, {static_cast<std::int64_t>(values.size())}, values);
    const Tensors result = model.infer(std::span(&input, 1)).get(std::chrono::minutes(1));
    EXPECT_EQ(result[0].dtype(), dtype);
    EXPECT_EQ(values_of<T>(result[0]), values);
}

TEST_P(RunnerOutputs, OfEveryTypeAreCarriedBitByBit) {
    const auto copy_of = [&](const std::string& type) {
        return load("trtlab fake plan 1\nname copy\ninput x " + type + " -1\noutput y " + type +
                    " -1 = copy x\nprofile x 1 4 64\nend\n");
    };
    expect_carried<std::int64_t>(*copy_of("int64"), DType::int64, {-1, 0, std::int64_t{1} << 62});
    expect_carried<std::int32_t>(*copy_of("int32"), DType::int32, {-1, 7});
    expect_carried<std::int8_t>(*copy_of("int8"), DType::int8, {-128, 0, 127});
    expect_carried<std::uint8_t>(*copy_of("uint8"), DType::uint8, {0, 255, 1});
    expect_carried<std::uint8_t>(*copy_of("bool"), DType::boolean, {0, 1, 1, 0, 1});
    expect_carried<std::uint16_t>(*copy_of("float16"), DType::float16, {0x3c00, 0xfbff, 0x7e00});
    expect_carried<std::uint16_t>(*copy_of("bfloat16"), DType::bfloat16, {0x3f80, 0xff7f, 0x7fc0});
    expect_carried<std::uint8_t>(*copy_of("float8"), DType::float8_e4m3fn, {0x38, 0x7e, 0xff});
    expect_carried<float>(*copy_of("float32"), DType::float32, {-0.0F, 1e-40F, 3.0F});
}

TEST_P(RunnerOutputs, HaveTheShapeThatAnInputHolds) {
    const auto model = load(kFill, cold(budget_of(1, 1)));
    const auto fill = [&](float x, const std::vector<std::int32_t>& shape) {
        return answer(*model, {floats({1}, {x}), tensor<std::int32_t>(DType::int32, {2}, shape)})[0];
    };
    for (const auto& [rows, columns] : std::vector<std::pair<int, int>>{{2, 3}, {3, 2}, {4, 4}, {1, 1}, {2, 3}}) {
        const Tensor y = fill(static_cast<float>(rows), {rows, columns});
        EXPECT_EQ(y.shape(), Shape({rows, columns}));
        EXPECT_EQ(values_of(y), std::vector<float>(static_cast<std::size_t>(rows * columns), 2.0F * rows));
    }
    EXPECT_THAT(message_of<core::EngineError>([&] { (void)fill(1, {-1, 2}); }), HasSubstr("shape of y"));
    EXPECT_EQ(values_of(fill(1, {1, 2})), std::vector<float>(2, 2.0F)) << "nothing is left of the one that failed";
}

TEST_P(RunnerOutputs, HaveTheShapeThatAnInputWithStridesHolds) {
    const auto model = load(kFill);
    std::vector<std::int32_t> values{3, 9, 2, 9};
    const Tensor shape(core::TensorView(values.data(), DType::int32, {2}, {8}));
    EXPECT_EQ(answer(*model, {floats({1}, {1}), shape})[0].shape(), Shape({3, 2}));
}

TEST_P(RunnerOutputs, OnTheHostThatTensorRTWritesItselfAreNeverStale) {
    const auto shared = budget_of(1, 1);
    Runner::Options options = cold(shared);
    options.graphs = true;
    const auto model = load(kFillAndTell, options);
    const auto other = load(kFill, cold(shared, "other"));
    for (std::int64_t round = 0; round < 6; ++round) {
        const Tensors result = answer(*model, {floats({1}, {1}), tensor<std::int64_t>(DType::int64, {2}, {3, 4})});
        EXPECT_THAT(values_of<std::int64_t>(result["n"]), ElementsAre(3, 4)) << "round " << round;
        EXPECT_EQ(result["y"].shape(), Shape({3, 4}));
        // Uses the same memory of the host for numbers of its own.
        (void)answer(*other, {floats({1}, {1}), tensor<std::int32_t>(DType::int32, {2}, {1, 1})});
        Tensors more = answer(*model, {floats({1}, {1}), tensor<std::int64_t>(DType::int64, {2}, {2, 2})});
        EXPECT_THAT(values_of<std::int64_t>(more["n"]), ElementsAre(2, 2)) << "round " << round;
    }
}

TEST_P(RunnerOutputs, ShapeInputsOnTheDeviceAreRefusedAtOnce) {
    const auto model = load(kFill);
    const Tensor shape = place(device(), device_memory(), DType::int32, {2}, std::vector<std::int32_t>{2, 3});
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { ask(*model, {floats({1}, {1}), shape}); }),
                AllOf(HasSubstr("'m'"), HasSubstr("'s'"), HasSubstr("host memory"), HasSubstr("cuda:0")));
}

class RunnerComputedShapes : public RunnerOfRelease {
protected:
    static std::vector<std::int64_t> found(Runner& model, const std::vector<float>& values) {
        return values_of<std::int64_t>(answer(model, {floats({static_cast<std::int64_t>(values.size())}, values)})[0]);
    }
};
INSTANTIATE_TEST_SUITE_P(Fake, RunnerComputedShapes, releases(), release_name);

TEST_P(RunnerComputedShapes, AreThoseThatComeOut) {
    const auto model = load(kNonzero);
    EXPECT_THAT(found(*model, {0, 7, 0, 0, 1}), ElementsAre(1, 4));
    EXPECT_THAT(found(*model, {0, 0, 0}), IsEmpty());
    EXPECT_THAT(found(*model, {5}), ElementsAre(0));
    EXPECT_THAT(found(*model, std::vector<float>(16, 1)),
                ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    EXPECT_THAT(found(*model, {0, 0, 3}), ElementsAre(2));
}

TEST_P(RunnerComputedShapes, AreTheSameAfterAWarmUp) {
    Runner::Options options = cold(budget_of(2));
    options.skip_warm_up = false;
    options.graphs = true;
    const auto model = load(kNonzero, options);
    for (int round = 0; round < 8; ++round) EXPECT_THAT(found(*model, {0, 7, 0, 0, 1}), ElementsAre(1, 4));
    EXPECT_EQ(counter(*model, "graph_captures"), 0U) << "what is in a graph can't ask for memory";
    EXPECT_EQ(counter(*model, "graphs_refused"), 0U);
}

TEST_P(RunnerComputedShapes, ComeOnTheDeviceToo) {
    Runner::Options options = cold();
    options.outputs = Runner::Outputs::device;
    const auto model = load(kNonzero, options);
    const Tensors result = answer(*model, {floats({4}, {0, 1, 1, 0})});
    EXPECT_EQ(result[0].device().type, core::DeviceType::cuda);
    EXPECT_THAT(values_of<std::int64_t>(result[0]), ElementsAre(1, 2));
}

TEST_P(RunnerComputedShapes, OfManyRequestsAtATimeDoNotMeet) {
    const auto model = load(kNonzero, cold(budget_of(2)));
    std::vector<Future<Tensors>> futures;
    std::vector<Tensor> inputs;
    for (std::size_t i = 0; i < 64; ++i) {
        std::vector<float> values(16, 0);
        values[i % 16] = 1;
        inputs.push_back(floats({16}, values));
    }
    for (const Tensor& input : inputs) futures.push_back(ask(*model, {input}));
    for (std::size_t i = 0; i < 64; ++i) {
        EXPECT_THAT(values_of<std::int64_t>(futures[i].get(std::chrono::minutes(1))[0]),
                    ElementsAre(static_cast<std::int64_t>(i % 16)));
    }
}

}  // namespace
}  // namespace trtlab::tensorrt::test
