#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "models.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::openvino::test {
namespace {

using core::DType;
using core::Tensor;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string small_onnx() {
    Proto graph;
    graph.nested(1, onnx_node("Relu", {"x"}, {"y"}))
        .text(2, "g")
        .nested(11, onnx_value("x", {2}))
        .nested(12, onnx_value("y", {2}));
    return onnx_model(graph);
}

std::string write_file(const std::string& name, const std::string& content) {
    const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / ("trtlab_" + name);
    std::ofstream(file, std::ios::binary) << content;
    return file.string();
}

TEST(RunnerErrors, FileThatIsNotThereIsNotFoundAndNamesModelAndPath) {
    EXPECT_THAT(message_of<core::NotFound>([] { Runner::load(library(), "/nowhere/m.onnx", named("ocr")); }),
                AllOf(HasSubstr("'ocr'"), HasSubstr("/nowhere/m.onnx")));
}

TEST(RunnerErrors, FilesThatAreNoModelsAreInvalidArguments) {
    const auto load_file = [](const std::string& path) {
        return message_of<core::InvalidArgument>([&] { Runner::load(library(), path, named("ocr")); });
    };
    EXPECT_THAT(load_file(write_file("empty.onnx", "")), AllOf(HasSubstr("'ocr'"), HasSubstr("empty")));
    EXPECT_THAT(load_file(write_file("text.onnx", "this is not a model")),
                AllOf(HasSubstr("'ocr'"), HasSubstr("ONNX")));
    EXPECT_THAT(load_file(write_file("short.onnx", small_onnx().substr(0, 40))), HasSubstr("bytes early"));
    EXPECT_THAT(load_file(write_file("other.xml", "<?xml version=\"1.0\"?><!-- <net --><html version=\"1\"></html>")),
                AllOf(HasSubstr("'ocr'"), HasSubstr("no OpenVINO IR")));
    EXPECT_THAT(load_file(write_file("bare.xml", "<net><layers></net>")), HasSubstr("no OpenVINO IR"));
    EXPECT_THAT(load_file(testing::TempDir()), HasSubstr("directory"));
    EXPECT_THAT(load_file(""), HasSubstr("path is empty"));
}

TEST(RunnerErrors, WeightsBesideAnOnnxModelAreRefused) {
    const std::string model = small_onnx();
    const std::vector<std::byte> weights(4);
    EXPECT_THAT(message_of<core::InvalidArgument>(
                    [&] { Runner::load_from_memory(library(), bytes_of(model), named("ocr"), weights); }),
                AllOf(HasSubstr("'ocr'"), HasSubstr("weights")));
}

TEST(RunnerErrors, EveryTruncationOfAnOnnxModelIsAnErrorOfOurs) {
    const std::string whole = small_onnx();
    ASSERT_NO_THROW((void)load(whole));
    for (std::size_t size = 0; size < whole.size(); ++size) {
        try {
            (void)load(whole.substr(0, size));
            // A prefix that ends between two fields can be a model with a default in place of what is missing.
        } catch (const core::Error&) {
        }
    }
}

TEST(RunnerErrors, EveryFlippedByteOfAnOnnxModelIsAModelOrAnErrorOfOurs) {
    const std::string whole = small_onnx();
    for (std::size_t i = 0; i < whole.size(); ++i) {
        std::string flipped = whole;
        flipped[i] = static_cast<char>(flipped[i] ^ 0x55);
        try {
            (void)load(flipped);
        } catch (const core::Error&) {
        }
    }
}

TEST(RunnerErrors, XmlThatIsNoModelIsAnEngineErrorInOpenVinosWords) {
    const auto load_text = [](const std::string& text) {
        return message_of<core::EngineError>([&] { (void)load(text, named("ocr")); });
    };
    EXPECT_THAT(load_text("<?xml version=\"1.0\"?><html/>"), HasSubstr("'ocr'"));
    EXPECT_THAT(load_text(relu({2}).substr(0, 200)), AllOf(HasSubstr("'ocr'"), Not(HasSubstr("Exception from src/"))));
    Ir unknown;
    unknown.result(unknown.op("Abacus", {unknown.parameter("x", "f32", {2})}, "y", {2}));
    EXPECT_THAT(load_text(unknown.xml()), HasSubstr("Abacus"));
}

TEST(RunnerErrors, UnknownDeviceIsAnEngineErrorThatListsTheDevices) {
    Runner::Options options = named("ocr");
    options.device = "ABACUS";
    EXPECT_THAT(message_of<core::EngineError>([&] { (void)load(relu({2}), options); }),
                AllOf(HasSubstr("'ocr'"), HasSubstr("'ABACUS'"), HasSubstr("there are: CPU")));
}

TEST(RunnerErrors, WrongSettingsAreEngineErrorsThatNameThem) {
    Runner::Options options = named("ocr");
    options.precision = "f31";
    EXPECT_THAT(message_of<core::EngineError>([&] { (void)load(relu({2}), options); }),
                AllOf(HasSubstr("'ocr'"), HasSubstr("f31")));
    options.precision = "f32";
    options.properties["COLOUR"] = "red";
    EXPECT_THAT(message_of<core::EngineError>([&] { (void)load(relu({2}), options); }), HasSubstr("COLOUR"));
}

TEST(RunnerErrors, NoNameAndNoLibraryAreInvalidArguments) {
    EXPECT_THROW((void)load(relu({2}), named("")), core::InvalidArgument);
    EXPECT_THAT(message_of<core::InvalidArgument>([] { Runner::load(nullptr, "m.onnx", named("ocr")); }),
                HasSubstr("'ocr'"));
}

TEST(RunnerErrors, MoreThanEightDimensionsAreRefusedWhenTheModelIsLoaded) {
    EXPECT_THAT(message_of<core::InvalidArgument>([] { (void)load(relu({1, 1, 1, 1, 1, 1, 1, 1, 2}), named("ocr")); }),
                HasSubstr("'ocr'"));
}

TEST(RunnerErrors, ElementTypesWithoutACounterpartAreRefusedWhenTheModelIsLoaded) {
    EXPECT_THAT(message_of<core::EngineError>([] { (void)load(identity("i4", {2}), named("ocr")); }),
                AllOf(HasSubstr("'ocr'"), HasSubstr("'x'")));
}

TEST(RunnerErrors, InputsThatDoNotFitTheSpecAreRefusedByInfer) {
    const auto model = load(add({-1, 2}), named("adder"));
    const Tensor good = floats({1, 2}, {1, 2});
    const auto infer = [&](std::vector<Tensor> inputs) {
        return message_of<core::InvalidArgument>([&] { (void)model->infer(std::span<const Tensor>(inputs)); });
    };
    EXPECT_THAT(infer({good}), AllOf(HasSubstr("'adder'"), HasSubstr("2 inputs"), HasSubstr("got 1")));
    EXPECT_THAT(infer({good, good, good}), HasSubstr("got 3"));
    EXPECT_THAT(infer({good, floats({1, 3}, {1, 2, 3})}), AllOf(HasSubstr("'adder'"), HasSubstr("'b'")));
    EXPECT_THAT(infer({good, floats({2}, {1, 2})}), HasSubstr("'b'"));
    EXPECT_THAT(infer({tensor<double>(DType::float64, {1, 2}, {1, 2}), good}),
                AllOf(HasSubstr("'a'"), HasSubstr("float64")));
    EXPECT_EQ(model->stats().completed, 0u);
}

TEST(RunnerErrors, FailedInferenceReachesItsFutureAndHarmsNoOther) {
    const auto model = load(add({-1}), named("adder"));
    for (int i = 0; i < 20; ++i) {
        const auto bad = model->infer(
            std::span<const Tensor>(std::vector<Tensor>{floats({4}, {1, 2, 3, 4}), floats({3}, {1, 2, 3})}));
        const auto good =
            model->infer(std::span<const Tensor>(std::vector<Tensor>{floats({2}, {1, 2}), floats({2}, {1, 2})}));
        EXPECT_THAT(message_of<core::EngineError>([&] { (void)bad.get(); }),
                    AllOf(HasSubstr("'adder'"), HasSubstr("mismatch")));
        EXPECT_THAT(values_of(good.get()[0]), testing::ElementsAre(2, 4));
    }
}

TEST(RunnerErrors, IntegersThatOpenVinoWouldTruncateAreRefused) {
    const auto signed_model = load(identity("i64", {-1}), named("ids"));
    for (const std::int64_t value :
         {std::int64_t{1} << 31, -(std::int64_t{1} << 31) - 1, std::numeric_limits<std::int64_t>::max()}) {
        EXPECT_THAT(message_of<core::InvalidArgument>(
                        [&] { (void)answer(*signed_model, {tensor<std::int64_t>(DType::int64, {3}, {1, value, 2})}); }),
                    AllOf(HasSubstr("'ids'"), HasSubstr("'x'"), HasSubstr(std::to_string(value)), HasSubstr("int32")));
    }
    const std::vector<std::int64_t> limits{std::numeric_limits<std::int32_t>::min(),
                                           std::numeric_limits<std::int32_t>::max()};
    EXPECT_EQ(values_of<std::int64_t>(answer(*signed_model, {tensor<std::int64_t>(DType::int64, {2}, limits)})[0]),
              limits);

    const auto unsigned_model = load(identity("u64", {-1}), named("ids"));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] {
                    (void)answer(*unsigned_model,
                                 {tensor<std::uint64_t>(DType::uint64, {1}, {std::uint64_t{1} << 31})});
                }),
                HasSubstr("2147483648"));
}

TEST(RunnerErrors, IntegersAreCheckedThroughStridesToo) {
    const auto model = load(identity("i64", {-1}), named("ids"));
    std::vector<std::int64_t> memory{1, std::int64_t{1} << 40, 2, 3};
    const core::TensorView every_second(memory.data(), DType::int64, {2}, {16});
    const core::TensorView the_others(memory.data() + 1, DType::int64, {2}, {16});
    EXPECT_THAT(values_of<std::int64_t>(answer(*model, {Tensor(every_second)})[0]), testing::ElementsAre(1, 2));
    EXPECT_THROW((void)answer(*model, {Tensor(the_others)}), core::InvalidArgument);
}

}  // namespace
}  // namespace trtlab::openvino::test
