#include "trtlab/core/spec.hpp"
#include "refusal.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::refusal;

ModelSpec resnet() {
    return {.name = "resnet",
            .inputs = {{.name = "image", .dtype = DType::float32, .shape = {{1, 8}, 3, {}, {}}},
                       {.name = "scale", .dtype = DType::int64, .shape = {}}},
            .outputs = {{.name = "prob", .dtype = DType::float32, .shape = {{1, 8}, 1000}}}};
}

TEST(Dimension, AcceptsItsRangeBoundsIncluded) {
    const Dimension range(2, 5);
    EXPECT_TRUE(range.dynamic());
    for (std::int64_t extent : {2, 3, 5}) EXPECT_TRUE(range.accepts(extent)) << extent;
    for (std::int64_t extent : {-1, 0, 1, 6}) EXPECT_FALSE(range.accepts(extent)) << extent;
    const Dimension any;
    EXPECT_TRUE(any.accepts(0));
    EXPECT_TRUE(any.accepts(Dimension::kUnbounded));
    EXPECT_FALSE(any.accepts(-1));
    const Dimension fixed = 3;
    EXPECT_FALSE(fixed.dynamic());
    EXPECT_TRUE(fixed.accepts(3));
    EXPECT_FALSE(fixed.accepts(2));
}

TEST(Dimension, IsWrittenAsAnExtentAQuestionMarkOrARange) {
    EXPECT_EQ(Dimension(224).to_string(), "224");
    EXPECT_EQ(Dimension().to_string(), "?");
    EXPECT_EQ(Dimension(1, 32).to_string(), "1..32");
    EXPECT_EQ(Dimension(0, 32).to_string(), "0..32");
    EXPECT_EQ(Dimension(1, Dimension::kUnbounded).to_string(), "1..");
    EXPECT_EQ(Dimension(4, Dimension::kUnbounded).to_string(), "4..");
}

TEST(TensorSpec, IsWrittenAsDTypeAndShape) {
    EXPECT_EQ(resnet().inputs[0].to_string(), "float32[1..8, 3, ?, ?]");
    EXPECT_EQ(resnet().inputs[1].to_string(), "int64[]");
    EXPECT_EQ((TensorSpec{.name = "x", .dtype = DType::bytes, .any_rank = true}).to_string(), "bytes[...]");
}

TEST(TensorSpec, HasAStaticShapeOnlyWhereNothingIsDynamic) {
    const TensorSpec fixed{.name = "x", .shape = {2, 3}};
    EXPECT_FALSE(fixed.dynamic());
    EXPECT_EQ(fixed.static_shape(), (Shape{2, 3}));
    EXPECT_TRUE(resnet().inputs[0].dynamic());
    EXPECT_THAT(refusal([] { (void)resnet().inputs[0].static_shape(); }), HasSubstr("'image'"));
    const TensorSpec any{.name = "x", .any_rank = true};
    EXPECT_TRUE(any.dynamic());
    EXPECT_THROW((void)any.static_shape(), InvalidArgument);
}

TEST(ModelSpec, FindsTensorsByNameAndListsThemWhenItCannot) {
    const ModelSpec spec = resnet();
    EXPECT_EQ(spec.input_index("image"), 0u);
    EXPECT_EQ(spec.input_index("scale"), 1u);
    EXPECT_EQ(spec.output_index("prob"), 0u);
    EXPECT_THROW((void)spec.input_index("prob"), NotFound);
    EXPECT_THAT(refusal([&] { (void)spec.input_index("img"); }),
                AllOf(HasSubstr("'resnet'"), HasSubstr("input 'img'"), HasSubstr("'image' float32[1..8, 3, ?, ?]"),
                      HasSubstr("'scale' int64[]")));
    EXPECT_THAT(refusal([&] { (void)spec.output_index(""); }), AllOf(HasSubstr("output ''"), HasSubstr("'prob'")));
    const ModelSpec nothing{.name = "empty"};
    EXPECT_THAT(refusal([&] { (void)nothing.input_index("x"); }), HasSubstr("it has none"));
}

TEST(ModelSpec, ValidateRefusesWhatNoRequestCouldFit) {
    EXPECT_NO_THROW(resnet().validate());
    auto spec = resnet();
    spec.inputs[1].name = "";
    EXPECT_THAT(refusal([&] { spec.validate(); }), AllOf(HasSubstr("'resnet'"), HasSubstr("without a name")));
    spec = resnet();
    spec.inputs[1].name = "image";
    EXPECT_THAT(refusal([&] { spec.validate(); }), HasSubstr("two inputs called 'image'"));
    spec = resnet();
    spec.outputs.push_back(spec.outputs[0]);
    EXPECT_THAT(refusal([&] { spec.validate(); }), HasSubstr("two outputs called 'prob'"));
    spec = resnet();
    spec.outputs[0].shape.assign(9, 1);
    EXPECT_THAT(refusal([&] { spec.validate(); }),
                AllOf(HasSubstr("output 'prob'"), HasSubstr("rank 9"), HasSubstr("8")));
    for (const Dimension impossible : {Dimension(-1), Dimension(3, 2), Dimension(-2, 4)}) {
        spec = resnet();
        spec.inputs[0].shape[1] = impossible;
        EXPECT_THAT(refusal([&] { spec.validate(); }), AllOf(HasSubstr("'image'"), HasSubstr("accepts nothing")));
    }
    spec = resnet();
    spec.max_batch_size = -1;
    EXPECT_THAT(refusal([&] { spec.validate(); }), HasSubstr("max_batch_size"));
}

TEST(ModelSpec, TheSameNameMayBeAnInputAndAnOutput) {
    const ModelSpec spec{.name = "in place", .inputs = {{.name = "x"}}, .outputs = {{.name = "x"}}};
    EXPECT_NO_THROW(spec.validate());
}

struct CheckTensor : ::testing::Test {
    std::string refused(const TensorView& tensor) const {
        return refusal([&] { check_tensor(spec, spec.inputs[0], tensor, "input"); });
    }
    float data[3 * 4] = {};
    const ModelSpec spec = resnet();
};

TEST_F(CheckTensor, AcceptsWhatFitsTheRanges) {
    for (const Shape& shape : {Shape{1, 3, 2, 2}, Shape{8, 3, 0, 7}, Shape{2, 3, 1, 100000}}) {
        EXPECT_NO_THROW(check_tensor(spec, spec.inputs[0], TensorView(data, DType::float32, shape), "input"));
    }
    const std::int64_t scalar = 1;
    EXPECT_NO_THROW(
        check_tensor(spec, spec.inputs[1], TensorView(const_cast<std::int64_t*>(&scalar), DType::int64, {}), "input"));
}

TEST_F(CheckTensor, NamesModelTensorExpectedAndGotForAWrongDType) {
    EXPECT_EQ(refused(TensorView(data, DType::float64, {1, 3, 1, 2})),
              "model 'resnet', input 'image': expected float32[1..8, 3, ?, ?], got float64[1, 3, 1, 2]: convert it to "
              "float32");
}

TEST_F(CheckTensor, NamesBothRanks) {
    EXPECT_EQ(refused(TensorView(data, DType::float32, {3, 2, 2})),
              "model 'resnet', input 'image': expected float32[1..8, 3, ?, ?], got rank 3, shape [3, 2, 2]");
}

TEST_F(CheckTensor, NamesTheAxisAndWhatItAccepts) {
    EXPECT_EQ(
        refused(TensorView(data, DType::float32, {9, 3, 0, 0})),
        "model 'resnet', input 'image': expected float32[1..8, 3, ?, ?], got shape [9, 3, 0, 0]: axis 0 accepts 1..8, "
        "not 9");
    EXPECT_THAT(refused(TensorView(data, DType::float32, {0, 3, 1, 1})), HasSubstr("axis 0 accepts 1..8, not 0"));
    EXPECT_THAT(refused(TensorView(data, DType::float32, {1, 4, 1, 1})), HasSubstr("axis 1 accepts 3, not 4"));
}

TEST_F(CheckTensor, RefusesANullAddressUnlessThereIsNothingToRead) {
    EXPECT_EQ(refused(TensorView(nullptr, DType::float32, {1, 3, 1, 1})),
              "model 'resnet', input 'image': expected float32[1..8, 3, ?, ?], got a null address");
    EXPECT_NO_THROW(check_tensor(spec, spec.inputs[0], TensorView(nullptr, DType::float32, {1, 3, 0, 1}), "input"));
}

TEST_F(CheckTensor, RefusesMemoryOfAGpuThatTheModelDoesNotRead) {
    const auto in = [this](DeviceType type, std::int32_t index) {
        return TensorView(data, DType::float32, {1, 3, 2, 2}, Device{type, index});
    };
    EXPECT_EQ(
        refused(in(DeviceType::cuda, 1)),
        "model 'resnet', input 'image': expected float32[1..8, 3, ?, ?], got memory of cuda:1: the model reads host "
        "memory, copy it there first");
    ModelSpec gpus = spec;
    gpus.cuda_devices = {0, 2};
    EXPECT_THAT(refusal([&] { check_tensor(gpus, gpus.inputs[0], in(DeviceType::cuda, 1), "input"); }),
                HasSubstr("memory of cuda:1: the model reads host memory or cuda:0 or cuda:2"));
    EXPECT_NO_THROW(check_tensor(gpus, gpus.inputs[0], in(DeviceType::cuda, 2), "input"));
    EXPECT_NO_THROW(check_tensor(gpus, gpus.inputs[0], in(DeviceType::cpu, 0), "input"));
}

TEST_F(CheckTensor, TakesMemoryThatHostAndGpuBothRead) {
    for (const DeviceType type : {DeviceType::cuda_host, DeviceType::cuda_managed}) {
        EXPECT_NO_THROW(check_tensor(spec, spec.inputs[0],
                                     TensorView(data, DType::float32, {1, 3, 2, 2}, Device{type, 1}), "input"));
    }
}

TEST_F(CheckTensor, AcceptsAnyRankWhereTheRankIsUnknownButNotAnyDType) {
    const TensorSpec any{.name = "x", .dtype = DType::float32, .any_rank = true};
    EXPECT_NO_THROW(check_tensor(spec, any, TensorView(data, DType::float32, {}), "output"));
    EXPECT_NO_THROW(check_tensor(spec, any, TensorView(data, DType::float32, {1, 2, 1, 2, 1}), "output"));
    EXPECT_THAT(refusal([&] { check_tensor(spec, any, TensorView(data, DType::int32, {1}), "output"); }),
                AllOf(HasSubstr("output 'x'"), HasSubstr("expected float32[...], got int32[1]")));
}

TEST(Tensors, AreFoundByPositionAndByName) {
    const auto spec = std::make_shared<const ModelSpec>(
        ModelSpec{.name = "m", .outputs = {{.name = "a", .shape = {1}}, {.name = "b", .shape = {2}}}});
    const Tensors tensors(spec, {Tensor::allocate(DType::float32, {1}), Tensor::allocate(DType::float32, {2})});
    EXPECT_EQ(tensors.size(), 2u);
    EXPECT_EQ(tensors["b"].shape(), (Shape{2}));
    EXPECT_EQ(tensors[0].shape(), (Shape{1}));
    EXPECT_EQ(tensors.name(1), "b");
    EXPECT_EQ(std::distance(tensors.begin(), tensors.end()), 2);
    EXPECT_THAT(refusal([&] { (void)tensors["c"]; }),
                AllOf(HasSubstr("no output 'c'"), HasSubstr("'a'"), HasSubstr("'b'")));
    EXPECT_THROW((void)tensors[2], std::out_of_range);
}

TEST(Tensors, ClearedOnesAreFilledAgainForAnotherSpec) {
    const auto first = std::make_shared<const ModelSpec>(ModelSpec{.name = "m", .outputs = {{.name = "a"}}});
    const auto second = std::make_shared<const ModelSpec>(ModelSpec{.name = "n", .outputs = {{.name = "z"}}});
    Tensors tensors(first, {Tensor::allocate(DType::float32, {1})});
    tensors.clear();
    EXPECT_EQ(tensors.size(), 0u);
    tensors.assign_spec(second);
    tensors.push_back(Tensor::allocate(DType::float32, {3}));
    EXPECT_EQ(tensors["z"].elements(), 3u);
}

}  // namespace
}  // namespace trtlab::core
