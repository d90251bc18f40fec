#include "trtlab/core/block_arena.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "log_capture.hpp"
#include "refusal.hpp"
#include "untouchable_memory.hpp"

namespace trtlab::core {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::refusal;
using testing::UntouchableMemory;

class BlockArenaTest : public ::testing::Test {
protected:
    std::shared_ptr<UntouchableMemory> upstream_ = std::make_shared<UntouchableMemory>();
};

TEST_F(BlockArenaTest, BlocksGrowByTheFactorUpToTheLargest) {
    BlockArena arena(upstream_, {.first_block_bytes = 1000, .growth = 2, .max_block_bytes = 5000});
    std::vector<std::size_t> sizes;
    std::vector<void*> blocks;
    for (int i = 0; i < 5; ++i) {
        const BlockArena::Block block = arena.acquire(10);
        sizes.push_back(block.size_bytes);
        blocks.push_back(block.data);
    }
    EXPECT_THAT(sizes, ::testing::ElementsAre(1000, 2000, 4000, 5000, 5000));
    for (void* block : blocks) arena.release(block);
    arena.trim();
    EXPECT_EQ(arena.acquire(10).size_bytes, 1000u) << "the policy starts anew when no block is left";
    EXPECT_EQ(arena.stats().from_upstream, 6u);
    arena.release(arena.acquire(5001).data);
    EXPECT_EQ(arena.stats().bytes_cached, 5001u) << "more than the largest is a block of its own";
}

TEST_F(BlockArenaTest, FixedSizeIsAFactorOfOne) {
    BlockArena arena(upstream_, {.first_block_bytes = 4096, .growth = 1, .max_block_bytes = 4096});
    for (int i = 0; i < 5; ++i) EXPECT_EQ(arena.acquire(1).size_bytes, 4096u);
}

TEST_F(BlockArenaTest, GivesTheSmallestKeptBlockThatSuffices) {
    BlockArena arena(upstream_, {.first_block_bytes = 1, .growth = 1, .max_block_bytes = 1});
    void* const small = arena.acquire(1000).data;
    void* const large = arena.acquire(8000).data;
    void* const middle = arena.acquire(4000).data;
    for (void* block : {small, large, middle}) arena.release(block);
    EXPECT_EQ(arena.acquire(2000).data, middle);
    EXPECT_EQ(arena.acquire(2000).data, large);
    EXPECT_EQ(arena.acquire(2000).size_bytes, 2000u);
    const BlockArena::Stats stats = arena.stats();
    EXPECT_EQ(stats.reused, 2u);
    EXPECT_EQ(stats.from_upstream, 4u);
    EXPECT_EQ(stats.blocks_cached, 1u);
    EXPECT_EQ(stats.bytes_cached, 1000u);
    EXPECT_EQ(stats.blocks_in_use, 3u);
    EXPECT_EQ(stats.bytes_in_use, 14000u);
}

TEST_F(BlockArenaTest, KeptBlockThatIsNotAlignedIsPassedOver) {
    BlockArena arena(upstream_, {.first_block_bytes = 4096, .growth = 1, .max_block_bytes = 4096});
    void* const at_256 = arena.acquire(100, 256).data;
    ASSERT_NE(reinterpret_cast<std::uintptr_t>(at_256) % 65536, 0u);
    arena.release(at_256);
    const BlockArena::Block aligned = arena.acquire(100, 65536);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(aligned.data) % 65536, 0u);
    arena.release(aligned.data);
    EXPECT_THAT(refusal([&] { (void)arena.acquire(100, 0); }), HasSubstr("alignment of 0"));
    EXPECT_THAT(refusal([&] { (void)arena.acquire(100, 48); }), HasSubstr("alignment of 48"));
}

TEST_F(BlockArenaTest, WhatIsKeptIsBoundedByBytes) {
    BlockArena arena(upstream_,
                     {.first_block_bytes = 1000, .growth = 1, .max_block_bytes = 1000, .max_cached_bytes = 2500});
    std::vector<void*> blocks;
    for (int i = 0; i < 5; ++i) blocks.push_back(arena.allocate(1000));
    for (void* block : blocks) arena.deallocate(block, 1000);
    EXPECT_EQ(arena.stats().bytes_cached, 2000u);
    EXPECT_EQ(upstream_->live_blocks(), 2u);
    EXPECT_EQ(arena.trim(1000), 1000u);
    EXPECT_EQ(upstream_->live_blocks(), 1u);
    EXPECT_EQ(arena.trim(), 1000u);
    EXPECT_EQ(arena.trim(), 0u);
    EXPECT_EQ(upstream_->live_blocks(), 0u);
}

TEST_F(BlockArenaTest, ReserveTakesBlocksAheadAndSaysWhyNot) {
    BlockArena arena(upstream_,
                     {.first_block_bytes = 1000, .growth = 1, .max_block_bytes = 1000, .max_cached_bytes = 3000});
    arena.reserve(2);
    EXPECT_EQ(arena.stats().blocks_cached, 2u);
    arena.reserve(1);
    EXPECT_EQ(arena.stats().blocks_cached, 2u);
    const std::size_t before = upstream_->allocations();
    arena.release(arena.acquire(1).data);
    EXPECT_EQ(upstream_->allocations(), before);
    EXPECT_THAT(refusal([&] { arena.reserve(4); }),
                AllOf(HasSubstr("4 blocks of 1000 bytes"), HasSubstr("3000"), HasSubstr("max_cached_bytes")));
    arena.trim();
    upstream_->fail(2);
    EXPECT_THROW(arena.reserve(3), OutOfMemory);
    EXPECT_EQ(arena.stats().blocks_cached, 1u);
    arena.reserve(3);
    EXPECT_EQ(arena.stats().blocks_cached, 3u);
}

TEST_F(BlockArenaTest, AnUpstreamThatIsShortGetsWhatIsKeptAndIsAskedForLess) {
    upstream_->set_limit(10'000);
    BlockArena arena(upstream_, {.first_block_bytes = 3000, .growth = 1, .max_block_bytes = 3000});
    arena.reserve(3);
    const BlockArena::Block large = arena.acquire(9000);
    EXPECT_EQ(large.size_bytes, 9000u);
    EXPECT_EQ(arena.stats().blocks_cached, 0u);
    const BlockArena::Block rest = arena.acquire(500);
    EXPECT_EQ(rest.size_bytes, 500u) << "the policy's 3000 are not there";
    try {
        (void)arena.acquire(501);
        ADD_FAILURE() << "nothing was thrown";
    } catch (const OutOfMemory& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr("block arena over untouchable memory"), HasSubstr("501 bytes")));
    }
    arena.release(large.data);
    arena.release(rest.data);
    EXPECT_EQ(arena.acquire(501).size_bytes, 9000u);
}

TEST_F(BlockArenaTest, ForeignBlocksAndBlocksThatAreBackAreLeftAlone) {
    const testing::LogCapture log;
    BlockArena arena(upstream_);
    void* const block = arena.allocate(1);
    arena.deallocate(block, 1);
    arena.deallocate(block, 1);
    arena.deallocate(this, 1);
    EXPECT_THAT(log.messages(), ::testing::SizeIs(2));
    EXPECT_EQ(arena.stats().blocks_cached, 1u);
}

TEST_F(BlockArenaTest, RefusesAPolicyThatMakesNoSense) {
    EXPECT_THROW(BlockArena(nullptr), InvalidArgument);
    for (const BlockArena::Options& options :
         {BlockArena::Options{.first_block_bytes = 0}, BlockArena::Options{.growth = 0.5},
          BlockArena::Options{.growth = std::numeric_limits<double>::quiet_NaN()},
          BlockArena::Options{.first_block_bytes = 2, .max_block_bytes = 1}}) {
        EXPECT_THAT(refusal([&] { BlockArena(upstream_, options); }), HasSubstr("block arena over untouchable"));
    }
}

TEST_F(BlockArenaTest, ManyThreadsMayShareIt) {
    BlockArena arena(upstream_, {.first_block_bytes = 4096, .growth = 1, .max_block_bytes = 4096});
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (int n = 0; n < 500; ++n) arena.release(arena.acquire(1).data);
        });
    }
    threads.clear();
    EXPECT_LE(arena.stats().from_upstream, 4u);
    EXPECT_EQ(arena.stats().blocks_in_use, 0u);
}

}  // namespace
}  // namespace trtlab::core
