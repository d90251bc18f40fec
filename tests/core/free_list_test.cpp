#include "trtlab/core/free_list.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <thread>
#include <vector>

namespace trtlab::core {
namespace {

TEST(FreeList, GivesTheLastThatCameBackFirst) {
    FreeList list(3);
    EXPECT_EQ(list.pop(), 0u);
    EXPECT_EQ(list.pop(), 1u);
    EXPECT_TRUE(list.push(0));
    EXPECT_EQ(list.pop(), 0u);
    EXPECT_EQ(list.pop(), 2u);
    EXPECT_EQ(list.pop(), FreeList::kEmpty);
    const auto counts = list.counts();
    EXPECT_EQ(counts.taken, 3u);
    EXPECT_EQ(counts.pops, 4u);
}

TEST(FreeList, OfNothingIsEmpty) {
    FreeList list(0);
    EXPECT_EQ(list.pop(), FreeList::kEmpty);
    EXPECT_TRUE(list.bar_if_empty(FreeList::kWaited));
}

TEST(FreeList, BarredSendsEverybodyAnotherWayUntilItIsNot) {
    FreeList list(2);
    const auto taken = list.pop();
    EXPECT_FALSE(list.bar_if_empty(FreeList::kWaited));
    list.bar(FreeList::kClosed);
    EXPECT_TRUE(list.barred(FreeList::kClosed));
    EXPECT_FALSE(list.barred(FreeList::kWaited));
    EXPECT_EQ(list.pop(), FreeList::kBarred);
    EXPECT_FALSE(list.push(taken));
    EXPECT_EQ(list.count_barred(), 1u);
    list.push_barred(taken);
    EXPECT_EQ(list.count_barred(), 2u);
    EXPECT_EQ(list.counts().taken, 0u);
    EXPECT_EQ(list.pop_barred(), taken);
    list.unbar(FreeList::kClosed);
    EXPECT_EQ(list.pop(), 1u);
    EXPECT_EQ(list.pop_barred(), FreeList::kEmpty);
    EXPECT_TRUE(list.bar_if_empty(FreeList::kWaited));
    EXPECT_FALSE(list.push(1));
    list.hand_over(1);
    EXPECT_EQ(list.counts().taken, 2u);
    EXPECT_EQ(list.counts().pops, 4u);
}

/// Fails under ThreadSanitizer if push's release or pop's acquire is weakened, and anywhere if a number is given twice.
TEST(FreeListStress, EachNumberIsOneThreadsAtATime) {
    constexpr int kThreads = 4, kRounds = 20'000, kSize = 3;
    FreeList list(kSize);
    std::vector<long> plain(kSize);
    std::atomic<long> taken{0};
    std::latch start(kThreads);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&] {
            long mine = 0;
            start.arrive_and_wait();
            for (int round = 0; round < kRounds; ++round) {
                const auto number = list.pop();
                if (number == FreeList::kEmpty) continue;
                ++plain[number];
                ++mine;
                ASSERT_TRUE(list.push(number));
            }
            taken += mine;
        });
    }
    threads.clear();
    EXPECT_EQ(plain[0] + plain[1] + plain[2], taken);
    EXPECT_EQ(list.counts().taken, 0u);
    EXPECT_EQ(list.counts().pops, static_cast<std::uint64_t>(taken));
    for (int i = 0; i < kSize; ++i) EXPECT_LT(list.pop(), FreeList::kBarred);
    EXPECT_EQ(list.pop(), FreeList::kEmpty);
}

}  // namespace
}  // namespace trtlab::core
