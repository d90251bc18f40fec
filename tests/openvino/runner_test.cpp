#include "trtlab/openvino/runner.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "models.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::openvino::test {
namespace {

using core::Dimension;
using core::DType;
using core::Shape;
using core::Tensor;
using core::TensorView;
using testing::ElementsAre;

TEST(Runner, DescribesItsInputsAndOutputs) {
    Ir ir;
    const int a = ir.parameter("ids", "i64", {-1, 3});
    const int b = ir.parameter("scale", "f32", {});
    ir.result(ir.binary("Multiply", ir.op("Convert", {a}, "", {-1, 3}, "<data destination_type=\"f32\"/>"), b, "scaled",
                        {-1, 3}));
    const auto model = load(ir.xml(), named("scaler"));
    const core::ModelSpec& spec = model->spec();
    EXPECT_EQ(spec.name, "scaler");
    EXPECT_EQ(spec.platform, "openvino");
    ASSERT_EQ(spec.inputs.size(), 2u);
    EXPECT_EQ(spec.inputs[0].name, "ids");
    EXPECT_EQ(spec.inputs[0].dtype, DType::int64);
    EXPECT_THAT(spec.inputs[0].shape, ElementsAre(Dimension(), Dimension(3)));
    EXPECT_EQ(spec.inputs[1].name, "scale");
    EXPECT_TRUE(spec.inputs[1].shape.empty());
    ASSERT_EQ(spec.outputs.size(), 1u);
    EXPECT_EQ(spec.outputs[0].to_string(), "float32[?, 3]");
    EXPECT_EQ(spec.max_batch_size, 0);  // `scale` has no batch axis
}

TEST(Runner, LeadingDynamicAxisOfEveryTensorIsTheBatch) {
    EXPECT_EQ(load(relu({-1, 4}))->spec().max_batch_size, Dimension::kUnbounded);
    EXPECT_EQ(load(relu({2, 4}))->spec().max_batch_size, 0);
}

TEST(Runner, ComputesAFixedShape) {
    const auto model = load(relu({2, 3}));
    const core::Tensors result = answer(*model, {floats({2, 3}, {-1, 2, -3, 4, -5, 6})});
    EXPECT_EQ(result["y"].shape(), (Shape{2, 3}));
    EXPECT_THAT(values_of(result["y"]), ElementsAre(0, 2, 0, 4, 0, 6));
}

TEST(Runner, DynamicShapesMayChangeFromRequestToRequestInEitherDirection) {
    const auto model = load(relu({-1, 2}));
    for (const std::int64_t rows : {1, 4, 2, 64, 3, 0, 5}) {
        std::vector<float> values(static_cast<std::size_t>(rows) * 2);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) + static_cast<float>(rows);
        const core::Tensors result = answer(*model, {floats({rows, 2}, values)});
        EXPECT_EQ(result[0].shape(), (Shape{rows, 2}));
        EXPECT_EQ(values_of(result[0]), values) << rows << " rows";
    }
}

TEST(Runner, AnswersHeldWhileOthersAreComputedKeepTheirValues) {
    const auto model = load(relu({-1}));
    std::vector<core::Tensors> held;
    for (int i = 1; i <= 100; ++i)
        held.push_back(
            answer(*model, {floats({i}, std::vector<float>(static_cast<std::size_t>(i), static_cast<float>(i)))}));
    for (int i = 1; i <= 100; ++i) {
        const auto values = values_of(held[static_cast<std::size_t>(i - 1)][0]);
        EXPECT_EQ(values, std::vector<float>(static_cast<std::size_t>(i), static_cast<float>(i)));
    }
}

TEST(Runner, AnswersOutliveTheModelAndItsFutures) {
    Tensor kept;
    {
        auto model = load(relu({1, 4}));
        kept = answer(*model, {floats({1, 4}, {1, 2, 3, 4})})[0];
    }
    EXPECT_THAT(values_of(kept), ElementsAre(1, 2, 3, 4));
}

TEST(Runner, MemoryOfADroppedAnswerIsUsedAgain) {
    const auto model = load(relu({1, 1024}));
    const Tensor input = floats({1, 1024}, std::vector<float>(1024, 1.0F));
    // The lanes' own requests may be bound to memory as well: what counts is that the number stays small.
    std::set<const void*> seen;
    for (int i = 0; i < 200; ++i) seen.insert(answer(*model, {input})[0].data());
    EXPECT_LE(seen.size(), 2 * model->budget()->options().max_buffers);
}

struct TypeCase {
    const char* openvino;
    DType dtype;
};

void PrintTo(const TypeCase& one, std::ostream* out) { *out << one.openvino; }

class RunnerTypes : public testing::TestWithParam<TypeCase> {};

Tensor small_values(DType dtype, const Shape& shape) {
    Tensor result = Tensor::allocate(dtype, shape);
    // 0 and 1 are exact in every type; their bit patterns are those of the type, not of a conversion.
    for (std::size_t i = 0; i < result.elements(); ++i) {
        const bool one = i % 3 == 1;
        void* at = result.data_as<std::byte>() + i * size_of(dtype);
        std::uint64_t bits = one ? 1 : 0;
        if (one && dtype == DType::float16) bits = 0x3c00;
        if (one && dtype == DType::bfloat16) bits = 0x3f80;
        if (one && dtype == DType::float32) bits = 0x3f800000;
        if (one && dtype == DType::float64) bits = 0x3ff0000000000000;
        std::memcpy(at, &bits, size_of(dtype));
    }
    return result;
}

TEST_P(RunnerTypes, PassThroughUnchangedWithFixedDynamicEmptyAndScalarShapes) {
    const TypeCase type = GetParam();
    const std::vector<std::pair<Ir::Dims, Shape>> cases{
        {{2, 3}, {2, 3}}, {{-1, 3}, {5, 3}}, {{-1, 3}, {0, 3}}, {{}, {}}, {{-1}, {1}}};
    for (const auto& [dims, shape] : cases) {
        const auto model = load(identity(type.openvino, dims));
        EXPECT_EQ(model->spec().inputs[0].dtype, type.dtype);
        EXPECT_EQ(model->spec().outputs[0].dtype, type.dtype);
        const Tensor input = small_values(type.dtype, shape);
        const Tensor copy = Tensor::copy_of(input);
        for (int repeat = 0; repeat < 3; ++repeat) {
            const core::Tensors result = answer(*model, {input});
            ASSERT_EQ(result[0].shape(), shape);
            EXPECT_EQ(std::memcmp(result[0].data(), copy.data(), copy.size_bytes()), 0) << shape.to_string();
            EXPECT_EQ(std::memcmp(input.data(), copy.data(), copy.size_bytes()), 0) << "the input was written to";
        }
    }
}

TEST_P(RunnerTypes, AreComputedWith) {
    const TypeCase type = GetParam();
    Ir ir;
    const int a = ir.parameter("a", type.openvino, {-1});
    const int b = ir.parameter("b", type.openvino, {-1});
    ir.result(ir.op("Concat", {a, b}, "y", {-1}, "<data axis=\"0\"/>"));
    const auto model = load(ir.xml());
    const Tensor one = small_values(type.dtype, {4});
    const Tensor two = small_values(type.dtype, {7});
    const core::Tensors result = answer(*model, {one, two});
    ASSERT_EQ(result[0].shape(), (Shape{11}));
    EXPECT_EQ(std::memcmp(result[0].data(), one.data(), one.size_bytes()), 0);
    EXPECT_EQ(std::memcmp(result[0].data_as<std::byte>() + one.size_bytes(), two.data(), two.size_bytes()), 0);
}

INSTANTIATE_TEST_SUITE_P(All, RunnerTypes,
                         testing::Values(TypeCase{"boolean", DType::boolean}, TypeCase{"i8", DType::int8},
                                         TypeCase{"i16", DType::int16}, TypeCase{"i32", DType::int32},
                                         TypeCase{"i64", DType::int64}, TypeCase{"u8", DType::uint8},
                                         TypeCase{"u16", DType::uint16}, TypeCase{"u32", DType::uint32},
                                         TypeCase{"u64", DType::uint64}, TypeCase{"f16", DType::float16},
                                         TypeCase{"bf16", DType::bfloat16}, TypeCase{"f32", DType::float32},
                                         TypeCase{"f64", DType::float64}),
                         [](const auto& tested) { return std::string(tested.param.openvino); });

TEST(Runner, ByteStringsOfAnyLengthPassThrough) {
    using namespace std::string_view_literals;
    const std::vector<std::string_view> values{"", "short", "with\0zero"sv,
                                               "a string that is much too long to be kept in place"};
    for (const Ir::Dims& dims : {Ir::Dims{2, 2}, Ir::Dims{-1, 2}}) {
        const auto model = load(identity("string", dims));
        EXPECT_EQ(model->spec().inputs[0].dtype, DType::bytes);
        Tensor kept;
        for (int repeat = 0; repeat < 3; ++repeat) {
            kept = answer(*model, {Tensor::from_strings(values, {2, 2})})[0];
        }
        EXPECT_EQ(kept.shape(), (Shape{2, 2}));
        EXPECT_EQ(values_of<std::string_view>(kept), values);
        (void)answer(*model, {Tensor::from_strings(std::vector<std::string_view>{"1", "2", "3", "4"}, {2, 2})});
        EXPECT_EQ(values_of<std::string_view>(kept), values) << "a held answer changed";
    }
}

TEST(Runner, StridedInputsAreReadInTheirOrder) {
    const auto model = load(relu({-1, -1}));
    std::vector<float> memory{1, 2, 3, 4, 5, 6};
    const TensorView transposed(memory.data(), DType::float32, {3, 2}, {4, 12});
    const TensorView backwards(memory.data() + 5, DType::float32, {2, 3}, {-12, -4});
    const TensorView repeated(memory.data(), DType::float32, {2, 2}, {0, 4});
    EXPECT_THAT(values_of(answer(*model, {Tensor(transposed)})[0]), ElementsAre(1, 4, 2, 5, 3, 6));
    EXPECT_THAT(values_of(answer(*model, {Tensor(backwards)})[0]), ElementsAre(6, 5, 4, 3, 2, 1));
    EXPECT_THAT(values_of(answer(*model, {Tensor(repeated)})[0]), ElementsAre(1, 2, 1, 2));
}

TEST(Runner, InputsNotAlignedToTheirElementAreRead) {
    const auto model = load(relu({4}));
    std::vector<std::byte> memory(4 * sizeof(float) + 1);
    const float values[4] = {1, -2, 3, -4};
    std::memcpy(memory.data() + 1, values, sizeof values);
    EXPECT_THAT(values_of(answer(*model, {Tensor(TensorView(memory.data() + 1, DType::float32, {4}))})[0]),
                ElementsAre(1, 0, 3, 0));
}

TEST(Runner, OneTensorMayBeSeveralInputs) {
    const auto model = load(add({-1}));
    const Tensor both = floats({3}, {1, 2, 3});
    EXPECT_THAT(values_of(answer(*model, {both, both})[0]), ElementsAre(2, 4, 6));
}

TEST(Runner, AnswerOfOneRequestCanBeTheInputOfTheNext) {
    const auto model = load(add({-1}));
    Tensor sum = floats({2}, {1, 10});
    for (int i = 0; i < 5; ++i) sum = answer(*model, {sum, sum})[0];
    EXPECT_THAT(values_of(sum), ElementsAre(32, 320));
}

TEST(Runner, InputsThatAreOutputsAsWellReachThemUnchanged) {
    Ir ir;
    const int x = ir.parameter("x", "f32", {-1, 2});
    ir.result(x);
    ir.result(ir.op("ReLU", {x}, "y", {-1, 2}));
    ir.result(x);
    const auto model = load(ir.xml());
    ASSERT_EQ(model->spec().outputs.size(), 3u);
    EXPECT_EQ(model->spec().outputs[0].name, "x");
    EXPECT_EQ(model->spec().outputs[2].name, "x:2");
    for (const float start : {-1.0F, 7.0F, -3.0F}) {
        const Tensor input = floats({1, 2}, {start, 5});
        const core::Tensors result = answer(*model, {input});
        EXPECT_THAT(values_of(result[0]), ElementsAre(start, 5));
        EXPECT_THAT(values_of(result[1]), ElementsAre(std::max(start, 0.0F), 5));
        EXPECT_THAT(values_of(result[2]), ElementsAre(start, 5));
        EXPECT_THAT(values_of(input), ElementsAre(start, 5));
    }
}

TEST(Runner, RequestsOfAStatefulModelAllStartFromTheInitialState) {
    Ir ir;
    const Ir::Dims dims{1, 2};
    const std::string variable = "<data variable_id=\"v\" variable_type=\"f32\" variable_shape=\"1,2\"/>";
    const int x = ir.parameter("x", "f32", dims);
    const int state = ir.op("ReadValue", {ir.constant("f32", dims, 0, 8)}, "", dims, variable, "opset6");
    const int sum = ir.binary("Add", x, state, "y", dims);
    ir.op("Assign", {sum}, "", dims, variable, "opset6");
    ir.result(sum);
    const float initial[2] = {10, 20};
    const auto model =
        load(ir.xml(), named("counter"), std::string_view(reinterpret_cast<const char*>(initial), sizeof initial));
    for (int i = 0; i < 3; ++i) {
        EXPECT_THAT(values_of(answer(*model, {floats({1, 2}, {1, 2})})[0]), ElementsAre(11, 22)) << "request " << i;
    }
}

TEST(Runner, WeightsMayBeFreedOnceTheModelIsLoaded) {
    Ir ir;
    ir.result(ir.binary("Add", ir.parameter("x", "f32", {2}), ir.constant("f32", {2}, 0, 8), "y", {2}));
    const float values[2] = {1, 2};
    auto weights = std::make_unique<std::string>(reinterpret_cast<const char*>(values), sizeof values);
    const auto model = load(ir.xml(), named("m"), *weights);
    std::fill(weights->begin(), weights->end(), '\xff');
    weights.reset();
    EXPECT_THAT(values_of(answer(*model, {floats({2}, {10, 10})})[0]), ElementsAre(11, 12));
}

TEST(Runner, LoadsOnnxFromMemoryUnderTheNamesThatItsAuthorGave) {
    Proto graph;
    // The output is also the input of nothing else, and has the internal name that Identity's input had.
    graph.nested(1, onnx_node("Relu", {"x"}, {"a_first_by_the_alphabet"}))
        .nested(1, onnx_node("Identity", {"a_first_by_the_alphabet"}, {"result"}))
        .text(2, "g")
        .nested(11, onnx_value("x", {-1, 2}))
        .nested(12, onnx_value("result", {-1, 2}));
    const auto model = load(onnx_model(graph), named("onnx"));
    EXPECT_EQ(model->spec().inputs[0].name, "x");
    EXPECT_EQ(model->spec().outputs[0].name, "result");
    EXPECT_THAT(values_of(answer(*model, {floats({1, 2}, {-1, 3})})["result"]), ElementsAre(0, 3));
}

TEST(Runner, OnnxOutputsOfOneTensorKeepTheirNames) {
    Proto graph;
    graph.nested(1, onnx_node("Relu", {"x"}, {"r"}))
        .nested(1, onnx_node("Identity", {"r"}, {"second"}))
        .nested(1, onnx_node("Identity", {"r"}, {"first"}))
        .text(2, "g")
        .nested(11, onnx_value("x", {2}))
        .nested(12, onnx_value("second", {2}))
        .nested(12, onnx_value("first", {2}));
    const auto model = load(onnx_model(graph));
    EXPECT_EQ(model->spec().outputs[0].name, "second");
    EXPECT_EQ(model->spec().outputs[1].name, "first");
    const core::Tensors result = answer(*model, {floats({2}, {-1, 4})});
    EXPECT_THAT(values_of(result["first"]), ElementsAre(0, 4));
    EXPECT_THAT(values_of(result["second"]), ElementsAre(0, 4));
}

TEST(Runner, LoadsOnnxAndIrFromFiles) {
    const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "trtlab_models with a space";
    std::filesystem::create_directories(folder);
    Proto graph;
    graph.nested(1, onnx_node("Relu", {"x"}, {"y"}))
        .text(2, "g")
        .nested(11, onnx_value("x", {2}))
        .nested(12, onnx_value("y", {2}));
    std::ofstream(folder / "m.onnx", std::ios::binary) << onnx_model(graph);
    Ir ir;
    ir.result(ir.binary("Add", ir.parameter("x", "f32", {2}), ir.constant("f32", {2}, 0, 8), "y", {2}));
    std::ofstream(folder / "m.xml") << ir.xml();
    const float weights[2] = {1, 2};
    std::ofstream(folder / "m.bin", std::ios::binary).write(reinterpret_cast<const char*>(weights), sizeof weights);

    EXPECT_THAT(values_of(answer(*Runner::load(library(), (folder / "m.onnx").string(), named("m")),
                                 {floats({2}, {-1, 1})})[0]),
                ElementsAre(0, 1));
    EXPECT_THAT(
        values_of(answer(*Runner::load(library(), (folder / "m.xml").string(), named("m")), {floats({2}, {-1, 1})})[0]),
        ElementsAre(0, 3));
}

TEST(Runner, HandsItsSettingsToOpenVino) {
    Runner::Options options = named("m");
    options.streams = 2;
    options.threads = 2;
    const auto model = load(relu({4}), options);
    EXPECT_EQ(model->property("NUM_STREAMS"), "2");
    EXPECT_EQ(model->property("INFERENCE_NUM_THREADS"), "2");
    EXPECT_EQ(model->property("INFERENCE_PRECISION_HINT"), "f32");
    EXPECT_EQ(model->budget()->options().max_executions, 2u);

    options.properties["NUM_STREAMS"] = "1";
    EXPECT_EQ(load(relu({4}), options)->property("NUM_STREAMS"), "1");
}

TEST(Runner, CountsWhatItDid) {
    const auto model = load(add({-1}));
    for (int i = 0; i < 3; ++i) (void)answer(*model, {floats({2}, {1, 2}), floats({2}, {1, 2})});
    EXPECT_THROW((void)answer(*model, {floats({2}, {1, 2}), floats({3}, {1, 2, 3})}), core::EngineError);
    model->close();
    const core::ModelStats stats = model->stats();
    EXPECT_EQ(stats.completed, 3u);
    EXPECT_EQ(stats.failed, 1u);
    EXPECT_GT(stats.execute.count(), 0);
}

}  // namespace
}  // namespace trtlab::openvino::test
