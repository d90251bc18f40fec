#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "refusal.hpp"
#include "trtlab/core/budget.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Scratch final : public BudgetResource {
public:
    explicit Scratch(std::string owner, std::atomic<int>* alive = nullptr) : owner_(std::move(owner)), alive_(alive) {
        if (alive_ != nullptr) ++*alive_;
    }
    ~Scratch() override {
        if (alive_ != nullptr) --*alive_;
    }
    std::vector<MemoryUse> memory() const override { return {use()}; }
    MemoryUse use() const { return {owner_, "activations", {}, size_bytes}; }

    std::size_t size_bytes = 1;

private:
    const std::string owner_;
    std::atomic<int>* const alive_;
};

TEST(BudgetResource, IsMadeOnceForAllWhoAskUnderAName) {
    ExecutionBudget budget({});
    EXPECT_THAT(budget.memory(), IsEmpty());
    const auto first = budget.shared("a", [] { return std::make_shared<Scratch>("a"); });
    const auto again = budget.shared("a", []() -> std::shared_ptr<BudgetResource> {
        ADD_FAILURE() << "it is there already";
        return nullptr;
    });
    const auto other = budget.shared("b", [] { return std::make_shared<Scratch>("b"); });
    EXPECT_EQ(first, again);
    EXPECT_NE(first, other);
    ExecutionBudget another({});
    EXPECT_NE(another.shared("a", [] { return std::make_shared<Scratch>("a"); }), first);
}

TEST(BudgetResource, TellsTheBudgetsMemoryAsItIsNow) {
    ExecutionBudget budget({});
    const auto first = std::make_shared<Scratch>("a"), second = std::make_shared<Scratch>("b");
    budget.shared("second", [&] { return second; });
    budget.shared("first", [&] { return first; });
    EXPECT_THAT(budget.memory(), ElementsAre(first->use(), second->use()));
    second->size_bytes = 100;
    EXPECT_EQ(budget.memory()[1].size_bytes, 100u);
}

TEST(BudgetResource, LivesAsLongAsTheBudget) {
    std::atomic<int> alive{0};
    {
        ExecutionBudget budget({});
        budget.shared("a", [&] { return std::make_shared<Scratch>("a", &alive); });
        EXPECT_EQ(alive, 1);
    }
    EXPECT_EQ(alive, 0);
}

TEST(BudgetResource, FailureToMakeItReachesTheCallerAndTheNextOneTries) {
    ExecutionBudget budget({});
    EXPECT_THROW(
        budget.shared("a", []() -> std::shared_ptr<BudgetResource> { throw OutOfMemory("no memory on cuda:0"); }),
        OutOfMemory);
    EXPECT_THAT(testing::refusal([&] { budget.shared("a", [] { return nullptr; }); }), HasSubstr("'a'"));
    EXPECT_THAT(budget.memory(), IsEmpty());
    EXPECT_NE(budget.shared("a", [] { return std::make_shared<Scratch>("a"); }), nullptr);
}

TEST(BudgetResource, IsTheSameForManyThreadsThatAskAtOnce) {
    constexpr int kThreads = 4;
    ExecutionBudget budget({});
    std::atomic<int> made{0};
    std::vector<std::shared_ptr<BudgetResource>> seen(kThreads);
    std::latch start(kThreads);
    std::vector<std::jthread> threads;
    for (auto& mine : seen) {
        threads.emplace_back([&] {
            start.arrive_and_wait();
            mine = budget.shared("a", [&] { return std::make_shared<Scratch>("a", &made); });
            EXPECT_EQ(budget.memory().size(), 1u);
        });
    }
    threads.clear();
    EXPECT_EQ(made, 1);
    EXPECT_THAT(seen, Each(seen[0]));
}

}  // namespace
}  // namespace trtlab::core
