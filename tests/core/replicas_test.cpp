#include "trtlab/core/replicas.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "echo_model.hpp"
#include "fake_replica.hpp"
#include "log_capture.hpp"
#include "refusal.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::FakeReplica;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::lost_device;
using testing::one_in_one_out;
using testing::refusal;
using testing::tensor_of;

Tensor on(Device device) {
    static float data[1] = {};
    return Tensor(TensorView(data, DType::float32, {1}, device), nullptr);
}

ModelSpec on_gpu(std::int32_t index) {
    ModelSpec spec = one_in_one_out("m on cuda:" + std::to_string(index));
    spec.cuda_devices = {index};
    return spec;
}

struct ReplicasTest : ::testing::Test {
    /// A model over fakes of these specs.
    void make(const std::vector<ModelSpec>& specs) {
        std::vector<std::shared_ptr<Model>> models;
        for (const ModelSpec& spec : specs) models.push_back(fakes.emplace_back(std::make_shared<FakeReplica>(spec)));
        replicas.emplace("m", models);
    }
    void make(std::size_t count) {
        std::vector<ModelSpec> specs;
        for (std::size_t i = 0; i < count; ++i) specs.push_back(on_gpu(static_cast<std::int32_t>(i)));
        make(specs);
    }
    Future<Tensors> ask(const Tensor& x = tensor_of({1}), const std::optional<WaitOptions>& wait = {}) {
        return replicas->infer({{"x", x}}, wait);
    }
    std::vector<std::size_t> outstanding() const {
        std::vector<std::size_t> all;
        for (std::size_t i = 0; i < fakes.size(); ++i) all.push_back(replicas->outstanding(i));
        return all;
    }
    std::uint64_t counter(const std::string& name) const {
        for (const auto& [known, count] : replicas->counters()) {
            if (known == name) return count;
        }
        ADD_FAILURE() << "there is no counter " << name;
        return 0;
    }

    std::vector<std::shared_ptr<FakeReplica>> fakes;
    std::optional<Replicas> replicas;
};

TEST_F(ReplicasTest, AreOneModelThatTakesWhatAllTakeAndAnswersWhatAnyMay) {
    ModelSpec first = one_in_one_out("first"), second = one_in_one_out("second");
    first.platform = "openvino";
    first.cuda_devices = {2, 0};
    second.platform = "tensorrt";
    second.cuda_devices = {0, 1};
    first.max_batch_size = 8;
    second.max_batch_size = 4;
    first.inputs[0].shape = {{1, 8}};
    second.inputs[0].shape = {{2, 100}};
    first.outputs[0].shape = {{1, 8}};
    second.outputs[0].shape = {{2, 100}};
    make({first, second});
    const ModelSpec& joint = replicas->spec();
    EXPECT_EQ(joint.name, "m");
    EXPECT_EQ(joint.platform, "openvino+tensorrt");
    EXPECT_EQ(joint.inputs[0].shape[0], Dimension(2, 8));
    EXPECT_EQ(joint.outputs[0].shape[0], Dimension(1, 100));
    EXPECT_EQ(joint.max_batch_size, 4);
    EXPECT_THAT(joint.cuda_devices, ElementsAre(0, 1, 2));
    EXPECT_EQ(replicas->models().size(), 2u);
}

TEST_F(ReplicasTest, RefuseModelsThatAreNotTheSameNamingTheTensorAndBoth) {
    const ModelSpec first = one_in_one_out("first");
    const auto refused = [&](const std::function<void(ModelSpec&)>& change) {
        ModelSpec second = one_in_one_out("second");
        change(second);
        return refusal([&] { make({first, second}); });
    };
    EXPECT_EQ(refused([](ModelSpec& spec) { spec.inputs[0].name = "data"; }),
              "model 'm', replica 1 ('second'): its input 'data' float32[?] does not go with that of replica 0 "
              "('first'), 'x' float32[?]; replicas are the same model");
    EXPECT_THAT(refused([](ModelSpec& spec) { spec.inputs[0].dtype = DType::int32; }),
                AllOf(HasSubstr("input 'x' int32[?]"), HasSubstr("'x' float32[?]")));
    EXPECT_THAT(refused([](ModelSpec& spec) { spec.outputs[0].dtype = DType::float16; }),
                AllOf(HasSubstr("output 'y' float16[?]"), HasSubstr("'y' float32[?]")));
    EXPECT_THAT(refused([](ModelSpec& spec) { spec.inputs[0].shape.emplace_back(3); }), HasSubstr("float32[?, 3]"));
    EXPECT_THAT(refused([](ModelSpec& spec) { spec.outputs[0] = {.name = "y", .any_rank = true}; }),
                HasSubstr("float32[...]"));
    EXPECT_THAT(refused([](ModelSpec& spec) { spec.outputs.push_back({.name = "z", .shape = {1}}); }),
                AllOf(HasSubstr("outputs: 'y', 'z'"), HasSubstr("'y'; replicas are")));
    EXPECT_THAT(refused([](ModelSpec& spec) { spec.inputs.clear(); }), HasSubstr("inputs: none"));
    ModelSpec small = first, large = one_in_one_out("large");
    small.inputs[0].shape = {{1, 4}};
    large.inputs[0].shape = {{5, 8}};
    EXPECT_THAT(refusal([&] { make({small, large}); }), AllOf(HasSubstr("float32[5..8]"), HasSubstr("float32[1..4]")));
}

TEST_F(ReplicasTest, RefuseToBeNoneTooManyNullOrTwiceTheSame) {
    const auto model = std::make_shared<FakeReplica>(one_in_one_out("a"));
    EXPECT_THAT(refusal([] { Replicas("m", {}); }), HasSubstr("expected 1 to 64 replicas, got 0"));
    EXPECT_THAT(refusal([] { Replicas("m", std::vector<std::shared_ptr<Model>>(65)); }), HasSubstr("got 65"));
    EXPECT_THAT(refusal([&] { Replicas("m", {model, nullptr}); }), HasSubstr("replica 1 is null"));
    EXPECT_THAT(refusal([&] { Replicas("m", {model, model}); }), HasSubstr("replica 1 ('a') is given twice"));
    make(64);
    for (int i = 0; i < 128; ++i) (void)ask();
    EXPECT_THAT(outstanding(), ::testing::Each(2u));
    EXPECT_THROW((void)replicas->outstanding(64), InvalidArgument);
}

TEST_F(ReplicasTest, RefuseInputsThatDoNotFitBeforeAnyReplicaSeesThem) {
    make(2);
    EXPECT_THAT(refusal([&] { (void)ask(Tensor::allocate(DType::int32, {1})); }),
                AllOf(HasSubstr("model 'm', input 'x'"), HasSubstr("int32[1]")));
    EXPECT_THAT(refusal([&] { (void)replicas->infer(std::span<const Tensor>()); }), HasSubstr("takes 1 inputs, got 0"));
    EXPECT_EQ(fakes[0]->asked() + fakes[1]->asked(), 0u);
    EXPECT_THAT(outstanding(), ElementsAre(0, 0));
}

TEST_F(ReplicasTest, GiveARequestToTheReplicaWithTheFewestOutstanding) {
    make(3);
    for (int i = 0; i < 6; ++i) (void)ask();
    EXPECT_THAT(outstanding(), ElementsAre(2, 2, 2));
    fakes[1]->answer(2);
    EXPECT_THAT(outstanding(), ElementsAre(2, 0, 2));
    (void)ask();
    (void)ask();
    EXPECT_THAT(outstanding(), ElementsAre(2, 2, 2));
    EXPECT_EQ(fakes[1]->asked(), 4u);
}

TEST_F(ReplicasTest, TakeTurnsWhereLoadsAreEqual) {
    make(3);
    for (int i = 0; i < 9; ++i) {
        (void)ask();
        for (const auto& fake : fakes) fake->answer(fake->held());
    }
    for (const auto& fake : fakes) EXPECT_EQ(fake->asked(), 3u);
}

TEST_F(ReplicasTest, HandOutTheReplicasOwnFuture) {
    make(1);
    const Future<Tensors> future = ask();
    EXPECT_EQ(future.state().get(), fakes[0]->future(0).state().get());
    EXPECT_TRUE(future.cancel());
    EXPECT_THAT(outstanding(), ElementsAre(0));
}

TEST_F(ReplicasTest, GiveInputsInAGpusMemoryToAReplicaThatReadsIt) {
    make(2);
    for (int i = 0; i < 4; ++i) (void)ask(on({DeviceType::cuda, 1}));
    EXPECT_THAT(outstanding(), ElementsAre(0, 4));
    (void)ask(on({DeviceType::cuda_host, 1}));
    EXPECT_THAT(outstanding(), ElementsAre(1, 4));
    EXPECT_THAT(refusal([&] { (void)ask(on({DeviceType::cuda, 2})); }),
                AllOf(HasSubstr("memory of cuda:2"), HasSubstr("host memory or cuda:0 or cuda:1")));
}

TEST_F(ReplicasTest, RefuseInputsThatNoReplicaReadsTogether) {
    std::vector<ModelSpec> specs{on_gpu(0), on_gpu(1)};
    for (ModelSpec& spec : specs) spec.inputs.push_back({.name = "z", .shape = {{}}});
    make(specs);
    const std::vector<Tensor> apart{on({DeviceType::cuda, 0}), on({DeviceType::cuda, 1})};
    EXPECT_EQ(refusal([&] { (void)replicas->infer(apart); }),
              "model 'm': no replica reads the memory of all inputs: 'x' on cuda:0, 'z' on cuda:1; bring them to one "
              "device, or to host memory");
    (void)replicas->infer(std::vector<Tensor>{on({DeviceType::cuda, 1}), on({})});
    EXPECT_THAT(outstanding(), ElementsAre(0, 1));
}

TEST_F(ReplicasTest, PassOverAReplicaWhoseQueueIsFull) {
    make(2);
    fakes[0]->on_infer = [] { throw Overloaded("full"); };
    for (int i = 0; i < 4; ++i) (void)ask();
    EXPECT_THAT(outstanding(), ElementsAre(0, 4));
    EXPECT_EQ(replicas->healthy(), 2u);
    EXPECT_GT(counter("failovers"), 0u);
    fakes[0]->on_infer = nullptr;
    for (int i = 0; i < 4; ++i) (void)ask();
    EXPECT_THAT(outstanding(), ElementsAre(4, 4));
}

TEST_F(ReplicasTest, WaitForTheLeastLoadedWhereAllAreFull) {
    make(2);
    for (int i = 0; i < 3; ++i) (void)ask();
    const std::size_t less = replicas->outstanding(0) < replicas->outstanding(1) ? 0 : 1;
    std::atomic<int> refusals{0};
    for (const auto& fake : fakes) {
        fake->on_infer = [&] {
            if (++refusals <= 2) throw Overloaded("full");
        };
    }
    (void)ask(tensor_of({1}), WaitOptions(1h));
    EXPECT_THAT(outstanding(), ElementsAre(2, 2));
    EXPECT_THAT(fakes[1 - less]->waits().back(), 0ns);
    EXPECT_GT(fakes[less]->waits().back(), 59min);
}

TEST_F(ReplicasTest, AnswerOverloadedOnceTheTimeIsOver) {
    make(2);
    for (const auto& fake : fakes) fake->on_infer = [] { throw Overloaded("full"); };
    EXPECT_THROW((void)ask(tensor_of({1}), WaitOptions(0s)), Overloaded);
    EXPECT_THROW((void)ask(tensor_of({1}), WaitOptions(1ms)), Overloaded);
    EXPECT_THAT(outstanding(), ElementsAre(0, 0));
    EXPECT_EQ(replicas->healthy(), 2u);
}

TEST_F(ReplicasTest, WaitAsLongAsTheLeastPatientReplicaIfNothingIsSaid) {
    make(2);
    fakes[1]->patience = 5s;
    EXPECT_EQ(replicas->queue_timeout(), 5s);
}

TEST_F(ReplicasTest, LeaveAnErrorThatIsNoRefusalToTheCaller) {
    make(2);
    for (const auto& fake : fakes) fake->on_infer = [] { throw EngineError("cannot launch"); };
    EXPECT_THROW((void)ask(), EngineError);
    EXPECT_EQ(fakes[0]->asked() + fakes[1]->asked(), 1u);
    for (const auto& fake : fakes) fake->on_infer = [] { throw CudaError("invalid value", 1, false); };
    EXPECT_THROW((void)ask(), CudaError);
    EXPECT_EQ(fakes[0]->asked() + fakes[1]->asked(), 2u);
    EXPECT_THAT(outstanding(), ElementsAre(0, 0));
    EXPECT_EQ(replicas->healthy(), 2u);
}

TEST_F(ReplicasTest, TakeAReplicaThatSaysItsDeviceIsLostOutOfUse) {
    const testing::LogCapture log;
    make(2);
    fakes[0]->on_infer = [] { std::rethrow_exception(lost_device(0)); };
    for (int i = 0; i < 4; ++i) (void)ask();
    EXPECT_THAT(outstanding(), ElementsAre(0, 4));
    EXPECT_EQ(fakes[0]->asked(), 1u);
    EXPECT_EQ(replicas->healthy(), 1u);
    EXPECT_EQ(counter("replicas"), 2u);
    EXPECT_EQ(counter("healthy_replicas"), 1u);
    EXPECT_EQ(counter("failovers"), 1u);
    EXPECT_THAT(log.messages(), ElementsAre(AllOf(HasSubstr("out of use"), HasSubstr("cuda:0 is lost"))));
}

TEST_F(ReplicasTest, TakeAReplicaWhoseAnswersSayThatItsDeviceIsLostOutOfUse) {
    const testing::LogCapture log;
    make(2);
    const auto first = ask(on({DeviceType::cuda, 0})), second = ask(on({DeviceType::cuda, 0}));
    fakes[0]->fail(lost_device(0));
    EXPECT_EQ(replicas->healthy(), 1u);
    EXPECT_THAT(outstanding(), ElementsAre(1, 0));
    fakes[0]->fail(lost_device(0));
    EXPECT_THAT(outstanding(), ElementsAre(0, 0));
    EXPECT_THROW((void)first.get(0s), CudaError);
    EXPECT_THROW((void)second.get(0s), CudaError);
    for (int i = 0; i < 3; ++i) (void)ask();
    EXPECT_THAT(outstanding(), ElementsAre(0, 3));
    EXPECT_EQ(log.messages().size(), 1u);
}

TEST_F(ReplicasTest, KeepAReplicaWhoseAnswersFailForOtherReasons) {
    make(1);
    for (const auto& error :
         {std::make_exception_ptr(EngineError("it broke")),
          std::make_exception_ptr(CudaError("invalid value", 1, false)), std::make_exception_ptr(Closed("dropped"))}) {
        (void)ask();
        fakes[0]->fail(error);
    }
    EXPECT_EQ(replicas->healthy(), 1u);
    EXPECT_THAT(outstanding(), ElementsAre(0));
}

TEST_F(ReplicasTest, PassOverAReplicaThatSomebodyClosed) {
    make(2);
    fakes[1]->close(Pending::drain);
    EXPECT_EQ(replicas->healthy(), 1u);
    EXPECT_FALSE(replicas->closed());
    for (int i = 0; i < 4; ++i) (void)ask();
    EXPECT_THAT(outstanding(), ElementsAre(4, 0));
    EXPECT_LE(fakes[1]->asked(), 1u);
    fakes[0]->close(Pending::drain);
    EXPECT_EQ(replicas->healthy(), 0u);
    EXPECT_TRUE(replicas->closed());
    EXPECT_THROW((void)ask(), Closed);
}

TEST_F(ReplicasTest, ThrowWhatEndedTheLastReplicaOnceAllAreOutOfUse) {
    const testing::LogCapture log;
    make(3);
    fakes[2]->close(Pending::drain);
    const auto lost_one = ask(on({DeviceType::cuda, 1})), lost_zero = ask(on({DeviceType::cuda, 0}));
    fakes[1]->fail(lost_device(1));
    fakes[0]->fail(lost_device(0));
    EXPECT_EQ(replicas->healthy(), 0u);
    EXPECT_THROW((void)ask(), Closed);  // the third is only found out now
    EXPECT_FALSE(replicas->closed());
    // The others could not read this memory.
    for (const int gpu : {0, 1}) {
        try {
            (void)ask(on({DeviceType::cuda, gpu}));
            FAIL();
        } catch (const CudaError& error) {
            EXPECT_TRUE(error.device_lost());
            EXPECT_THAT(error.what(), HasSubstr("cuda:" + std::to_string(gpu)));
        }
    }
    EXPECT_THAT(outstanding(), ElementsAre(0, 0, 0));
}

TEST_F(ReplicasTest, GoOnWithTheOthersIfAReplicaIsLostWhileItIsWaitedFor) {
    const testing::LogCapture log;
    make(2);
    std::atomic<int> refusals{0};
    const auto script = [&](std::int32_t gpu) {
        return [&refusals, gpu] {
            const int refusal = ++refusals;
            if (refusal <= 2) throw Overloaded("full");
            if (refusal == 3) std::rethrow_exception(lost_device(gpu));
        };
    };
    for (const int gpu : {0, 1}) fakes[static_cast<std::size_t>(gpu)]->on_infer = script(gpu);
    (void)ask(tensor_of({1}), WaitOptions(1h));
    EXPECT_EQ(replicas->healthy(), 1u);
    EXPECT_EQ(fakes[0]->held() + fakes[1]->held(), 1u);
    EXPECT_EQ(replicas->outstanding(0) + replicas->outstanding(1), 1u);
}

TEST_F(ReplicasTest, LeaveWhatASignalHookThrowsToTheCaller) {
    make(2);
    struct Interrupted {};
    for (const auto& fake : fakes) fake->on_infer = [] { throw Interrupted(); };
    EXPECT_THROW((void)ask(), Interrupted);
    EXPECT_THAT(outstanding(), ElementsAre(0, 0));
    const SignalHook hook = [] {};
    for (const auto& fake : fakes) fake->on_infer = nullptr;
    (void)ask(tensor_of({1}), WaitOptions(1s, hook));
    EXPECT_EQ(fakes[fakes[0]->held() == 1 ? 0 : 1]->hook(), hook);
}

TEST_F(ReplicasTest, SumUpWhatTheReplicasTell) {
    make(2);
    const MemoryUse first{"m on cuda:0", "weights", {DeviceType::cuda, 0}, 10},
        second{"m on cuda:1", "weights", {DeviceType::cuda, 1}, 20};
    fakes[0]->uses = {first};
    fakes[1]->uses = {second};
    fakes[0]->counts = {{"graph_hits", 3}};
    fakes[1]->counts = {{"graph_hits", 4}, {"graph_misses", 1}};
    fakes[0]->told = {.completed = 1, .execute = 5ns, .device_timed = 1, .compute = 3ns};
    fakes[1]->told = {.completed = 2, .execute = 7ns};
    EXPECT_THAT(replicas->memory(), ElementsAre(first, second));
    EXPECT_EQ(counter("graph_hits"), 7u);
    EXPECT_EQ(counter("graph_misses"), 1u);
    EXPECT_EQ(counter("failovers"), 0u);
    const ModelStats stats = replicas->stats();
    EXPECT_EQ(stats.completed, 3u);
    EXPECT_EQ(stats.execute, 12ns);
    EXPECT_EQ(stats.device_timed, 1u);
    EXPECT_EQ(stats.compute, 3ns);
}

TEST_F(ReplicasTest, MoveTheWeightsOfTheReplicasInUse) {
    const testing::LogCapture log;
    make(3);
    (void)ask(on({DeviceType::cuda, 1}));
    fakes[1]->fail(lost_device(1));
    std::vector<std::string> moves;
    for (std::size_t i = 0; i < 3; ++i) {
        fakes[i]->on_move = [&moves, i](const char* what) {
            moves.push_back(what + std::to_string(i));
            if (i == 0) throw OutOfMemory("no room");
        };
    }
    EXPECT_THROW(replicas->prefetch(), OutOfMemory);
    EXPECT_THROW(replicas->evict(), OutOfMemory);
    EXPECT_THAT(moves, ElementsAre("prefetch 0", "prefetch 2", "evict 0", "evict 2"));
}

}  // namespace
}  // namespace trtlab::core
