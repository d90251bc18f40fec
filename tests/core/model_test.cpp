#include "trtlab/core/model.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "echo_model.hpp"
#include "refusal.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using testing::first_of;
using ::testing::HasSubstr;
using testing::refusal;
using testing::tensor_of;

ModelSpec two_inputs() {
    return {.name = "minus",
            .inputs = {{.name = "a", .shape = {1}}, {.name = "b", .shape = {1}}},
            .outputs = {{.name = "y", .shape = {1}}}};
}

std::vector<Tensor> minus(std::span<const Tensor> inputs) {
    return {tensor_of({first_of(inputs[0]) - first_of(inputs[1])})};
}

TEST(CheckInputs, NamesWhatIsTakenWhenTheCountIsWrong) {
    const ModelSpec spec = two_inputs();
    const std::vector<Tensor> three(3, tensor_of({1}));
    EXPECT_EQ(refusal([&] { check_inputs(spec, three); }),
              "model 'minus' takes 2 inputs, got 3; expected 'a' float32[1] 'b' float32[1]");
    EXPECT_THAT(refusal([&] { check_inputs(spec, {}); }), HasSubstr("got 0"));
    EXPECT_NO_THROW(check_inputs({.name = "constant"}, {}));
}

TEST(CheckInputs, ChecksEveryTensorAgainstItsOwnSpec) {
    const std::vector<Tensor> inputs{tensor_of({1}), tensor_of({1, 2})};
    EXPECT_THAT(refusal([&] { check_inputs(two_inputs(), inputs); }), AllOf(HasSubstr("input 'b'"), HasSubstr("[2]")));
}

TEST(ModelInfer, TakesInputsByNameInAnyOrder) {
    FunctionModel model(two_inputs(), minus);
    EXPECT_EQ(first_of(model.infer({{"a", tensor_of({5})}, {"b", tensor_of({2})}}).get()["y"]), 3);
    EXPECT_EQ(first_of(model.infer({{"b", tensor_of({2})}, {"a", tensor_of({5})}}).get()["y"]), 3);
}

TEST(ModelInfer, RefusesMissingRepeatedAndUnknownNames) {
    FunctionModel model(two_inputs(), minus);
    EXPECT_EQ(refusal([&] { (void)model.infer({{"a", tensor_of({5})}}); }),
              "model 'minus', input 'b' is missing: expected float32[1]");
    EXPECT_EQ(refusal([&] { (void)model.infer({{"a", tensor_of({5})}, {"a", tensor_of({5})}}); }),
              "model 'minus', input 'a' was given twice");
    EXPECT_THROW((void)model.infer({{"a", tensor_of({5})}, {"c", tensor_of({5})}}), NotFound);
    EXPECT_EQ(model.stats().completed, 0u);
}

TEST(Model, WhoseWeightsDoNotMoveRefusesToMoveThem) {
    FunctionModel model(two_inputs(), minus);
    EXPECT_THAT(refusal([&] { model.prefetch(); }), AllOf(HasSubstr("model 'minus'"), HasSubstr("managed memory")));
    EXPECT_THAT(refusal([&] { model.evict(); }), HasSubstr("model 'minus'"));
}

TEST(Model, ThatIsAFunctionHoldsNoMemoryAndCountsNothingMore) {
    FunctionModel model(two_inputs(), minus);
    EXPECT_TRUE(model.memory().empty());
    EXPECT_TRUE(model.counters().empty());
}

TEST(ModelStats, AreAddedAndSubtractedFieldByField) {
    const ModelStats one{.completed = 1,
                         .failed = 2,
                         .cancelled = 3,
                         .queue = 4ns,
                         .input = 5ns,
                         .execute = 6ns,
                         .output = 7ns,
                         .device_timed = 8,
                         .enqueue = 9ns,
                         .h2d = 10ns,
                         .compute = 11ns,
                         .d2h = 12ns};
    ModelStats sum = one;
    sum += one;
    EXPECT_EQ(sum.completed, 2u);
    EXPECT_EQ(sum.failed, 4u);
    EXPECT_EQ(sum.cancelled, 6u);
    EXPECT_EQ(sum.queue, 8ns);
    EXPECT_EQ(sum.input, 10ns);
    EXPECT_EQ(sum.execute, 12ns);
    EXPECT_EQ(sum.output, 14ns);
    EXPECT_EQ(sum.device_timed, 16u);
    EXPECT_EQ(sum.enqueue, 18ns);
    EXPECT_EQ(sum.h2d, 20ns);
    EXPECT_EQ(sum.compute, 22ns);
    EXPECT_EQ(sum.d2h, 24ns);
    sum -= one;
    sum -= one;
    EXPECT_EQ(sum.completed + sum.failed + sum.cancelled + sum.device_timed, 0u);
    EXPECT_EQ(sum.queue + sum.input + sum.execute + sum.output, 0ns);
    EXPECT_EQ(sum.enqueue + sum.h2d + sum.compute + sum.d2h, 0ns);
}

TEST(StatsRecorder, AddsUpTheTimesOfCompletedRequests) {
    StatsRecorder recorder;
    const RequestTimes::Clock::time_point start{};
    for (int i = 0; i < 3; ++i) {
        recorder.completed({.asked = start,
                            .stage_begin = start + 1us,
                            .stage_end = start + 3us,
                            .launched = start + 7us,
                            .executed = start + 107us,
                            .finished = start + 110us});
    }
    recorder.failed();
    recorder.cancelled();
    recorder.cancelled();
    const ModelStats stats = recorder.read();
    EXPECT_EQ(stats.completed, 3u);
    EXPECT_EQ(stats.failed, 1u);
    EXPECT_EQ(stats.cancelled, 2u);
    EXPECT_EQ(stats.queue, 15us);
    EXPECT_EQ(stats.input, 6us);
    EXPECT_EQ(stats.execute, 300us);
    EXPECT_EQ(stats.output, 9us);
}

}  // namespace
}  // namespace trtlab::core
