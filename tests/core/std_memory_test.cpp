#include "trtlab/core/std_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <list>
#include <map>
#include <string>
#include <vector>

#include "memory_contract.hpp"
#include "refusal.hpp"
#include "trtlab/core/debug_memory.hpp"
#include "trtlab/core/limited_memory.hpp"
#include "trtlab/core/tracked_memory.hpp"

namespace trtlab::core::testing {
namespace {

using ::testing::HasSubstr;

/// A debug memory whose reports fail the test, over one that counts.
struct Watched {
    std::shared_ptr<TrackedMemory> counts = std::make_shared<TrackedMemory>(std::make_shared<HostMemory>());
    std::shared_ptr<MemoryResource> memory = std::make_shared<DebugMemory>(
        counts, [](const DebugMemory::Report& report) { ADD_FAILURE() << report.message; });
    std::size_t live() const { return counts->snapshot().blocks(); }
    std::uint64_t allocations() const { return counts->snapshot().allocations; }
};

/// Only says that it is a GPU's.
class OnGpu final : public MemoryResource {
public:
    Device device() const noexcept override { return {DeviceType::cuda, 0}; }
    std::string name() const override { return "memory of a GPU"; }

protected:
    void* do_allocate(std::size_t, std::size_t) override { throw OutOfMemory("none"); }
    void do_deallocate(void*, std::size_t, std::size_t) noexcept override {}
};

/// There and back: host memory as std::pmr's, as ours.
struct ThroughPmr {
    static std::string why_not() { return ""; }
    static std::shared_ptr<MemoryResource> make() {
        counts = std::make_shared<TrackedMemory>(std::make_shared<HostMemory>());
        static std::unique_ptr<PmrResource> pmr;
        pmr = std::make_unique<PmrResource>(counts);
        return std::make_shared<PmrMemory>(pmr.get(), "host memory");
    }
    static constexpr std::size_t kPromisedAlignment = 1 << 20;
    static constexpr std::size_t kTooMuch = std::size_t{1} << 60;
    static std::size_t live_blocks() { return counts->snapshot().blocks(); }
    static inline std::shared_ptr<TrackedMemory> counts;
};

struct NewDelete {
    static std::string why_not() { return ""; }
    static std::shared_ptr<MemoryResource> make() {
        return std::make_shared<PmrMemory>(std::pmr::new_delete_resource());
    }
    static constexpr std::size_t kPromisedAlignment = 1 << 20;
    static constexpr std::size_t kTooMuch = 0;  // a sanitizer's operator new ends the process
    static std::size_t live_blocks() { return 0; }
};

INSTANTIATE_TYPED_TEST_SUITE_P(ThroughPmr, MemoryContract, ThroughPmr);
INSTANTIATE_TYPED_TEST_SUITE_P(NewDelete, MemoryContract, NewDelete);

TEST(PmrResource, ServesContainersOfStdPmr) {
    Watched watched;
    PmrResource pmr(watched.memory);
    {
        std::pmr::map<int, std::pmr::string> names(&pmr);
        for (int i = 0; i < 100; ++i)
            names[i] = "a string that is too long to be kept in place, number " + std::to_string(i);
        EXPECT_GE(watched.live(), 200u);
        EXPECT_EQ(names.at(7), "a string that is too long to be kept in place, number 7");
    }
    EXPECT_EQ(watched.live(), 0u);
}

TEST(PmrResource, IsEqualToOthersOfTheSameMemory) {
    const auto memory = std::make_shared<HostMemory>();
    PmrResource first(memory), second(memory), other(std::make_shared<HostMemory>());
    EXPECT_EQ(first, second);
    EXPECT_NE(first, other);
    EXPECT_FALSE(first.is_equal(*std::pmr::new_delete_resource()));
}

TEST(PmrResource, MemoryThatTheCpuCannotReadIsRefused) {
    const auto gpu = std::make_shared<OnGpu>();
    EXPECT_THAT(refusal([&] { PmrResource pmr(gpu); }), HasSubstr("memory of a GPU"));
    EXPECT_THAT(refusal([&] { Allocator<int> allocator(gpu); }), HasSubstr("memory of a GPU"));
    EXPECT_THAT(refusal([&] { (void)allocate_unique<int>(gpu, 1); }), HasSubstr("memory of a GPU"));
    EXPECT_THAT(refusal([] { PmrResource pmr(nullptr); }), HasSubstr("got none"));
    EXPECT_THAT(refusal([] { PmrMemory memory(nullptr); }), HasSubstr("got none"));
}

TEST(PmrMemory, WhatStdPmrRefusesIsOutOfMemory) {
    PmrMemory memory(std::pmr::null_memory_resource(), "no memory");
    try {
        (void)memory.allocate(77);
        FAIL() << "nothing was thrown";
    } catch (const OutOfMemory& error) {
        EXPECT_STREQ(error.what(), "no memory: cannot allocate 77 bytes");
    }
}

struct alignas(256) Wide {
    char bytes[256];
};

TEST(Allocator, HonoursTheAlignmentOfItsType) {
    Watched watched;
    {
        std::vector<Wide, Allocator<Wide>> wide(3, Allocator<Wide>(watched.memory));
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(wide.data()) % 256, 0u);
    }
    EXPECT_EQ(watched.live(), 0u);
}

TEST(Allocator, AMovedContainerTakesItsResourceAlong) {
    Watched here, there;
    using Numbers = std::vector<int, Allocator<int>>;
    {
        Numbers first({1, 2, 3}, Allocator<int>(here.memory)), second({4, 5}, Allocator<int>(there.memory));
        const int* const where = first.data();
        const std::uint64_t before = here.allocations() + there.allocations();
        second = std::move(first);
        EXPECT_EQ(second.data(), where);
        Numbers third({6}, Allocator<int>(there.memory));
        swap(second, third);
        EXPECT_EQ(third.data(), where);
        EXPECT_EQ(here.allocations() + there.allocations(), before + 1);
    }
    EXPECT_EQ(here.live() + there.live(), 0u);
}

TEST(Allocator, AnAssignedContainerKeepsItsOwnResource) {
    Watched here, there;
    using Numbers = std::list<int, Allocator<int>>;
    Numbers first({1, 2, 3}, Allocator<int>(here.memory)), second({}, Allocator<int>(there.memory));
    second = first;
    EXPECT_EQ(there.live(), 3u);
    EXPECT_EQ(second.get_allocator().resource(), there.memory);
    EXPECT_NE(first.get_allocator(), second.get_allocator());
    const Numbers copy = first;
    EXPECT_EQ(copy.get_allocator(), first.get_allocator());
}

TEST(Allocator, KeepsTheResource) {
    std::weak_ptr<MemoryResource> gone;
    {
        Watched watched;
        gone = watched.memory;
        std::vector<int, Allocator<int>> numbers({1, 2, 3}, Allocator<int>(std::exchange(watched.memory, nullptr)));
        EXPECT_FALSE(gone.expired());
        EXPECT_EQ(numbers[1], 2);
    }
    EXPECT_TRUE(gone.expired());
}

TEST(Allocator, ACountWithoutANumberOfBytesIsRefused) {
    Allocator<std::uint64_t> allocator(std::make_shared<HostMemory>());
    EXPECT_THROW((void)allocator.allocate(static_cast<std::size_t>(-1) / 8 + 1), std::bad_array_new_length);
    EXPECT_THROW((void)allocator.allocate(std::size_t{1} << 58), OutOfMemory);
}

TEST(Allocator, AContainerSurvivesThatMemoryIsUsedUp) {
    const auto limited = std::make_shared<LimitedMemory>(std::make_shared<HostMemory>(), LimitedMemory::Limits{100});
    std::vector<int, Allocator<int>> numbers({1, 2, 3}, Allocator<int>(limited));
    EXPECT_THROW(numbers.resize(1000), OutOfMemory);
    EXPECT_EQ(numbers, (std::vector<int, Allocator<int>>({1, 2, 3}, Allocator<int>(limited))));
}

struct Counted {
    explicit Counted(int& live_, bool fail = false) : live(live_) {
        if (fail) throw std::runtime_error("no such object");
        ++live;
    }
    ~Counted() { --live; }
    int& live;
    alignas(128) char bytes[128];
};

TEST(AllocateUnique, DestroysTheObjectAndGivesTheBlockBack) {
    Watched watched;
    int live = 0;
    {
        ResourcePtr<Counted> object = allocate_unique<Counted>(watched.memory, live);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(object.get()) % 128, 0u);
        EXPECT_EQ(live, 1);
        EXPECT_EQ(watched.live(), 1u);
        object = allocate_unique<Counted>(watched.memory, live);
        EXPECT_EQ(watched.live(), 1u);
    }
    EXPECT_EQ(live, 0);
    EXPECT_EQ(watched.live(), 0u);
}

TEST(AllocateUnique, AConstructorThatThrowsLeavesNothingBehind) {
    Watched watched;
    int live = 0;
    EXPECT_THROW((void)allocate_unique<Counted>(watched.memory, live, true), std::runtime_error);
    EXPECT_EQ(watched.live(), 0u);
    EXPECT_EQ(watched.allocations(), 1u);
}

// The lab's descriptor lost its block when another was assigned to it, and freed a released one again.
TEST(PredecessorDefect9, ABufferAssignedToGivesItsBlockBackOnce) {
    Watched watched;
    {
        Buffer first(watched.memory, 1 << 20), second(watched.memory, 100);
        first = std::move(second);
        EXPECT_EQ(watched.live(), 1u);
        first = Buffer(watched.memory, 200);
        EXPECT_EQ(watched.live(), 1u);
        Buffer& same = first;
        first = std::move(same);
        EXPECT_EQ(first.size_bytes(), 200u);
        first.reset();
        EXPECT_EQ(watched.live(), 0u);
    }
    EXPECT_EQ(watched.live(), 0u);  // and the watch reports what is given back twice
}

}  // namespace
}  // namespace trtlab::core::testing
