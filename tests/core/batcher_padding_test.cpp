#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "batched_models.hpp"
#include "refusal.hpp"
#include "trtlab/core/error.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using testing::ask;
using testing::DoublingModel;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::matrix;
using testing::refusal;
using testing::values_of;
using testing::yield_until;

struct PaddingBatcher : ::testing::Test {
    void make(const std::vector<PaddedAxis>& padding) {
        batcher = std::make_unique<Batcher>(doubling.model, Batcher::Options{.padding = padding});
        (void)ask(*batcher, matrix(1, 1, 0));
        yield_until([&] { return doubling.running == 1; });
    }
    DoublingModel doubling{true};
    std::unique_ptr<Batcher> batcher;
};

TEST_F(PaddingBatcher, RequestsOfOneBucketAreFilledUpJoinedAndCutBack) {
    make({{.input = "x", .axis = 1, .buckets = {4, 8}, .value = 7, .trimmed = {{"y", 1}}}});
    const auto a = ask(*batcher, matrix(2, 2, 0)), b = ask(*batcher, matrix(1, 4, 10)),
               c = ask(*batcher, matrix(1, 5, 0));
    doubling.gate.open();
    EXPECT_EQ(a.get()["y"].shape().to_string(), "[2, 2]");
    EXPECT_THAT(values_of(a.get()["y"]), ElementsAre(0, 2, 4, 6));
    EXPECT_THAT(values_of(b.get()["y"]), ElementsAre(20, 22, 24, 26));
    EXPECT_THAT(values_of(c.get()["y"]), ElementsAre(0, 2, 4, 6, 8));
    EXPECT_THAT(doubling.asked(), ElementsAre("[1, 1]", "[3, 4]", "[1, 5]")) << "alone it is not padded";
}

TEST_F(PaddingBatcher, WhatIsNotTrimmedShowsTheFilling) {
    make({{.input = "x", .axis = 1, .buckets = {4}, .value = -1}});
    const auto a = ask(*batcher, matrix(2, 2, 0)), b = ask(*batcher, matrix(1, 3, 10));
    doubling.gate.open();
    EXPECT_THAT(values_of(a.get()["y"]), ElementsAre(0, 2, -2, -2, 4, 6, -2, -2));
    EXPECT_THAT(values_of(b.get()["y"]), ElementsAre(20, 22, 24, -2));
}

TEST_F(PaddingBatcher, LongerRequestsThanTheLastBucketAreJoinedAsTheyAre) {
    make({{.input = "x", .axis = 1, .buckets = {4}, .trimmed = {{"y", 1}}}});
    const auto a = ask(*batcher, matrix(1, 6, 0)), b = ask(*batcher, matrix(1, 6, 0)),
               c = ask(*batcher, matrix(1, 5, 0));
    doubling.gate.open();
    for (const auto& future : {a, b, c}) (void)future.get();
    EXPECT_THAT(doubling.asked(), ElementsAre("[1, 1]", "[2, 6]", "[1, 5]"));
}

TEST_F(PaddingBatcher, AnyLayoutIsFilledUp) {
    make({{.input = "x", .axis = 1, .buckets = {3}, .value = 9}});
    const Tensor dense = matrix(2, 2, 1);
    const Tensor transposed(TensorView(dense.data(), DType::float32, {2, 2}, {4, 8}), dense.owner());
    const Tensor backwards(TensorView(dense.data_as<float>() + 3, DType::float32, {1, 2}, {0, -4}), dense.owner());
    const auto a = ask(*batcher, transposed), b = ask(*batcher, backwards), c = ask(*batcher, matrix(1, 0, 0));
    doubling.gate.open();
    EXPECT_THAT(values_of(a.get()["y"]), ElementsAre(2, 6, 18, 4, 8, 18));
    EXPECT_THAT(values_of(b.get()["y"]), ElementsAre(8, 6, 18));
    EXPECT_THAT(values_of(c.get()["y"]), ElementsAre(18, 18, 18)) << "an empty row is all filling";
}

TEST(Padding, RefusesWhatDoesNotFit) {
    ModelSpec spec{.name = "m",
                   .inputs = {{.name = "x", .dtype = DType::uint8, .shape = {{}, {1, 64}}},
                              {.name = "h", .dtype = DType::float16, .shape = {{}, {}}},
                              {.name = "f", .dtype = DType::float32, .shape = {{}, {}}}},
                   .outputs = {{.name = "y", .shape = {{}, {}}}}};
    const auto model = std::make_shared<FunctionModel>(spec, testing::echo);
    const auto refused = [&](const std::vector<PaddedAxis>& padding) {
        return refusal([&] { Batcher batcher(model, Batcher::Options{.padding = padding}); });
    };
    EXPECT_THAT(refused({{.input = "z", .buckets = {1}}}), HasSubstr("z"));
    EXPECT_THAT(refused({{.input = "x", .axis = 0, .buckets = {1}}}), HasSubstr("axis 0 is the batch"));
    EXPECT_THAT(refused({{.input = "x", .axis = 2, .buckets = {1}}}), HasSubstr("there is no axis 2"));
    EXPECT_THAT(refused({{.input = "x", .buckets = {}}}), HasSubstr("no buckets"));
    EXPECT_THAT(refused({{.input = "x", .buckets = {8, 8}}}), HasSubstr("bucket 8 is not positive and ascending"));
    EXPECT_THAT(refused({{.input = "x", .buckets = {0}}}), HasSubstr("bucket 0"));
    EXPECT_THAT(refused({{.input = "x", .buckets = {65}}}), HasSubstr("accepts 1..64, not 65"));
    EXPECT_THAT(refused({{.input = "x", .buckets = {8}, .value = 256}}), HasSubstr("can't be a uint8"));
    EXPECT_THAT(refused({{.input = "x", .buckets = {8}, .value = -1}}), HasSubstr("can't be a uint8"));
    EXPECT_THAT(refused({{.input = "x", .buckets = {8}, .value = 0.5}}), HasSubstr("can't be a uint8"));
    EXPECT_THAT(refused({{.input = "h", .buckets = {8}, .value = 1}}), HasSubstr("can't be a float16; 0 always can"));
    EXPECT_THAT(refused({{.input = "f", .buckets = {8}, .value = 1e300}}), HasSubstr("can't be a float32"));
    EXPECT_THAT(refused({{.input = "x", .buckets = {8}}, {.input = "x", .buckets = {9}}}), HasSubstr("given twice"));
    EXPECT_THAT(refused({{.input = "x", .buckets = {8}, .trimmed = {{"w", 1}}}}), HasSubstr("w"));
    EXPECT_THAT(refused({{.input = "x", .buckets = {8}, .trimmed = {{"y", 0}}}}), HasSubstr("axis 0 is the batch"));
    const Batcher fine(
        model,
        Batcher::Options{.padding = {{.input = "f", .buckets = {8}, .value = std::numeric_limits<double>::infinity()},
                                     {.input = "x", .buckets = {8, 64}, .value = 255}}});
    EXPECT_EQ(fine.spec().name, "m");
}

}  // namespace
}  // namespace trtlab::core
