#include "trtlab/core/inference_manager.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "echo_model.hpp"
#include "fake_engine.hpp"
#include "refusal.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/function_model.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using testing::echo;
using ::testing::ElementsAre;
using testing::first_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::one_in_one_out;
using testing::refusal;
using testing::tensor_of;
using testing::yield_until;

std::shared_ptr<FunctionModel> echo_model(const std::string& name) {
    return std::make_shared<FunctionModel>(one_in_one_out(name), echo);
}

float ask(Model& model, float value) { return first_of(model.infer({{"x", tensor_of({value})}}).get()["y"]); }

TEST(InferenceManager, FindsModelsByName) {
    InferenceManager manager;
    const auto model = echo_model("a");
    EXPECT_EQ(manager.register_model("a", model), model);
    manager.register_model("b", echo_model("b"));
    EXPECT_EQ(manager.model("a"), model);
    EXPECT_THAT(manager.names(), ElementsAre("a", "b"));
    EXPECT_EQ(ask(*manager.model("b"), 3), 3);
}

TEST(InferenceManager, LoadsWithinItsBudgets) {
    InferenceManager manager({.max_executions = 3, .max_queue = 7});
    EXPECT_THAT(manager.budget_stats(), IsEmpty());
    std::shared_ptr<ExecutionBudget> cpu, gpu;
    const auto model = manager.load("m", [&](const std::string& name, InferenceManager& within) {
        cpu = within.budget();
        gpu = within.budget("cuda:1");
        return echo_model(name);
    });
    EXPECT_EQ(cpu, manager.budget("cpu"));
    EXPECT_EQ(gpu, manager.budget("cuda:1"));
    EXPECT_NE(cpu, gpu);
    for (const auto& budget : {cpu, gpu}) {
        EXPECT_EQ(budget->options().max_executions, 3u);
        EXPECT_EQ(budget->options().max_buffers, 6u);
        EXPECT_EQ(budget->options().max_queue, 7u);
    }
    EXPECT_EQ(manager.limits().max_buffers, 6u);
    EXPECT_EQ(model->spec().name, "m");
    EXPECT_THROW(InferenceManager({.max_executions = 0}), InvalidArgument);
    EXPECT_THROW(manager.budget(""), InvalidArgument);
}

TEST(InferenceManager, CountsByDevice) {
    InferenceManager manager({.max_executions = 1, .max_buffers = 1});
    testing::FakeEngine engine;
    testing::FakeJob first(*manager.budget("cuda:0"), engine, 0), second(*manager.budget("cuda:0"), engine, 1),
        other(*manager.budget(), engine, 2);
    for (testing::FakeJob* job : {&first, &second, &other}) job->admit();
    const auto stats = manager.budget_stats();
    ASSERT_EQ(stats.size(), 2u);
    EXPECT_EQ(stats.at("cuda:0").admitted, 2u);
    EXPECT_EQ(stats.at("cuda:0").executing, 1u);
    EXPECT_EQ(stats.at("cuda:0").queued, 1u);
    EXPECT_EQ(stats.at("cpu").admitted, 1u);
    EXPECT_EQ(stats.at("cpu").queued, 0u);
    for (testing::FakeJob* job : {&first, &second, &other}) job->finish();
}

/// Holds what a test says.
class HoldingModel final : public Model {
public:
    explicit HoldingModel(std::vector<MemoryUse> held) : held_(std::move(held)) {}
    const std::shared_ptr<const ModelSpec>& shared_spec() const noexcept override { return spec_; }
    using Model::infer;
    Future<Tensors> infer(std::span<const Tensor>, const std::optional<WaitOptions>&) override { return {}; }
    void close(Pending) override {}
    bool closed() const noexcept override { return false; }
    ModelStats stats() const noexcept override { return {}; }
    std::vector<MemoryUse> memory() const override { return held_; }

private:
    const std::shared_ptr<const ModelSpec> spec_ = std::make_shared<const ModelSpec>(one_in_one_out("holding"));
    const std::vector<MemoryUse> held_;
};

struct HeldMemory final : BudgetResource {
    explicit HeldMemory(MemoryUse use) : held(std::move(use)) {}
    std::vector<MemoryUse> memory() const override { return {held}; }
    const MemoryUse held;
};

TEST(InferenceManager, ReportsEveryByteOnceSortedByOwner) {
    InferenceManager manager;
    EXPECT_THAT(manager.memory_report(), IsEmpty());
    const Device gpu{DeviceType::cuda, 0};
    const MemoryUse weights{"m", "weights", gpu, 100}, outputs{"m", "outputs", {}, 4}, others{"a", "weights", gpu, 7},
        scratch{"execution tokens of cuda:0", "activations", gpu, 50};
    const auto model = std::make_shared<HoldingModel>(std::vector{weights, outputs});
    manager.register_model("m", model);
    manager.register_model("alias", model);
    manager.register_model("other", std::make_shared<HoldingModel>(std::vector{others}));
    manager.register_model("empty", echo_model("empty"));
    manager.budget("cuda:0")->shared("activations", [&] { return std::make_shared<HeldMemory>(scratch); });
    (void)manager.budget();
    EXPECT_THAT(manager.memory_report(), ElementsAre(others, scratch, outputs, weights));
    manager.unload("m");
    EXPECT_THAT(manager.memory_report(), ElementsAre(others, scratch, outputs, weights));
    manager.unload("alias");
    EXPECT_THAT(manager.memory_report(), ElementsAre(others, scratch));
}

TEST(InferenceManager, UnknownNameIsRefusedWithTheNamesThereAre) {
    InferenceManager manager;
    EXPECT_THAT(refusal([&] { (void)manager.model("a"); }), HasSubstr("there are none"));
    manager.register_model("one", echo_model("one"));
    EXPECT_THROW((void)manager.model("two"), NotFound);
    EXPECT_THAT(refusal([&] { (void)manager.model("two"); }), AllOf(HasSubstr("'two'"), HasSubstr("'one'")));
    EXPECT_THAT(refusal([&] { manager.unload("two"); }), HasSubstr("'one'"));
}

TEST(InferenceManager, TakenNameIsRefusedAndTheModelThereStays) {
    InferenceManager manager;
    const auto first = manager.register_model("a", echo_model("a"));
    const auto second = echo_model("a");
    EXPECT_THAT(refusal([&] { manager.register_model("a", second); }),
                AllOf(HasSubstr("'a'"), HasSubstr("another model")));
    EXPECT_EQ(manager.model("a"), first);
    EXPECT_FALSE(first->closed());
    EXPECT_FALSE(second->closed());
}

TEST(InferenceManager, RefusesEmptyNamesAndNullModels) {
    InferenceManager manager;
    EXPECT_THROW(manager.register_model("", echo_model("x")), InvalidArgument);
    EXPECT_THROW(manager.register_model("x", nullptr), InvalidArgument);
    EXPECT_THROW(manager.load("x", [](const auto&, auto&) { return nullptr; }), InvalidArgument);
    EXPECT_THAT(manager.names(), IsEmpty());
    manager.register_model("x", echo_model("x"));
}

TEST(InferenceManager, FailureToLoadReachesTheCallerAndFreesTheName) {
    InferenceManager manager;
    EXPECT_THROW(manager.load("m", [](const auto&, auto&) -> std::shared_ptr<Model> { throw EngineError("bad file"); }),
                 EngineError);
    EXPECT_EQ(ask(*manager.register_model("m", echo_model("m")), 1), 1);
}

TEST(InferenceManager, NameIsReservedWhileItsModelLoadsAndOthersAreServed) {
    InferenceManager manager;
    manager.register_model("other", echo_model("other"));
    std::latch loading(1), go_on(1);
    std::jthread loader([&] {
        manager.load("slow", [&](const std::string& name, auto&) {
            loading.count_down();
            go_on.wait();
            return echo_model(name);
        });
    });
    loading.wait();
    EXPECT_THAT(refusal([&] { manager.register_model("slow", echo_model("slow")); }), HasSubstr("being loaded"));
    EXPECT_THAT(refusal([&] { (void)manager.model("slow"); }), AllOf(HasSubstr("'other'"), Not(HasSubstr("'slow',"))));
    EXPECT_THROW(manager.unload("slow"), NotFound);
    EXPECT_THAT(manager.names(), ElementsAre("other"));
    EXPECT_EQ(ask(*manager.model("other"), 2), 2);
    go_on.count_down();
    loader.join();
    EXPECT_EQ(ask(*manager.model("slow"), 4), 4);
}

TEST(InferenceManager, ClosingWhileAModelLoadsClosesThatModelToo) {
    InferenceManager manager;
    std::latch loading(1), go_on(1);
    const auto model = echo_model("late");
    std::jthread loader([&] {
        EXPECT_THROW(manager.load("late",
                                  [&](const auto&, auto&) {
                                      loading.count_down();
                                      go_on.wait();
                                      return model;
                                  }),
                     Closed);
    });
    loading.wait();
    manager.close();
    go_on.count_down();
    loader.join();
    EXPECT_TRUE(model->closed());
    EXPECT_THAT(manager.names(), IsEmpty());
}

TEST(InferenceManager, UnloadLetsWhatWasAcceptedFinishAndClosesTheHandles) {
    InferenceManager manager;
    std::latch busy(1), open(1);
    const auto model = manager.register_model(
        "m", std::make_shared<FunctionModel>(one_in_one_out("m"), [&](std::span<const Tensor> inputs) {
            if (!open.try_wait()) busy.count_down();
            open.wait();
            return echo(inputs);
        }));
    const auto running = model->infer({{"x", tensor_of({1})}});
    busy.wait();
    const auto queued = model->infer({{"x", tensor_of({2})}});
    std::jthread unloading([&] { manager.unload("m"); });
    yield_until([&] { return manager.names().empty(); });
    EXPECT_THROW((void)manager.model("m"), NotFound);
    manager.register_model("m", echo_model("m"));  // the name is free while the old one drains
    open.count_down();
    unloading.join();
    EXPECT_EQ(first_of(running.get(0s)["y"]), 1);
    EXPECT_EQ(first_of(queued.get(0s)["y"]), 2);
    EXPECT_THROW((void)model->infer({{"x", tensor_of({3})}}), Closed);
    EXPECT_EQ(ask(*manager.model("m"), 5), 5);
}

TEST(InferenceManager, RefusesEverythingOnceClosed) {
    InferenceManager manager;
    const auto model = manager.register_model("m", echo_model("m"));
    EXPECT_FALSE(manager.closed());
    manager.close();
    manager.close(Pending::cancel);
    EXPECT_TRUE(manager.closed());
    EXPECT_TRUE(model->closed());
    EXPECT_THAT(manager.names(), IsEmpty());
    EXPECT_THROW((void)manager.model("m"), Closed);
    EXPECT_THROW(manager.unload("m"), Closed);
    EXPECT_THROW(manager.register_model("n", echo_model("n")), Closed);
    EXPECT_THROW(manager.load("n", [](const std::string& name, auto&) { return echo_model(name); }), Closed);
}

TEST(InferenceManager, DestructorClosesTheModelsThatCallersStillHold) {
    std::shared_ptr<Model> model;
    {
        InferenceManager manager;
        model = manager.register_model("m", echo_model("m"));
    }
    EXPECT_TRUE(model->closed());
    EXPECT_THROW((void)model->infer({{"x", tensor_of({1})}}), Closed);
}

TEST(InferenceManager, ModelThatCannotBeClosedDoesNotKeepTheOthersOpen) {
    InferenceManager manager;
    const auto first = manager.register_model("a", echo_model("a"));
    const auto last = manager.register_model("z", echo_model("z"));
    std::latch done(1);
    std::atomic<bool> refused{false};
    first->infer({{"x", tensor_of({1})}}).on_ready([&] {
        try {
            manager.close();  // in a callback of "a", which would have to wait for itself
        } catch (const InvalidArgument&) {
            refused = true;
        }
        done.count_down();
    });
    done.wait();
    // Unless the answer was there before the callback was added: then it ran on this thread, and nothing is in the way.
    EXPECT_TRUE(refused || first->closed());
    EXPECT_TRUE(last->closed());
}

TEST(InferenceManager, IsUsedByManyThreadsAtATime) {
    InferenceManager manager;
    manager.register_model("shared", echo_model("shared"));
    std::latch start(4);
    std::atomic<int> loaded{0};
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 4; ++thread) {
        threads.emplace_back([&, thread] {
            start.arrive_and_wait();
            for (int i = 0; i < 50; ++i) {
                EXPECT_EQ(ask(*manager.model("shared"), 7), 7);
                const std::string name = "m" + std::to_string((thread + i) % 3);  // which others want as well
                try {
                    const auto model = manager.register_model(name, echo_model(name));
                    ++loaded;
                    EXPECT_EQ(ask(*model, 1), 1);
                    manager.unload(name);
                    EXPECT_TRUE(model->closed());
                } catch (const InvalidArgument&) {
                }
                (void)manager.names();
            }
        });
    }
    threads.clear();
    EXPECT_GT(loaded, 0);
    EXPECT_THAT(manager.names(), ElementsAre("shared"));
}

TEST(InferenceManagerFork, ChildDestroysItWithoutHanging) {
    auto manager = std::make_unique<InferenceManager>();
    manager->register_model("m", echo_model("m"));
    EXPECT_EQ(ask(*manager->model("m"), 1), 1);
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        manager.reset();
        _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
    EXPECT_EQ(ask(*manager->model("m"), 2), 2);
}

}  // namespace
}  // namespace trtlab::core
