#include "trtlab/core/batcher.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "allocation_count.hpp"
#include "batched_models.hpp"
#include "fake_replica.hpp"
#include "refusal.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/inference_manager.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::ask;
using ::testing::Contains;
using testing::DoublingModel;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::matrix;
using testing::refusal;
using testing::values_of;
using testing::yield_until;

/// A model that computes its first request until the gate is opened: what is asked meanwhile is joined.
struct BusyBatcher : ::testing::Test {
    void make(const Batcher::Options& options = {}) {
        batcher = std::make_unique<Batcher>(doubling.model, options);
        first = ask(*batcher, matrix(1, 2, 100));
        yield_until([&] { return doubling.running == 1; });
    }
    DoublingModel::Shapes asked_later() const {
        auto all = doubling.asked();
        all.erase(all.begin());
        return all;
    }
    std::uint64_t count(const std::string& name) const {
        for (const auto& [its, value] : batcher->counters()) {
            if (its == name) return value;
        }
        return 0;
    }

    DoublingModel doubling{true};
    std::unique_ptr<Batcher> batcher;
    Future<Tensors> first;
};

TEST(Batcher, ByteStringsThatAModelPassesOnStayAsLongAsTheAnswer) {
    const TensorSpec text{.name = "x", .dtype = DType::bytes, .shape = {Dimension()}};
    const auto same =
        std::make_shared<FunctionModel>(ModelSpec{.name = "same", .inputs = {text}, .outputs = {text}},
                                        [](std::span<const Tensor> inputs) { return std::vector<Tensor>{inputs[0]}; });
    Batcher batcher(same, {.max_batch_size = 2, .max_delay = 1h, .hold_when_idle = true});
    const auto say = [&](const std::string& words) {
        const std::string_view view = words;
        return batcher.infer({{"x", Tensor::from_strings(std::span(&view, 1), {1})}});
    };
    const Future<Tensors> first = say(std::string(1000, 'a')), second = say(std::string(1000, 'b'));
    EXPECT_EQ(*first.get(1min)[0].data_as<std::string_view>(), std::string(1000, 'a'));
    EXPECT_EQ(*second.get(1min)[0].data_as<std::string_view>(), std::string(1000, 'b'));
}

TEST_F(BusyBatcher, JoinsWhatComesMeanwhileAndGivesEveryoneTheirOwn) {
    make();
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 3; ++i) futures.push_back(ask(*batcher, matrix(i + 1, 2, static_cast<float>(10 * i))));
    doubling.gate.open();
    EXPECT_THAT(values_of(futures[0].get()["y"]), ElementsAre(0, 2));
    EXPECT_THAT(values_of(futures[1].get()["y"]), ElementsAre(20, 22, 24, 26));
    EXPECT_THAT(values_of(futures[2].get()["y"]), ElementsAre(40, 42, 44, 46, 48, 50));
    EXPECT_THAT(asked_later(), ElementsAre("[6, 2]"));
    EXPECT_EQ(count("batches"), 2u);
    EXPECT_EQ(count("batched_requests"), 4u);
    EXPECT_EQ(count("batches_of_5_to_8"), 1u);
    EXPECT_EQ(batcher->stats().completed, 4u);
    EXPECT_GT(batcher->stats().queue.count(), 0);
    EXPECT_GT(batcher->memory().back().size_bytes, 0u);
}

TEST_F(BusyBatcher, AnswersAreViewsOfTheBatchsOwnMemory) {
    make();
    const auto a = ask(*batcher, matrix(1, 2, 0)), b = ask(*batcher, matrix(1, 2, 10));
    doubling.gate.open();
    const Tensor one = a.get()["y"], two = b.get()["y"];
    EXPECT_EQ(one.data_as<float>() + 2, two.data_as<float>());
    EXPECT_EQ(one.owner().get(), two.owner().get());
    batcher->close();
    batcher.reset();
    EXPECT_THAT(values_of(two), ElementsAre(20, 22)) << "the answer outlives everything else";
}

TEST_F(BusyBatcher, ABatchIsNotLargerThanItMayBe) {
    make({.max_batch_size = 3});
    std::vector<Future<Tensors>> futures;
    for (int i = 0; i < 5; ++i) futures.push_back(ask(*batcher, matrix(1, 2, 0)));
    doubling.gate.open();
    for (const auto& future : futures) (void)future.get();
    EXPECT_THAT(asked_later(), ElementsAre("[3, 2]", "[2, 2]"));
    EXPECT_EQ(batcher->spec().max_batch_size, 3);
}

TEST_F(BusyBatcher, RequestsOfOtherShapesAreOtherBatches) {
    make();
    const auto a = ask(*batcher, matrix(1, 2, 0)), b = ask(*batcher, matrix(1, 3, 0)),
               c = ask(*batcher, matrix(1, 2, 5));
    doubling.gate.open();
    EXPECT_THAT(values_of(c.get()["y"]), ElementsAre(10, 12));
    EXPECT_THAT(values_of(b.get()["y"]), ElementsAre(0, 2, 4));
    EXPECT_THAT(asked_later(), ElementsAre("[2, 2]", "[1, 3]"));
}

TEST_F(BusyBatcher, ACancelledRequestIsNotComputed) {
    make();
    const auto a = ask(*batcher, matrix(1, 2, 0)), b = ask(*batcher, matrix(1, 2, 1)),
               c = ask(*batcher, matrix(1, 2, 2));
    EXPECT_TRUE(b.cancel());
    doubling.gate.open();
    EXPECT_THAT(values_of(c.get()["y"]), ElementsAre(4, 6));
    EXPECT_THROW((void)b.get(), Cancelled);
    EXPECT_THAT(asked_later(), ElementsAre("[2, 2]"));
    batcher->close();
    EXPECT_EQ(batcher->stats().cancelled, 1u);
}

TEST_F(BusyBatcher, OneBadRequestFailsAlone) {
    make();
    std::vector<Future<Tensors>> futures;
    for (const float value : {1.f, -13.f, 3.f}) futures.push_back(ask(*batcher, matrix(1, 1, value)));
    doubling.gate.open();
    EXPECT_THAT(values_of(futures[0].get()["y"]), ElementsAre(2));
    EXPECT_THAT(values_of(futures[2].get()["y"]), ElementsAre(6));
    try {
        (void)futures[1].get();
        FAIL();
    } catch (const std::runtime_error& error) {
        EXPECT_STREQ(error.what(), "-13 is bad luck");
    }
    EXPECT_THAT(asked_later(), ElementsAre("[3, 1]", "[1, 1]", "[1, 1]", "[1, 1]"));
    EXPECT_EQ(count("isolated"), 3u);
    EXPECT_EQ(batcher->stats().failed, 1u);
}

TEST_F(BusyBatcher, ARequestIsNotAnsweredAfterItsDeadline) {
    make();
    const auto late = ask(*batcher, matrix(1, 2, 0), {.deadline = 1ms});
    EXPECT_THROW((void)late.get(), Timeout);
    const auto at_once = ask(*batcher, matrix(1, 2, 0), {.deadline = -1ms});
    EXPECT_THROW((void)at_once.get(), Timeout);
    doubling.gate.open();
    EXPECT_EQ(count("expired"), 2u);
    batcher->close();
    EXPECT_THAT(doubling.asked(), ElementsAre("[1, 2]"));
}

TEST_F(BusyBatcher, DeadlinesMayBeGivenToAll) {
    make({.deadline = 1ms});
    EXPECT_THROW((void)ask(*batcher, matrix(1, 2, 0)).get(), Timeout);
    const auto patient = ask(*batcher, matrix(1, 2, 0), {.deadline = std::chrono::nanoseconds::max()});
    doubling.gate.open();
    EXPECT_NO_THROW((void)patient.get());
}

TEST_F(BusyBatcher, UrgentRequestsGoFirst) {
    make({.max_batch_size = 2, .priorities = 2});
    (void)ask(*batcher, matrix(1, 2, 0), {.priority = 1});
    (void)ask(*batcher, matrix(1, 2, 0), {.priority = 1});
    (void)ask(*batcher, matrix(1, 3, 0), {.priority = 0});
    doubling.gate.open();
    batcher->close();
    EXPECT_THAT(asked_later(), ElementsAre("[1, 3]", "[2, 2]"));
    EXPECT_THAT(refusal([&] { (void)ask(*batcher, matrix(1, 2, 0), {.priority = 2}); }),
                HasSubstr("model 'doubling': priority 2 was asked for, there are 0 to 1"));
}

TEST_F(BusyBatcher, WhatIsTooLargeToBeJoinedIsPassedOnIfTheModelTakesIt) {
    make({.max_batch_size = 2});
    const auto large = ask(*batcher, matrix(5, 1, 0)), none = ask(*batcher, matrix(0, 1, 0));
    doubling.gate.open();
    EXPECT_EQ(values_of(large.get()["y"]).size(), 5u);
    EXPECT_EQ(none.get()["y"].shape().to_string(), "[0, 1]");
    EXPECT_THAT(asked_later(), ElementsAre("[5, 1]", "[0, 1]"));
}

TEST_F(BusyBatcher, AFullQueueRefuses) {
    make({.max_queue = 1});
    const auto waiting = ask(*batcher, matrix(1, 2, 0));
    EXPECT_THROW((void)ask(*batcher, matrix(1, 2, 0), {.queue_wait = WaitOptions(0s)}), Overloaded);
    EXPECT_THROW((void)ask(*batcher, matrix(1, 2, 0), {.deadline = 1ms}), Overloaded) << "waited beyond its deadline";
    EXPECT_EQ(count("overloaded"), 2u);
    doubling.gate.open();
    (void)waiting.get();
}

TEST_F(BusyBatcher, InputsOfAnyLayoutAreJoined) {
    make();
    const Tensor dense = matrix(2, 3, 0);
    const Tensor transposed(TensorView(dense.data(), DType::float32, {3, 2}, {4, 12}), dense.owner());
    const auto a = ask(*batcher, transposed), b = ask(*batcher, matrix(1, 2, 50));
    doubling.gate.open();
    EXPECT_THAT(values_of(a.get()["y"]), ElementsAre(0, 6, 2, 8, 4, 10));
    EXPECT_THAT(values_of(b.get()["y"]), ElementsAre(100, 102));
}

TEST(Batcher, ALoneRequestIsPassedThroughAtOnceWithoutACopy) {
    const void* seen = nullptr;
    const auto model = std::make_shared<FunctionModel>(DoublingModel::spec(), [&](std::span<const Tensor> inputs) {
        seen = inputs[0].data();
        return std::vector<Tensor>{inputs[0]};
    });
    Batcher batcher(model, {.max_delay = 1h});
    const Tensor x = matrix(1, 2, 0);
    EXPECT_EQ(ask(batcher, x).get()["y"].data(), x.data());
    EXPECT_EQ(seen, x.data());
    EXPECT_EQ(batcher.stats().input.count() < 1'000'000'000, true);
}

TEST(Batcher, StandsInForItsModel) {
    DoublingModel doubling;
    InferenceManager manager(ExecutionBudget::Options{});
    manager.register_model("b", std::make_shared<Batcher>(doubling.model));
    const auto model = manager.model("b");
    EXPECT_EQ(model->spec().name, "doubling");
    EXPECT_EQ(model->spec().max_batch_size, 8);
    EXPECT_EQ(model->queue_timeout(), doubling.model->queue_timeout());
    EXPECT_THAT(values_of(model->infer({{"x", matrix(1, 2, 1)}}).get()["y"]), ElementsAre(2, 4));
    EXPECT_THROW((void)model->infer({{"z", matrix(1, 2, 1)}}), NotFound);
    EXPECT_THROW(model->prefetch(), InvalidArgument);
    manager.close();
    EXPECT_TRUE(model->closed());
    EXPECT_TRUE(doubling.model->closed());
}

TEST(Batcher, AnOutputThatIsNotABatchCannotBeSplit) {
    std::atomic<int> calls{0};
    testing::Barrier gate;
    const auto model = std::make_shared<FunctionModel>(DoublingModel::spec(), [&](std::span<const Tensor>) {
        if (++calls == 1) gate.wait();
        return std::vector<Tensor>{matrix(1, 1, 7)};
    });
    Batcher batcher(model);
    const auto first = ask(batcher, matrix(1, 1, 0));
    yield_until([&] { return calls == 1; });
    const auto a = ask(batcher, matrix(1, 1, 0)), b = ask(batcher, matrix(1, 1, 0));
    gate.open();
    EXPECT_THAT(values_of(first.get()["y"]), ElementsAre(7)) << "alone it is passed on";
    for (const auto& future : {a, b}) {
        try {
            (void)future.get();
            FAIL();
        } catch (const EngineError& error) {
            EXPECT_THAT(error.what(), HasSubstr("output 'y': a batch of 2 rows was answered with shape [1, 1]"));
        }
    }
    EXPECT_EQ(calls, 2) << "asking again would have been in vain";
}

TEST(Batcher, ByteStringsAreJoinedToo) {
    const ModelSpec spec{.name = "echo",
                         .inputs = {{.name = "x", .dtype = DType::bytes, .shape = {{}}}},
                         .outputs = {{.name = "y", .dtype = DType::bytes, .shape = {{}}}}};
    std::atomic<int> calls{0};
    testing::Barrier gate;
    const auto model = std::make_shared<FunctionModel>(spec, [&](std::span<const Tensor> inputs) {
        if (++calls == 1) gate.wait();
        return testing::echo(inputs);
    });
    Batcher batcher(model);
    const auto strings = [](std::vector<std::string_view> values) {
        return Tensor::from_strings(values, {static_cast<std::int64_t>(values.size())});
    };
    (void)ask(batcher, strings({"first"}));
    yield_until([&] { return calls == 1; });
    const auto a = ask(batcher, strings({"a", ""})), b = ask(batcher, strings({"a much longer one than that"}));
    gate.open();
    EXPECT_EQ(a.get()["y"].data_as<std::string_view>()[0], "a");
    EXPECT_EQ(b.get()["y"].data_as<std::string_view>()[0], "a much longer one than that");
    EXPECT_EQ(calls, 2);
}

TEST(Batcher, WhereTheModelsQueueIsFullABatchWaitsThere) {
    DoublingModel doubling(true, {.concurrency = 1, .max_queue = 1});
    Batcher batcher(doubling.model);
    std::vector<Future<Tensors>> others;
    for (int i = 0; i < 2; ++i) others.push_back(doubling.model->infer({{"x", matrix(1, 1, 0)}}));
    const auto future = ask(batcher, matrix(1, 1, 4));
    EXPECT_FALSE(future.done());
    doubling.gate.open();
    EXPECT_THAT(values_of(future.get()["y"]), ElementsAre(8));
    EXPECT_EQ(batcher.stats().failed, 0u);
}

TEST(Batcher, WhereItStaysFullTheRequestIsRefused) {
    DoublingModel doubling(true, {.concurrency = 1, .max_queue = 1});
    Batcher batcher(doubling.model, {.queue_timeout = 1ms});
    std::vector<Future<Tensors>> others;
    for (int i = 0; i < 2; ++i) others.push_back(doubling.model->infer({{"x", matrix(1, 1, 0)}}));
    EXPECT_THROW((void)ask(batcher, matrix(1, 1, 4)).get(), Overloaded);
}

TEST(Batcher, PassesOnWhatItsModelSays) {
    auto model = std::make_shared<testing::FakeReplica>(DoublingModel::spec());
    model->patience = 7s;
    model->uses = {{"m", "weights", {}, 5}};
    model->counts = {{"graph_hits", 3}};
    std::string moves;
    model->on_move = [&](const char* move) { moves += move; };
    Batcher batcher(model);
    EXPECT_EQ(batcher.queue_timeout(), 7s);
    EXPECT_THAT(batcher.memory(), ElementsAre(model->uses[0]));
    EXPECT_THAT(batcher.counters(), Contains(std::pair<std::string, std::uint64_t>("graph_hits", 3)));
    batcher.prefetch();
    batcher.evict();
    EXPECT_EQ(moves, "prefetch evict ");
    EXPECT_EQ(batcher.model(), model);
    EXPECT_EQ(batcher.options().max_in_flight, 1u);
}

TEST(Batcher, AModelOnAGpuGetsTwoBatchesAtATimeAndInputsThereAreNotJoined) {
    ModelSpec spec = DoublingModel::spec();
    spec.cuda_devices = {0};
    auto model = std::make_shared<testing::FakeReplica>(spec);
    Batcher batcher(model, {.max_delay = 1h});
    EXPECT_EQ(batcher.options().max_in_flight, 2u);
    char memory[64];
    const Tensor there(TensorView(memory, DType::float32, {1, 2}, Device{DeviceType::cuda, 0}));
    const auto a = ask(batcher, there), b = ask(batcher, there), c = ask(batcher, there);
    EXPECT_EQ(model->held(), 2u);
    model->answer(2);
    EXPECT_EQ(model->held(), 1u);
    model->answer(1);
}

TEST(Batcher, RefusesWhatCannotBeBatched) {
    const auto make = [](ModelSpec spec, const Batcher::Options& options = {}) {
        return refusal([&] { Batcher batcher(std::make_shared<testing::FakeReplica>(std::move(spec)), options); });
    };
    ModelSpec spec = DoublingModel::spec();
    EXPECT_THAT(refusal([] { Batcher batcher(nullptr); }), HasSubstr("needs a model"));
    spec.inputs[0].shape = {};
    EXPECT_THAT(make(spec), HasSubstr("input 'x' float32[]: requests are joined along the leading axis"));
    spec.inputs[0].shape = {1, 4};
    EXPECT_THAT(make(spec), HasSubstr("has to accept more than 1"));
    spec.inputs[0].shape = {{1, 4}, 4};
    EXPECT_THAT(make(spec, {.max_batch_size = 5}), HasSubstr("takes no more than 4 rows"));
    spec.max_batch_size = 1;
    EXPECT_THAT(make(spec), HasSubstr("max_batch_size is 1"));
    spec.inputs.clear();
    EXPECT_THAT(make(spec), HasSubstr("no inputs"));
    EXPECT_THAT(make(DoublingModel::spec(), {.max_delay = -1s}), HasSubstr("max_delay is negative"));
    EXPECT_THAT(make(DoublingModel::spec(), {.max_queue = 0}), HasSubstr("max_queue is 0"));
}

TEST(Batcher, RefusesInputsThatAreNoBatch) {
    ModelSpec spec = DoublingModel::spec();
    spec.inputs.push_back({.name = "z", .any_rank = true});
    Batcher batcher(std::make_shared<testing::FakeReplica>(spec));
    const auto refused = [&](const Tensor& x, const Tensor& z) {
        return refusal([&] { (void)batcher.infer({{"x", x}, {"z", z}}); });
    };
    EXPECT_THAT(refused(matrix(2, 1, 0), matrix(3, 1, 0)), HasSubstr("input 'z' has 3 rows, and 'x' 2"));
    EXPECT_THAT(refused(matrix(2, 1, 0), Tensor::allocate(DType::float32, {})), HasSubstr("got a scalar"));
    EXPECT_THAT(refused(Tensor::allocate(DType::int32, {1, 1}), matrix(1, 1, 0)), HasSubstr("int32"));
    EXPECT_EQ(batcher.dispatch_stats().batches, 0u);
}

TEST(Batcher, NothingIsAllocatedForRequestsThatAreJoined) {
    if (!testing::kAllocationsCounted) GTEST_SKIP() << "the sanitizer counts for itself";
    const auto model = std::make_shared<testing::AnswerLaterModel>();
    Batcher batcher(model, {.max_batch_size = 8});
    const std::vector<Tensor> one{matrix(1, 2, 0)}, two{matrix(2, 2, 0)};
    const auto ask_often = [&](int times) {
        for (int i = 0; i < times; ++i) {
            const auto alone = batcher.submit(one, {.deadline = 1h});
            const auto a = batcher.submit(one, {.deadline = 1h}), b = batcher.submit(two, {.deadline = 1h});
            model->answer();
            model->answer();
            ASSERT_EQ(b.get(0s)["y"].shape()[0], 2);
        }
    };
    ask_often(100);
    const std::uint64_t before = testing::allocations();
    ask_often(1000);
    EXPECT_EQ(testing::allocations() - before, 0u);
    EXPECT_EQ(batcher.dispatch_stats().batches, 2200u);
}

TEST(Batcher, NothingIsAllocatedForARequestThatGoesThrough) {
    if (!testing::kAllocationsCounted) GTEST_SKIP() << "the sanitizer counts for itself";
    const auto model = std::make_shared<testing::RecyclingModel>();
    Batcher batcher(model, {.max_in_flight = 4});
    const std::vector<Tensor> inputs = testing::inputs();
    const auto ask_often = [&](int times) {
        for (int i = 0; i < times; ++i) (void)batcher.infer(inputs);
    };
    ask_often(100);
    const std::uint64_t before = testing::allocations();
    ask_often(1000);
    EXPECT_EQ(testing::allocations() - before, 0u);
    (void)model->infer(inputs, std::nullopt);  // answers the last
}

}  // namespace
}  // namespace trtlab::core
