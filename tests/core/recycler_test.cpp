#include "trtlab/core/recycler.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <stdexcept>
#include <thread>
#include <vector>

#include "allocation_count.hpp"

namespace trtlab::core {
namespace {

std::atomic<int> alive{0};

struct Item final : Recycled<Item> {
    Item() { ++alive; }
    ~Item() override { --alive; }
    void recycle() noexcept {
        ++recycled;
        payload.clear();
    }
    int recycled = 0;
    std::atomic<int> users{0};
    std::vector<int> payload;
};

Ref<Recycler<Item>> recycler_of(std::size_t max_idle) {
    return make_ref<Recycler<Item>>(max_idle, [] { return new Item; });
}

TEST(Recycler, GivesTheReturnedObjectOutAgainCleanedAndWithItsCapacity) {
    const auto recycler = recycler_of(4);
    auto item = recycler->take();
    const Item* address = item.get();
    item->payload.assign(100, 7);
    item = nullptr;
    EXPECT_EQ(recycler->idle(), 1u);

    item = recycler->take();
    EXPECT_EQ(item.get(), address);
    EXPECT_EQ(item->recycled, 1);
    EXPECT_EQ(item->use_count(), 1u);
    EXPECT_TRUE(item->payload.empty());
    EXPECT_GE(item->payload.capacity(), 100u);
    EXPECT_EQ(recycler->idle(), 0u);
}

TEST(Recycler, NeverMakesAnybodyWaitAndKeepsAtMostMaxIdle) {
    {
        const auto recycler = recycler_of(2);
        std::vector<Ref<Item>> out;
        for (int i = 0; i < 5; ++i) out.push_back(recycler->take());
        EXPECT_EQ(alive, 5);
        out.clear();
        EXPECT_EQ(recycler->idle(), 2u);
        EXPECT_EQ(alive, 2);
    }
    EXPECT_EQ(alive, 0);
}

TEST(Recycler, KeepsNothingWhereMaxIdleIsZero) {
    const auto recycler = recycler_of(0);
    recycler->take();
    EXPECT_EQ(recycler->idle(), 0u);
    EXPECT_EQ(alive, 0);
}

TEST(Recycler, LivesAsLongAsAnObjectThatIsOut) {
    auto recycler = recycler_of(2);
    auto out = recycler->take();
    recycler->take();
    recycler = nullptr;
    EXPECT_EQ(alive, 2);
    out = nullptr;  // goes home, and home goes away with all it holds
    EXPECT_EQ(alive, 0);
}

TEST(Recycler, FailureToMakeAnObjectReachesTheCallerAndChangesNothing) {
    int calls = 0;
    const auto recycler = make_ref<Recycler<Item>>(std::size_t{1}, [&calls]() -> Item* {
        if (++calls == 1) throw std::runtime_error("no");
        return new Item;
    });
    EXPECT_THROW(recycler->take(), std::runtime_error);
    EXPECT_EQ(recycler->use_count(), 1u);
    EXPECT_TRUE(recycler->take());
}

TEST(Recycler, AllocatesNothingOnceItIsWarm) {
    if (!testing::kAllocationsCounted) GTEST_SKIP() << "the sanitizer counts for itself";
    const auto recycler = recycler_of(1);
    recycler->take();
    const std::uint64_t before = testing::allocations();
    for (int i = 0; i < 1000; ++i) recycler->take();
    EXPECT_EQ(testing::allocations() - before, 0u);
}

TEST(Recycler, NeverGivesOneObjectToTwoThreads) {
    {
        const auto recycler = recycler_of(2);
        std::atomic<int> shared_use{0};
        constexpr int kThreads = 4;
        std::latch start(kThreads);
        std::vector<std::jthread> threads;
        for (int i = 0; i < kThreads; ++i) {
            threads.emplace_back([&] {
                start.arrive_and_wait();
                for (int n = 0; n < 2000; ++n) {
                    const auto item = recycler->take();
                    if (item->users.fetch_add(1, std::memory_order_relaxed) != 0) ++shared_use;
                    item->payload.push_back(n);  // a race here is ThreadSanitizer's to find
                    item->users.fetch_sub(1, std::memory_order_relaxed);
                }
            });
        }
        threads.clear();
        EXPECT_EQ(shared_use, 0);
        EXPECT_LE(recycler->idle(), 2u);
    }
    EXPECT_EQ(alive, 0);
}

}  // namespace
}  // namespace trtlab::core
