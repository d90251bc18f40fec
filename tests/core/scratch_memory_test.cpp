#include "trtlab/core/scratch_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "allocation_count.hpp"
#include "log_capture.hpp"
#include "untouchable_memory.hpp"

namespace trtlab::core {
namespace {

using testing::UntouchableMemory;

class Scratch : public ::testing::Test {
protected:
    void* take(std::size_t size, std::size_t alignment = 256) { return scratch_.allocate(size, alignment); }
    std::shared_ptr<UntouchableMemory> upstream_ = std::make_shared<UntouchableMemory>();
    std::shared_ptr<BlockArena> arena_ = std::make_shared<BlockArena>(
        upstream_, BlockArena::Options{.first_block_bytes = 10'000, .growth = 1, .max_block_bytes = 10'000});
    ScratchMemory scratch_{arena_};
};

TEST_F(Scratch, MovesACursorThroughOneBlock) {
    char* const first = static_cast<char*>(take(100, 1));
    EXPECT_EQ(take(1, 1), first + 100);
    EXPECT_EQ(take(10, 64), first + 128);
    EXPECT_EQ(scratch_.stats().live, 3u);
    EXPECT_EQ(arena_->stats().blocks_in_use, 1u);
}

TEST_F(Scratch, BeginsTheBlockAnewWhenAllOfItIsBack) {
    void* const first = take(6000);
    void* const second = take(1000);
    scratch_.deallocate(first, 6000);
    EXPECT_NE(take(2000), first) << "not before all of it is back";
    scratch_.deallocate(second, 1000);
    scratch_.deallocate(static_cast<char*>(second) + 1024, 2000);
    EXPECT_EQ(take(9000), first);
    EXPECT_EQ(upstream_->allocations(), 1u);
}

TEST_F(Scratch, FullBlockGoesBackToTheArenaWhenItsCountIsZero) {
    void* const a = take(8000);
    void* const b = take(8000);
    void* const c = take(8000);
    EXPECT_EQ(scratch_.stats().blocks, 3u);
    scratch_.deallocate(b, 8000);
    EXPECT_EQ(arena_->stats().blocks_in_use, 2u);
    EXPECT_EQ(arena_->stats().blocks_cached, 1u);
    scratch_.deallocate(c, 8000);
    EXPECT_EQ(take(9999, 1), c) << "the current block began anew";
    scratch_.deallocate(a, 8000);
    EXPECT_EQ(scratch_.stats().blocks, 1u);
    EXPECT_EQ(take(8000), b) << "or a: the arena's choice";
}

TEST_F(Scratch, EmptyBlockThatIsTooSmallGoesBackBeforeALargerOneIsTaken) {
    upstream_->set_limit(20'000);
    scratch_.deallocate(take(100), 100);
    void* const large = take(15'000);
    EXPECT_EQ(upstream_->live_bytes(), 15'000u);
    scratch_.deallocate(large, 15'000);
}

TEST_F(Scratch, TrimGivesTheCurrentBlockBackOnlyIfNothingInItIsLive) {
    void* const block = take(100);
    scratch_.trim();
    EXPECT_EQ(scratch_.stats().blocks, 1u);
    scratch_.deallocate(block, 100);
    scratch_.trim();
    scratch_.trim();
    EXPECT_EQ(scratch_.stats().blocks, 0u);
    EXPECT_EQ(arena_->stats().blocks_in_use, 0u);
}

TEST_F(Scratch, FailureOfTheUpstreamLeavesItAsItWas) {
    void* const kept = take(9000);
    upstream_->fail(1);
    EXPECT_THROW(take(20'000), OutOfMemory);
    EXPECT_THROW(take(SIZE_MAX, 4096), OutOfMemory);
    EXPECT_THROW(take(SIZE_MAX - 100, 1), OutOfMemory);
    EXPECT_EQ(scratch_.stats().live, 1u);
    EXPECT_EQ(take(500, 1), static_cast<char*>(kept) + 9000) << "the block is still the current one";
}

TEST_F(Scratch, ForeignAddressesAreLeftAlone) {
    const testing::LogCapture log;
    int other = 0;
    scratch_.deallocate(&other, 4);
    void* const block = take(100);
    scratch_.deallocate(&other, 4);
    scratch_.deallocate(block, 100);
    scratch_.deallocate(block, 100);
    EXPECT_THAT(log.messages(), ::testing::SizeIs(3));
    EXPECT_EQ(scratch_.stats().live, 0u);
}

TEST_F(Scratch, WarmRequestsTakeNothingFromTheHeapOrTheUpstream) {
    std::vector<void*> blocks(10);
    const auto request = [&] {
        for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = take(2000 + 100 * i);
        for (const std::size_t i : {3, 9, 0, 1, 7, 8, 2, 4, 6, 5}) scratch_.deallocate(blocks[i], 2000 + 100 * i);
    };
    request();
    const std::size_t from_upstream = upstream_->allocations();
    const std::uint64_t from_heap = testing::allocations();
    for (int i = 0; i < 100; ++i) request();
    if (testing::kAllocationsCounted) {
        EXPECT_EQ(testing::allocations(), from_heap);
    }
    EXPECT_EQ(upstream_->allocations(), from_upstream);
}

TEST_F(Scratch, RandomUseNeverOverlapsAndEndsEmpty) {
    std::mt19937 random(20261124);
    std::map<std::uintptr_t, std::size_t> live;
    for (int step = 0; step < 5000; ++step) {
        if (live.size() < 40 && random() % 2 == 0) {
            const std::size_t size = 1 + random() % 4000, alignment = std::size_t{1} << random() % 13;
            const auto at = reinterpret_cast<std::uintptr_t>(take(size, alignment));
            ASSERT_EQ(at % alignment, 0u);
            const auto next = live.lower_bound(at);
            if (next != live.end()) {
                ASSERT_LE(at + size, next->first);
            }
            if (next != live.begin()) {
                ASSERT_LE(std::prev(next)->first + std::prev(next)->second, at);
            }
            live.emplace(at, size);
        } else if (!live.empty()) {
            const auto gone = std::next(live.begin(), static_cast<std::ptrdiff_t>(random() % live.size()));
            scratch_.deallocate(reinterpret_cast<void*>(gone->first), gone->second);
            live.erase(gone);
        }
        ASSERT_EQ(scratch_.stats().live, live.size());
        ASSERT_EQ(scratch_.stats().blocks, arena_->stats().blocks_in_use);
    }
    for (const auto& [at, size] : live) scratch_.deallocate(reinterpret_cast<void*>(at), size);
    EXPECT_EQ(scratch_.stats().blocks, 1u);
    scratch_.trim();
    arena_->trim();
    EXPECT_EQ(upstream_->live_blocks(), 0u);
}

TEST(ScratchMemory, BringsAnArenaOfItsOwnAndGivesEverythingBack) {
    const auto upstream = std::make_shared<UntouchableMemory>();
    {
        const auto scratch = std::make_shared<ScratchMemory>(upstream);
        EXPECT_EQ(scratch->name(), "scratch memory over block arena over untouchable memory");
        EXPECT_EQ(scratch->device(), upstream->device());
        const Buffer buffer(scratch, 100);
        EXPECT_GT(upstream->live_bytes(), 100u);
    }
    EXPECT_EQ(upstream->live_blocks(), 0u);
    EXPECT_THROW(ScratchMemory(std::shared_ptr<BlockArena>()), InvalidArgument);
    EXPECT_THROW(ScratchMemory(std::shared_ptr<MemoryResource>()), InvalidArgument);
}

}  // namespace
}  // namespace trtlab::core
