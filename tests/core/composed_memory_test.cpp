// The resources that stand on another and pass its blocks on: caps, counts, and the hunt for misuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#include "in_child.hpp"
#include "log_capture.hpp"
#include "memory_contract.hpp"
#include "refusal.hpp"
#include "trtlab/core/debug_memory.hpp"
#include "trtlab/core/limited_memory.hpp"
#include "trtlab/core/tracked_memory.hpp"

namespace trtlab::core::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::shared_ptr<MemoryResource> host() { return std::make_shared<HostMemory>(); }

/// Memory that the CPU must not touch: addresses with nothing behind them.
class Untouchable final : public MemoryResource {
public:
    Device device() const noexcept override { return {DeviceType::cuda, 0}; }
    std::string name() const override { return "untouchable memory"; }
    std::size_t live = 0;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t) override {
        ++live;
        next_ += (size_bytes + 4095) / 4096 * 4096;
        return reinterpret_cast<void*>(next_ - (size_bytes + 4095) / 4096 * 4096);
    }
    void do_deallocate(void*, std::size_t, std::size_t) noexcept override { --live; }

private:
    std::uintptr_t next_ = std::uintptr_t{1} << 20;
};

template <class Resource>
struct Composed {
    static std::string why_not() { return ""; }
    static std::shared_ptr<MemoryResource> make() {
        counts = std::make_shared<TrackedMemory>(host());
        if constexpr (std::is_same_v<Resource, LimitedMemory>) {
            return std::make_shared<LimitedMemory>(counts, LimitedMemory::Limits{1 << 30, 1000});
        } else {
            return std::make_shared<Resource>(counts);
        }
    }
    static constexpr std::size_t kPromisedAlignment = 1 << 20;
    static constexpr std::size_t kTooMuch = std::size_t{1} << 60;
    static std::size_t live_blocks() { return counts->snapshot().blocks() + counts->snapshot().size_bytes; }
    static inline std::shared_ptr<TrackedMemory> counts;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Limited, MemoryContract, Composed<LimitedMemory>);
INSTANTIATE_TYPED_TEST_SUITE_P(Tracked, MemoryContract, Composed<TrackedMemory>);
INSTANTIATE_TYPED_TEST_SUITE_P(Debug, MemoryContract, Composed<DebugMemory>);

TEST(ComposedMemory, NeedsAnUpstream) {
    EXPECT_THAT(refusal([] { LimitedMemory(nullptr, {}); }), HasSubstr("limited"));
    EXPECT_THAT(refusal([] { TrackedMemory(nullptr); }), HasSubstr("tracked"));
    EXPECT_THAT(refusal([] { DebugMemory(nullptr); }), HasSubstr("debug"));
}

TEST(LimitedMemory, SaysCapUseAndRequestWhenTheBytesAreUsedUp) {
    LimitedMemory memory(host(), {.size_bytes = 1000});
    void* const block = memory.allocate(700);
    try {
        (void)memory.allocate(301);
        FAIL() << "nothing was thrown";
    } catch (const OutOfMemory& error) {
        EXPECT_THAT(error.what(),
                    AllOf(HasSubstr("301"), HasSubstr("700"), HasSubstr("1000"), HasSubstr("host memory")));
    }
    void* const rest = memory.allocate(300);
    EXPECT_EQ(memory.in_use().size_bytes, 1000u);
    EXPECT_THROW(memory.allocate(0), OutOfMemory);
    memory.deallocate(block, 700);
    memory.deallocate(rest, 300);
    EXPECT_EQ(memory.in_use().size_bytes, 0u);
    EXPECT_EQ(memory.in_use().blocks, 0u);
}

TEST(LimitedMemory, SaysCapAndUseWhenTheBlocksAreUsedUp) {
    LimitedMemory memory(host(), {.blocks = 1});
    void* const block = memory.allocate(5);
    try {
        (void)memory.allocate(77);
        FAIL() << "nothing was thrown";
    } catch (const OutOfMemory& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr("77"), HasSubstr("1 blocks are in use"), HasSubstr("1 is the cap")));
    }
    EXPECT_EQ(memory.in_use().size_bytes, 5u);
    memory.deallocate(block, 5);
}

TEST(LimitedMemory, ASizeThatOverflowsTheSumIsRefused) {
    LimitedMemory memory(host(), {.size_bytes = std::numeric_limits<std::size_t>::max() - 1});
    void* const block = memory.allocate(100);
    EXPECT_THROW(memory.allocate(std::numeric_limits<std::size_t>::max() - 50), OutOfMemory);
    EXPECT_EQ(memory.in_use().size_bytes, 100u);
    memory.deallocate(block, 100);
}

TEST(LimitedMemory, WhatTheUpstreamRefusesIsNotInUse) {
    LimitedMemory memory(host(), {});
    EXPECT_THROW(memory.allocate(std::size_t{1} << 60), OutOfMemory);
    EXPECT_EQ(memory.in_use().size_bytes, 0u);
    EXPECT_EQ(memory.in_use().blocks, 0u);
}

/// Is not thread-safe, on purpose: one block, and plain counters.
class OneBlock final : public MemoryResource {
public:
    Device device() const noexcept override { return {}; }
    std::string name() const override { return "one block"; }
    std::size_t taken = 0, most = 0, allocations = 0;

protected:
    void* do_allocate(std::size_t, std::size_t) override {
        most = std::max(most, ++taken);
        ++allocations;
        return block_;
    }
    void do_deallocate(void*, std::size_t, std::size_t) noexcept override { --taken; }

private:
    alignas(kAlignment) char block_[kAlignment];
};

// ThreadSanitizer reports the upstream's counters if the release or the acquire of a cap is weakened.
TEST(LimitedMemory, ACapOfOneBlockLetsOneThreadAtATimeReachTheUpstream) {
    for (const LimitedMemory::Limits& limits :
         {LimitedMemory::Limits{.blocks = 1}, LimitedMemory::Limits{.size_bytes = 1}}) {
        const auto upstream = std::make_shared<OneBlock>();
        LimitedMemory memory(upstream, limits);
        std::atomic<std::size_t> got{0};
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; ++i) {
            threads.emplace_back([&] {
                for (int j = 0; j < 2000; ++j) {
                    void* block = nullptr;
                    try {
                        block = memory.allocate(1);
                    } catch (const OutOfMemory&) {
                        std::this_thread::yield();
                        continue;
                    }
                    got.fetch_add(1, std::memory_order_relaxed);
                    memory.deallocate(block, 1);
                }
            });
        }
        for (std::thread& thread : threads) thread.join();
        EXPECT_EQ(upstream->most, 1u);
        EXPECT_EQ(upstream->taken, 0u);
        EXPECT_EQ(upstream->allocations, got.load());
        EXPECT_GT(got.load(), 0u);
    }
}

TEST(TrackedMemory, CountsWhatIsTakenGivenBackAndRefused) {
    TrackedMemory memory(host(), "the test", "scratch");
    void* const first = memory.allocate(1);
    void* const second = memory.allocate(4096);
    void* const third = memory.allocate(4095);
    memory.deallocate(second, 4096);
    EXPECT_THROW(memory.allocate(std::size_t{1} << 60), OutOfMemory);
    const auto now = memory.snapshot();
    EXPECT_EQ(now.size_bytes, 4096u);
    EXPECT_EQ(now.peak_bytes, 8192u);
    EXPECT_EQ(now.allocations, 3u);
    EXPECT_EQ(now.deallocations, 1u);
    EXPECT_EQ(now.blocks(), 2u);
    EXPECT_EQ(now.failures, 1u);
    EXPECT_EQ(now.by_size[0], 1u);
    EXPECT_EQ(now.by_size[11], 1u);
    EXPECT_EQ(now.by_size[12], 1u);
    EXPECT_EQ(memory.memory_use(), (MemoryUse{"the test", "scratch", Device{}, 4096}));
    memory.deallocate(first, 1);
    memory.deallocate(third, 4095);
    EXPECT_EQ(memory.snapshot().size_bytes, 0u);
}

TEST(TrackedMemory, LosesNoCountWhileThreadsAllocateAndOneReads) {
    TrackedMemory memory(host());
    constexpr std::size_t kThreads = 4, kRounds = 2000;
    std::atomic<std::size_t> running{kThreads};
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < kThreads; ++i) {
        threads.emplace_back([&] {
            for (std::size_t j = 0; j < kRounds; ++j) memory.deallocate(memory.allocate(64), 64);
            running.fetch_sub(1);
        });
    }
    while (running.load() > 0) {
        const auto now = memory.snapshot();
        EXPECT_LE(now.size_bytes, 64 * kThreads);
        EXPECT_GE(now.peak_bytes, now.size_bytes);
        EXPECT_GE(now.allocations, now.deallocations);
    }
    for (std::thread& thread : threads) thread.join();
    const auto now = memory.snapshot();
    EXPECT_EQ(now.size_bytes, 0u);
    EXPECT_EQ(now.allocations, kThreads * kRounds);
    EXPECT_EQ(now.deallocations, kThreads * kRounds);
    EXPECT_EQ(now.by_size[6], kThreads * kRounds);
    EXPECT_GE(now.peak_bytes, 64u);
    EXPECT_LE(now.peak_bytes, 64 * kThreads);
}

using Misuse = DebugMemory::Misuse;

struct Debugged {
    std::vector<Misuse> found;
    std::vector<std::string> messages;
    std::shared_ptr<TrackedMemory> counts = std::make_shared<TrackedMemory>(host());
    std::shared_ptr<DebugMemory> memory =
        std::make_shared<DebugMemory>(counts, [this](const DebugMemory::Report& report) {
            found.push_back(report.misuse);
            messages.push_back(report.message);
        });
};

TEST(DebugMemory, FillsFreshMemoryAndReportsNothingOfGoodUse) {
    Debugged debug;
    for (const std::size_t size : {0, 1, 100, 5000}) {
        auto* const block = static_cast<unsigned char*>(debug.memory->allocate(size));
        for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(block[i], DebugMemory::kFresh);
        std::memset(block, 0, size);
        EXPECT_EQ(debug.memory->check(), 0u);
        debug.memory->deallocate(block, size);
    }
    debug.memory.reset();
    EXPECT_THAT(debug.messages, IsEmpty());
}

/// Keeps its blocks, so that a test may look at what was given back.
class Kept final : public MemoryResource {
public:
    Device device() const noexcept override { return {}; }
    std::string name() const override { return "kept memory"; }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override {
        return blocks_.emplace_back(std::make_shared<HostMemory>(), size_bytes, alignment).data();
    }
    void do_deallocate(void*, std::size_t, std::size_t) noexcept override {}

private:
    std::vector<Buffer> blocks_;
};

TEST(DebugMemory, FillsWhatIsGivenBack) {
    DebugMemory memory(std::make_shared<Kept>());
    auto* const block = static_cast<unsigned char*>(memory.allocate(100));
    std::memset(block, 1, 100);
    memory.deallocate(block, 100);
    for (int i = 0; i < 100; ++i) ASSERT_EQ(block[i], DebugMemory::kFreed);
}

TEST(DebugMemory, AWriteBehindTheEndIsFoundWhenTheBlockComesBack) {
    Debugged debug;
    auto* const block = static_cast<unsigned char*>(debug.memory->allocate(100));
    block[103] = 0;
    debug.memory->deallocate(block, 100);
    EXPECT_THAT(debug.found, ElementsAre(Misuse::damaged_fence));
    EXPECT_THAT(debug.messages[0], AllOf(HasSubstr("of 100 bytes"), HasSubstr("3 bytes after its end")));
    EXPECT_EQ(debug.counts->snapshot().blocks(), 0u);
}

TEST(DebugMemory, AWriteBeforeTheBeginningIsFoundOnDemand) {
    Debugged debug;
    for (const std::size_t alignment : {1, 64, 4096}) {
        auto* const block = static_cast<unsigned char*>(debug.memory->allocate(100, alignment));
        block[-1] = 0;
        EXPECT_EQ(debug.memory->check(), 1u);
        EXPECT_THAT(debug.messages.back(), HasSubstr("1 bytes before its beginning"));
        block[-1] = DebugMemory::kFence;
        debug.memory->deallocate(block, 100, alignment);
    }
    EXPECT_EQ(debug.found.size(), 3u);
}

TEST(DebugMemory, ABlockGivenBackTwiceReachesTheUpstreamOnce) {
    Debugged debug;
    void* const block = debug.memory->allocate(100);
    debug.memory->deallocate(block, 100);
    debug.memory->deallocate(block, 100);
    EXPECT_THAT(debug.found, ElementsAre(Misuse::double_free));
    EXPECT_EQ(debug.counts->snapshot().deallocations, 1u);
}

TEST(DebugMemory, AForeignBlockDoesNotReachTheUpstream) {
    Debugged debug;
    int other = 0;
    void* const block = debug.memory->allocate(100);
    debug.memory->deallocate(&other, sizeof(other));
    debug.memory->deallocate(static_cast<char*>(block) + 8, 92);
    debug.memory->deallocate(block, 100);
    EXPECT_THAT(debug.found, ElementsAre(Misuse::foreign_block, Misuse::foreign_block));
    EXPECT_EQ(debug.counts->snapshot().deallocations, 1u);
}

TEST(DebugMemory, WrongSizeAndAlignmentAreReportedAndPutRight) {
    Debugged debug;
    debug.memory->deallocate(debug.memory->allocate(100, 64), 99, 32);
    EXPECT_THAT(debug.found, ElementsAre(Misuse::wrong_size, Misuse::wrong_alignment));
    EXPECT_THAT(debug.messages[0], AllOf(HasSubstr("99"), HasSubstr("100")));
    EXPECT_THAT(debug.messages[1], AllOf(HasSubstr("32"), HasSubstr("64")));
    EXPECT_EQ(debug.counts->snapshot().size_bytes, 0u);
}

TEST(DebugMemory, WhatIsNotGivenBackIsListedAtTheEnd) {
    Debugged debug;
    void* const small = debug.memory->allocate(10);
    void* const large = debug.memory->allocate(2000);
    debug.memory->deallocate(debug.memory->allocate(30), 30);
    EXPECT_EQ(debug.memory->live_blocks(), 2u);
    debug.memory.reset();
    EXPECT_THAT(debug.found, ElementsAre(Misuse::leak));
    EXPECT_THAT(debug.messages[0], AllOf(HasSubstr("2 blocks of 2010 bytes"), HasSubstr("10 bytes at"),
                                         HasSubstr("2000 bytes at"), HasSubstr("(allocation 2)")));
    // They are left alone; with their fences, as they were taken.
    for (const auto& [block, size] : {std::pair(small, 10), std::pair(large, 2000)})
        debug.counts->deallocate(static_cast<char*>(block) - MemoryResource::kAlignment,
                                 MemoryResource::kAlignment + static_cast<std::size_t>(size) + 32);
}

TEST(DebugMemory, ReportsGoToTheLogWhereNobodyTakesThem) {
    const LogCapture log;
    const auto upstream = std::make_shared<Untouchable>();
    {
        DebugMemory memory(upstream);
        (void)memory.allocate(10);
    }
    ASSERT_EQ(log.messages().size(), 1u);
    EXPECT_THAT(log.messages()[0], HasSubstr("1 blocks of 10 bytes were not given back"));
}

TEST(DebugMemory, AHandlerThatThrowsIsLoggedAndHarmsNobody) {
    const LogCapture log;
    DebugMemory memory(host(), [](const DebugMemory::Report&) { throw std::runtime_error("the handler's own"); });
    int other = 0;
    memory.deallocate(&other, sizeof(other));
    ASSERT_EQ(log.messages().size(), 1u);
    EXPECT_THAT(log.messages()[0], HasSubstr("the handler's own"));
}

TEST(DebugMemory, AHandlerMayUseTheResource) {
    DebugMemory* self = nullptr;
    std::size_t live = 99;
    DebugMemory memory(host(), [&](const DebugMemory::Report&) { live = self->live_blocks(); });
    self = &memory;
    int other = 0;
    memory.deallocate(&other, sizeof(other));
    EXPECT_EQ(live, 0u);
}

TEST(DebugMemory, OverMemoryThatTheCpuCannotReadTheBookStillTells) {
    std::vector<Misuse> found;
    const auto upstream = std::make_shared<Untouchable>();
    {
        DebugMemory memory(upstream, [&](const DebugMemory::Report& report) { found.push_back(report.misuse); });
        void* const block = memory.allocate(100);
        EXPECT_EQ(memory.check(), 0u);
        memory.deallocate(block, 50);
        memory.deallocate(block, 100);
        memory.deallocate(reinterpret_cast<void*>(std::uintptr_t{64}), 100);
        (void)memory.allocate(1);
    }
    EXPECT_THAT(found, ElementsAre(Misuse::wrong_size, Misuse::double_free, Misuse::foreign_block, Misuse::leak));
    EXPECT_EQ(upstream->live, 1u);
}

TEST(DebugMemory, InAForkedChildItIsClosedAndWaitsForNoLock) {
    Debugged debug;
    void* const block = debug.memory->allocate(100);
    EXPECT_EQ(in_child([&] {
                  debug.memory->deallocate(block, 1);
                  try {
                      (void)debug.memory->allocate(1);
                      return 1;
                  } catch (const Closed&) {
                  }
                  debug.memory.reset();
                  return debug.found.empty() ? 0 : 2;
              }),
              0);
    debug.memory->deallocate(block, 100);
    EXPECT_THAT(debug.messages, IsEmpty());
}

TEST(DebugMemory, ChecksWhileOthersAllocate) {
    Debugged debug;
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i) {
        threads.emplace_back([&] {
            for (std::size_t j = 0; j < 500; ++j) debug.memory->deallocate(debug.memory->allocate(j), j);
        });
    }
    std::thread checker([&] {
        while (!done.load()) EXPECT_EQ(debug.memory->check(), 0u);
    });
    for (std::thread& thread : threads) thread.join();
    done.store(true);
    checker.join();
    EXPECT_THAT(debug.messages, IsEmpty());
}

}  // namespace
}  // namespace trtlab::core::testing
