#include "trtlab/core/size_class_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <latch>
#include <set>
#include <thread>
#include <vector>

#include "allocation_count.hpp"
#include "refusal.hpp"
#include "trtlab/core/best_fit_memory.hpp"
#include "untouchable_memory.hpp"

namespace trtlab::core {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::refusal;
using testing::UntouchableMemory;

class SizeClasses : public ::testing::Test {
protected:
    std::shared_ptr<UntouchableMemory> upstream_ = std::make_shared<UntouchableMemory>();
    std::shared_ptr<SizeClassMemory> memory_ = std::make_shared<SizeClassMemory>(upstream_);

    std::vector<void*> take(std::size_t count, std::size_t size) {
        std::vector<void*> blocks(count);
        for (void*& block : blocks) block = memory_->allocate(size, 16);
        return blocks;
    }
    void give(const std::vector<void*>& blocks, std::size_t size) {
        for (void* block : blocks) memory_->deallocate(block, size, 16);
    }
};

TEST_F(SizeClasses, RoundUpByLessThanAQuarterAndHonourEveryAlignment) {
    for (std::size_t size = 1; size <= 32 << 10; size += 1 + size / 100) {
        const std::size_t bytes = memory_->block_bytes(size, 1);
        EXPECT_GE(bytes, size);
        EXPECT_LE(bytes, size + std::max<std::size_t>(15, size / 4)) << size;
        for (std::size_t alignment = 1; alignment <= 256; alignment *= 2) {
            EXPECT_GE(memory_->block_bytes(size, alignment), size);
            EXPECT_EQ(memory_->block_bytes(size, alignment) % alignment, 0u) << size << " at " << alignment;
        }
    }
    EXPECT_EQ(memory_->block_bytes(0, 1), 16u);
    EXPECT_EQ(memory_->block_bytes(16, 1), 16u);
    EXPECT_EQ(memory_->block_bytes(128, 1), 128u);
    EXPECT_EQ(memory_->block_bytes(129, 1), 160u);
    EXPECT_EQ(memory_->block_bytes(256, 1), 256u);
    EXPECT_EQ(memory_->block_bytes(257, 1), 320u);
    EXPECT_EQ(memory_->block_bytes(32 << 10), std::size_t{32} << 10);
    EXPECT_EQ(memory_->block_bytes((32 << 10) + 1), 0u);
    EXPECT_EQ(memory_->block_bytes(16, 512), 0u);
}

TEST_F(SizeClasses, GiveTheBlockOutAgainThatCameBackLast) {
    void* const block = memory_->allocate(100);
    memory_->deallocate(block, 100);
    EXPECT_EQ(memory_->allocate(120), block);
    memory_->deallocate(block, 120);
}

TEST_F(SizeClasses, PassLargeAndWidelyAlignedRequestsToTheUpstream) {
    void* const large = memory_->allocate(100'000);
    void* const wide = memory_->allocate(16, 4096);
    EXPECT_EQ(memory_->stats().large_bytes, 100'016u);
    EXPECT_EQ(upstream_->live_blocks(), 2u);
    memory_->deallocate(large, 100'000);
    memory_->deallocate(wide, 16, 4096);
    EXPECT_EQ(memory_->stats().large_bytes, 0u);
    EXPECT_EQ(upstream_->live_blocks(), 0u);
}

TEST_F(SizeClasses, WarmUseTakesNothingFromTheHeapOrTheUpstream) {
    give(take(1000, 64), 64);
    const std::size_t from_upstream = upstream_->allocations();
    const std::uint64_t from_heap = testing::allocations();
    for (int i = 0; i < 10; ++i) {
        void* const block = memory_->allocate(64, 16);
        memory_->deallocate(block, 64, 16);
    }
    if (testing::kAllocationsCounted) {
        EXPECT_EQ(testing::allocations(), from_heap);
    }
    give(take(1000, 64), 64);
    EXPECT_EQ(upstream_->allocations(), from_upstream);
}

TEST_F(SizeClasses, EveryBlockIsThereOnceAndAllGoesBack) {
    std::set<std::uintptr_t> seen;
    for (const std::size_t size : {16, 100, 4096, 32768}) {
        const std::vector<void*> blocks = take(300, size);
        for (void* block : blocks) {
            const auto at = reinterpret_cast<std::uintptr_t>(block);
            const auto next = seen.lower_bound(at);
            if (next != seen.end()) {
                EXPECT_LE(at + size, *next);
            }
            EXPECT_TRUE(seen.insert(at).second);
        }
    }
    memory_ = nullptr;  // none of them came back, and the chunks do nevertheless
    EXPECT_EQ(upstream_->live_blocks(), 0u);
}

TEST_F(SizeClasses, TrimGivesChunksBackThatAreWhollyFree) {
    const std::vector<void*> small = take(2000, 64);
    const std::vector<void*> large = take(100, 4096);
    give(small, 64);
    const std::size_t before = upstream_->live_bytes();
    EXPECT_EQ(memory_->stats().reserved_bytes, before);
    const std::size_t gone = memory_->trim();
    EXPECT_GE(gone, 2000u * 64);
    EXPECT_EQ(upstream_->live_bytes(), before - gone);
    give({large.begin() + 1, large.end()}, 4096);
    memory_->trim();
    EXPECT_EQ(upstream_->live_blocks(), 1u) << "the chunk with the one that is still out";
    give({large.front()}, 4096);
    memory_->trim();
    EXPECT_EQ(upstream_->live_blocks(), 0u);
    EXPECT_EQ(memory_->stats().reserved_bytes, 0u);
    EXPECT_EQ(memory_->stats().depot_bytes, 0u);
    give(take(10, 64), 64);
}

TEST_F(SizeClasses, WhatIsFreeInOneClassIsGivenBackForAnother) {
    upstream_->set_limit(64 << 10);
    give(take(512, 64), 64);
    std::thread([&] { give(take(256, 128), 128); }).join();  // its blocks are in the depot, and the others still here
    EXPECT_EQ(upstream_->live_bytes(), 64u << 10);
    const std::vector<void*> blocks = take(15, 4096);
    give(blocks, 4096);
    EXPECT_LE(upstream_->live_bytes(), 64u << 10);
    void* const large = memory_->allocate(60'000);  // and for what is passed through
    EXPECT_EQ(upstream_->live_bytes(), 60'000u);
    memory_->deallocate(large, 60'000);
}

TEST_F(SizeClasses, FailureOfTheUpstreamLeavesThemAsTheyWere) {
    std::vector<void*> blocks;
    upstream_->set_limit(20'000);
    try {
        for (;;) blocks.push_back(memory_->allocate(1000, 16));
    } catch (const OutOfMemory& error) {
        EXPECT_THAT(error.what(),
                    AllOf(HasSubstr("size-class memory over untouchable memory"), HasSubstr("1024 bytes")));
    }
    EXPECT_EQ(blocks.size(), 19u) << "also those that no whole chunk was left for";
    give(blocks, 1000);
    EXPECT_EQ(take(19, 1000).size(), 19u);
    EXPECT_THROW((void)memory_->allocate(1000, 16), OutOfMemory);
    EXPECT_THROW((void)memory_->allocate(SIZE_MAX), OutOfMemory);
}

TEST_F(SizeClasses, ThreadThatEndsLeavesItsBlocksToTheOthers) {
    std::thread([&] {
        give(take(100, 64), 64);
        EXPECT_EQ(memory_->stats().thread_caches, 1u);
    }).join();
    EXPECT_EQ(memory_->stats().thread_caches, 0u);
    EXPECT_EQ(memory_->stats().depot_bytes, memory_->stats().reserved_bytes);
    const std::size_t before = upstream_->allocations();
    give(take(100, 64), 64);
    EXPECT_EQ(upstream_->allocations(), before);
}

TEST_F(SizeClasses, ThreadsThatOnlyGiveBackFeedThoseThatOnlyTake) {
    for (int round = 0; round < 20; ++round) {
        const std::vector<void*> blocks = take(500, 64);
        std::thread([&] { give(blocks, 64); }).join();
    }
    EXPECT_LT(upstream_->live_bytes(), 20u * 500 * 64 / 8);
}

TEST_F(SizeClasses, ManyThreadsThatLeaveOneBlockEachDoNotLeaveAMagazineEach) {
    const std::vector<void*> blocks = take(200, 64);
    const std::uint64_t before = testing::allocations();
    for (void* block : blocks) std::thread([&] { memory_->deallocate(block, 64, 16); }).join();
    if (testing::kAllocationsCounted) {
        EXPECT_LT(testing::allocations() - before, 200u * 8) << "the threads themselves, and a few";
    }
    EXPECT_GE(memory_->stats().depot_bytes, 200u * 64);
}

TEST_F(SizeClasses, GoWhileThreadsThatUsedThemLive) {
    std::latch used(1), gone(1);
    std::thread thread([&] {
        give(take(10, 64), 64);
        used.count_down();
        gone.wait();
        SizeClassMemory another(std::make_shared<UntouchableMemory>());
        another.deallocate(another.allocate(64), 64);
    });
    used.wait();
    memory_ = nullptr;
    EXPECT_EQ(upstream_->live_blocks(), 0u);
    gone.count_down();
    thread.join();
}

/// More than a thread finds at first glance, so that they displace each other there.
TEST_F(SizeClasses, ThreadMayUseManyAtOnce) {
    std::vector<std::shared_ptr<SizeClassMemory>> many;
    for (int i = 0; i < 40; ++i) many.push_back(std::make_shared<SizeClassMemory>(upstream_));
    std::set<void*> seen;
    for (int round = 0; round < 3; ++round) {
        for (const auto& memory : many) {
            void* const block = memory->allocate(64);
            seen.insert(block);
            memory->deallocate(block, 64);
        }
    }
    EXPECT_EQ(seen.size(), 40u);
    for (const auto& memory : many) EXPECT_EQ(memory->stats().thread_caches, 1u);
}

/// Lives longer than what the thread keeps.
struct LateUser {
    SizeClassMemory* memory = nullptr;
    void* block = nullptr;
    ~LateUser() {
        if (memory == nullptr) return;
        memory->deallocate(block, 64);
        memory->deallocate(memory->allocate(64), 64);
        memory->deallocate(memory->allocate(64), 64);
        memory->trim();
    }
};
thread_local LateUser late_user;

TEST_F(SizeClasses, WorkForAThreadThatIsEndingWithoutACache) {
    std::thread([&] {
        late_user.memory = memory_.get();  // its destructor is due after the caches', as they come later
        late_user.block = memory_->allocate(64);
    }).join();
    EXPECT_EQ(memory_->stats().thread_caches, 0u);
    EXPECT_EQ(memory_->stats().reserved_bytes, 0u) << "all was given back and trimmed";
}

TEST_F(SizeClasses, AreDeadInAForkedChildAndNewOnesAreNot) {
    void* const block = memory_->allocate(64);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        bool closed = false;
        try {
            for (int i = 0; i < 100'000; ++i) (void)memory_->allocate(64);
        } catch (const Closed&) {
            closed = true;
        }
        memory_->deallocate(block, 64);
        for (int i = 0; i < 1000; ++i) memory_->deallocate(block, 64);  // leaks where there is no room
        memory_ = nullptr;
        SizeClassMemory made_here(upstream_);
        made_here.deallocate(made_here.allocate(64), 64);
        std::thread([&] { made_here.deallocate(made_here.allocate(64), 64); }).join();
        _exit(closed && made_here.stats().thread_caches == 1 ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    memory_->deallocate(block, 64);
}

TEST_F(SizeClasses, RefuseOptionsThatMakeNoSense) {
    EXPECT_THROW(SizeClassMemory(nullptr), InvalidArgument);
    for (const std::size_t size : {0, 128, 1000, 2 << 20}) {
        EXPECT_THAT(refusal([&] { SizeClassMemory(upstream_, {.max_size_bytes = size}); }),
                    HasSubstr("max_size_bytes is " + std::to_string(size)));
    }
    SizeClassMemory extreme(upstream_, {.max_size_bytes = 1 << 20, .max_chunk_bytes = 0, .magazine_bytes = 0});
    extreme.deallocate(extreme.allocate(1 << 20), 1 << 20);
    extreme.deallocate(extreme.allocate(1), 1);
}

}  // namespace
}  // namespace trtlab::core
