#include "trtlab/core/best_fit_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

#include "allocation_count.hpp"
#include "log_capture.hpp"
#include "refusal.hpp"
#include "untouchable_memory.hpp"

namespace trtlab::core {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::refusal;
using testing::UntouchableMemory;

constexpr std::size_t kSlab = 64 << 10;
constexpr BlockArena::Options kSlabs{.first_block_bytes = kSlab, .growth = 1, .max_block_bytes = kSlab};

std::shared_ptr<BlockArena> arena_over(const std::shared_ptr<UntouchableMemory>& upstream) {
    return std::make_shared<BlockArena>(upstream, kSlabs);
}

TEST(BestFitMemory, ReusesTheSmallestHoleThatSuffices) {
    BestFitMemory memory(std::make_shared<UntouchableMemory>(), kSlabs);
    std::vector<void*> blocks;
    for (const std::size_t size : {4096, 256, 1024, 256, 2048, 256}) blocks.push_back(memory.allocate(size));
    memory.deallocate(blocks[0], 4096);
    memory.deallocate(blocks[2], 1024);
    memory.deallocate(blocks[4], 2048);
    EXPECT_EQ(memory.stats().free_ranges, 4u) << "with the rest of the slab";
    EXPECT_EQ(memory.allocate(1000), blocks[2]);
    EXPECT_EQ(memory.allocate(2000), blocks[4]);
    EXPECT_EQ(memory.allocate(3000), blocks[0]);
    EXPECT_EQ(memory.stats().slabs, 1u);
}

TEST(BestFitMemory, TakesFurtherSlabsAndGivesThemBackButOne) {
    const auto upstream = std::make_shared<UntouchableMemory>();
    const auto arena = arena_over(upstream);
    BestFitMemory memory(arena);
    EXPECT_EQ(memory.stats().slabs, 0u);
    std::vector<void*> blocks;
    for (int i = 0; i < 3; ++i) blocks.push_back(memory.allocate(kSlab));
    EXPECT_EQ(memory.stats().slabs, 3u);
    for (void* block : blocks) memory.deallocate(block, kSlab);
    EXPECT_EQ(memory.stats().slabs, 1u);
    EXPECT_EQ(arena->stats().blocks_cached, 2u);
    memory.trim();
    memory.trim();
    EXPECT_EQ(memory.stats().bytes, 0u);
    EXPECT_EQ(arena->stats().blocks_in_use, 0u);
    // What is larger than a slab has one of its own.
    void* const large = memory.allocate(3 * kSlab, 4096);
    EXPECT_GE(memory.stats().bytes, 3 * kSlab);
    memory.deallocate(large, 3 * kSlab, 4096);
}

TEST(BestFitMemory, LoneBlockThatComesAndGoesDoesNotTakeASlabEachTime) {
    const auto arena = arena_over(std::make_shared<UntouchableMemory>());
    BestFitMemory memory(arena);
    for (int i = 0; i < 10; ++i) memory.deallocate(memory.allocate(1000), 1000);
    EXPECT_EQ(arena->stats().from_upstream, 1u);
    EXPECT_EQ(arena->stats().reused, 0u);
}

TEST(BestFitMemory, EmptySlabThatIsTooSmallGoesBackBeforeALargerOneIsTaken) {
    const auto upstream = std::make_shared<UntouchableMemory>(kSlab + 1000);
    BestFitMemory memory(upstream, {.first_block_bytes = 1000, .growth = 1, .max_block_bytes = 1000});
    memory.deallocate(memory.allocate(512), 512);
    EXPECT_EQ(memory.stats().slabs, 1u);
    void* const large = memory.allocate(kSlab);
    EXPECT_EQ(memory.stats().slabs, 1u);
    memory.deallocate(large, kSlab);
}

TEST(BestFitMemory, OneThatMayNotGrowSaysWhatItsLargestRangeIs) {
    const auto upstream = std::make_shared<UntouchableMemory>();
    BestFitMemory memory(arena_over(upstream), {.first_slab_bytes = kSlab, .grow = false});
    EXPECT_EQ(upstream->live_bytes(), kSlab);
    void* const block = memory.allocate(kSlab / 2);
    try {
        (void)memory.allocate(kSlab / 2 + 1);
        ADD_FAILURE() << "nothing was thrown";
    } catch (const OutOfMemory& error) {
        EXPECT_THAT(error.what(),
                    AllOf(HasSubstr("best-fit memory over block arena over untouchable memory"),
                          HasSubstr("32769 bytes"), HasSubstr("of its 65536 bytes"), HasSubstr("has 32768")));
    }
    memory.deallocate(block, kSlab / 2);
    EXPECT_EQ(memory.stats().slabs, 1u) << "it is all there is";
    memory.trim();
    EXPECT_EQ(memory.stats().slabs, 1u);
    EXPECT_EQ(memory.allocate(kSlab), block);
}

TEST(BestFitMemory, FailureOfTheUpstreamLeavesItAsItWas) {
    const auto upstream = std::make_shared<UntouchableMemory>();
    BestFitMemory memory(upstream, kSlabs);
    void* const kept = memory.allocate(1000);
    upstream->set_limit(kSlab);
    EXPECT_THROW(memory.allocate(kSlab), OutOfMemory);
    EXPECT_THROW(memory.allocate(SIZE_MAX), OutOfMemory);
    EXPECT_THROW(memory.allocate(SIZE_MAX - 4096, 65536), OutOfMemory);
    EXPECT_EQ(memory.stats().live, 1u);
    EXPECT_EQ(memory.stats().slabs, 1u);
    memory.deallocate(kept, 1000);
    EXPECT_EQ(memory.allocate(kSlab), kept);
}

TEST(BestFitMemory, ForeignAddressesAndSecondReturnsAreLeftAlone) {
    const testing::LogCapture log;
    BestFitMemory memory(std::make_shared<UntouchableMemory>(), kSlabs);
    int other = 0;
    memory.deallocate(&other, 4);
    void* const block = memory.allocate(1000);
    memory.deallocate(static_cast<char*>(block) + 256, 1000);
    memory.deallocate(block, 1000);
    memory.deallocate(block, 1000);
    EXPECT_THAT(log.messages(), ::testing::SizeIs(3));
}

TEST(BestFitMemory, RefusesOptionsThatMakeNoSense) {
    const auto arena = arena_over(std::make_shared<UntouchableMemory>());
    EXPECT_THROW(BestFitMemory(std::shared_ptr<BlockArena>()), InvalidArgument);
    EXPECT_THAT(refusal([&] { BestFitMemory(arena, {.grow = false}); }), HasSubstr("first_slab_bytes"));
    EXPECT_THAT(refusal([&] { BestFitMemory(arena, {.granule_bytes = 512}); }), HasSubstr("granule of 512"));
    EXPECT_THAT(refusal([&] { BestFitMemory(arena, {.granule_bytes = 48}); }), HasSubstr("granule of 48"));
}

TEST(BestFitMemory, SmallGranuleIsForSmallBlocks) {
    BestFitMemory memory(arena_over(std::make_shared<UntouchableMemory>()),
                         {.granule_bytes = 16, .min_split_bytes = 16});
    char* const first = static_cast<char*>(memory.allocate(20, 16));
    EXPECT_EQ(memory.allocate(20, 8), first + 32);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.allocate(20, 256)) % 256, 0u);
}

/// The first lab's best-fit allocator lost one node of its book-keeping for each allocation.
TEST(PredecessorDefect10, NoNodeOfTheBookKeepingIsLost) {
    BestFitMemory memory(std::make_shared<UntouchableMemory>(), kSlabs);
    const auto round = [&] {
        std::vector<void*> blocks;
        for (std::size_t i = 0; i < 100; ++i) blocks.push_back(memory.allocate(100 + 7 * i));
        for (std::size_t i = 0; i < 100; i += 2) memory.deallocate(blocks[i], 100 + 7 * i);
        for (std::size_t i = 1; i < 100; i += 2) memory.deallocate(blocks[i], 100 + 7 * i);
    };
    round();
    EXPECT_EQ(memory.stats().free_ranges, memory.stats().slabs) << "all of each slab is one range again";
    const std::uint64_t before = testing::allocations();
    for (int i = 0; i < 10; ++i) memory.deallocate(memory.allocate(1000), 1000);
    if (testing::kAllocationsCounted) {
        EXPECT_EQ(testing::allocations(), before);
    }
    EXPECT_EQ(memory.stats().free_ranges, memory.stats().slabs);
}

/// It also followed a null pointer when a request fitted without its alignment, and not with it.
TEST(PredecessorDefect10, AlignedRequestThatDoesNotFitIsOutOfMemory) {
    const auto upstream = std::make_shared<UntouchableMemory>();
    BestFitMemory memory(arena_over(upstream), {.first_slab_bytes = kSlab, .grow = false});
    void* const whole = memory.allocate(kSlab);  // the slab begins beside a multiple of 512
    memory.deallocate(whole, kSlab);
    ASSERT_NE(reinterpret_cast<std::uintptr_t>(whole) % 512, 0u);
    EXPECT_THROW(memory.allocate(kSlab, 512), OutOfMemory);
    EXPECT_THROW(memory.allocate(1, std::size_t{1} << 40), OutOfMemory);
    void* const aligned = memory.allocate(kSlab - 512, 512);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(aligned) % 512, 0u);
    EXPECT_EQ(memory.stats().free_ranges, 2u) << "what lies before and behind it";
    memory.deallocate(aligned, kSlab - 512, 512);
    EXPECT_EQ(memory.allocate(kSlab), whole);
}

TEST(BestFitMemory, RandomUseNeverOverlapsAndEndsInWholeSlabs) {
    const auto upstream = std::make_shared<UntouchableMemory>();
    {
        BestFitMemory memory(upstream, kSlabs);
        std::mt19937 random(20261124);
        std::map<std::uintptr_t, std::pair<std::size_t, std::size_t>> live;
        for (int step = 0; step < 6000; ++step) {
            upstream->fail(random() % 8 == 0 ? 1 : 0);
            if (live.size() < 150 && random() % 2 == 0) {
                const std::size_t size = 1 + random() % (random() % 50 == 0 ? 100'000 : 3000);
                const std::size_t alignment = std::size_t{1} << random() % 14;
                std::uintptr_t at = 0;
                try {
                    at = reinterpret_cast<std::uintptr_t>(memory.allocate(size, alignment));
                } catch (const OutOfMemory&) {
                    continue;
                }
                ASSERT_EQ(at % alignment, 0u);
                const auto next = live.lower_bound(at);
                if (next != live.end()) {
                    ASSERT_LE(at + size, next->first);
                }
                if (next != live.begin()) {
                    ASSERT_LE(std::prev(next)->first + std::prev(next)->second.first, at);
                }
                live[at] = {size, alignment};
            } else if (!live.empty()) {
                const auto gone = std::next(live.begin(), static_cast<std::ptrdiff_t>(random() % live.size()));
                memory.deallocate(reinterpret_cast<void*>(gone->first), gone->second.first, gone->second.second);
                live.erase(gone);
            }
            ASSERT_EQ(memory.stats().live, live.size());
            ASSERT_GE(memory.stats().bytes, memory.stats().live_bytes);
        }
        for (const auto& [at, what] : live) memory.deallocate(reinterpret_cast<void*>(at), what.first, what.second);
        EXPECT_EQ(memory.stats().slabs, 1u);
        EXPECT_EQ(memory.stats().free_ranges, 1u);
        EXPECT_EQ(memory.stats().live_bytes, 0u);
    }
    EXPECT_EQ(upstream->live_blocks(), 0u);
}

}  // namespace
}  // namespace trtlab::core
