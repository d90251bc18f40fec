#include "trtlab/core/deadline_heap.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace trtlab::core {
namespace {

struct Item : DeadlineNode {
    explicit Item(int number_ = 0) : number(number_) {}
    int number;
};
using Heap = DeadlineHeap<Item>;
using TimePoint = Heap::TimePoint;

TimePoint at(int ms) { return TimePoint(std::chrono::milliseconds(ms)); }

std::vector<int> numbers_due(Heap& heap, TimePoint now) {
    std::vector<int> numbers;
    while (const Item* item = heap.pop_due(now)) numbers.push_back(item->number);
    return numbers;
}

TEST(DeadlineHeap, EmptyOneHasNothingDue) {
    Heap heap;
    EXPECT_TRUE(heap.empty());
    EXPECT_EQ(heap.next(), TimePoint::max());
    EXPECT_EQ(heap.pop_due(TimePoint::max()), nullptr);
    EXPECT_EQ(heap.pop(), nullptr);
}

TEST(DeadlineHeap, GivesWhatIsDueAndNothingElse) {
    Heap heap;
    Item first(1), second(2), third(3);
    heap.push(third, at(30));
    heap.push(first, at(10));
    heap.push(second, at(20));
    EXPECT_EQ(heap.next(), at(10));
    EXPECT_THAT(numbers_due(heap, at(9)), ::testing::IsEmpty());
    EXPECT_THAT(numbers_due(heap, at(20)), ::testing::ElementsAre(1, 2));
    EXPECT_FALSE(Heap::holds(first));
    EXPECT_TRUE(Heap::holds(third));
    EXPECT_EQ(heap.next(), at(30));
    EXPECT_EQ(heap.pop(), &third);
}

TEST(DeadlineHeap, KeepsTheOrderOfArrivalAmongEqualDeadlines) {
    Heap heap;
    std::vector<std::unique_ptr<Item>> items;
    std::vector<int> expected;
    for (int i = 0; i < 100; ++i) {
        items.push_back(std::make_unique<Item>(i));
        heap.push(*items.back(), at(5));
        if (i % 3 != 0) expected.push_back(i);
    }
    for (std::size_t i = 0; i < items.size(); i += 3) heap.remove(*items[i]);
    EXPECT_EQ(numbers_due(heap, at(5)), expected);
}

TEST(DeadlineHeap, AnItemMayComeAgainOnceItIsOut) {
    Heap heap;
    Item item(7);
    for (int round = 0; round < 3; ++round) {
        heap.push(item, at(round));
        heap.remove(item);
        EXPECT_FALSE(Heap::holds(item));
        heap.push(item, at(round));
        EXPECT_EQ(heap.pop(), &item);
    }
    EXPECT_TRUE(heap.empty());
}

/// Against a sorted map of (deadline, arrival): pushes, removals of any item, and time going on, in random turns.
TEST(DeadlineHeapProperty, AgreesWithASortedModel) {
    for (unsigned seed = 0; seed < 30; ++seed) {
        std::mt19937 random(seed);
        const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
        const std::size_t spread = 1 + below(200);  // a small one makes many equal deadlines
        Heap heap;
        std::map<std::pair<TimePoint, int>, Item*> model;
        std::vector<std::unique_ptr<Item>> items;
        TimePoint now = at(0);
        for (int step = 0; step < 2000; ++step) {
            const std::size_t action = below(10);
            if (action < 5) {
                items.push_back(std::make_unique<Item>(step));
                const TimePoint when = now + std::chrono::milliseconds(below(spread)) - std::chrono::milliseconds(2);
                heap.push(*items.back(), when);
                model.emplace(std::pair(when, step), items.back().get());
            } else if (action < 8 && !model.empty()) {
                const auto victim = std::next(model.begin(), static_cast<std::ptrdiff_t>(below(model.size())));
                ASSERT_TRUE(Heap::holds(*victim->second));
                heap.remove(*victim->second);
                ASSERT_FALSE(Heap::holds(*victim->second));
                model.erase(victim);
            } else {
                now += std::chrono::milliseconds(below(10));
                while (Item* due = heap.pop_due(now)) {
                    ASSERT_FALSE(model.empty());
                    ASSERT_EQ(due, model.begin()->second) << "seed " << seed << ", step " << step;
                    model.erase(model.begin());
                }
            }
            ASSERT_EQ(heap.size(), model.size());
            ASSERT_EQ(heap.next(), model.empty() ? TimePoint::max() : model.begin()->first.first);
            ASSERT_TRUE(action < 8 || model.empty() || model.begin()->first.first > now);
        }
    }
}

}  // namespace
}  // namespace trtlab::core
