// Host memory in pages of its own: kinds of pages, NUMA nodes, and what the kernel says of both.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "memory_contract.hpp"
#include "refusal.hpp"
#include "trtlab/core/pages.hpp"

namespace trtlab::core::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::size_t kMiB = std::size_t{1} << 20;

std::string line_of(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::string why_no_node() {
    try {
        HostMemory memory({.node = 0});
        return "";
    } catch (const InvalidArgument& error) {
        return error.what();
    }
}

std::string why_no_transparent() {
    try {
        HostMemory memory({.pages = Pages::transparent_huge});
        return "";
    } catch (const InvalidArgument& error) {
        return error.what();
    }
}

std::string why_no_reserved() {
    return std::stoull("0" + line_of("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")) < 8
               ? "no huge pages are reserved on this machine"
               : "";
}

/// The memory of the process's mappings, which a block that is not given back as it was taken adds to.
std::size_t mapped_bytes() {
    std::ifstream statm("/proc/self/statm");
    std::size_t pages = 0;
    statm >> pages;
    return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

template <Pages pages, bool touch, int node = -1>
struct Mapped {
    static std::string why_not() {
        if (pages == Pages::transparent_huge && !why_no_transparent().empty()) return why_no_transparent();
        if (pages == Pages::huge_2mib && !why_no_reserved().empty()) return why_no_reserved();
        return node >= 0 ? why_no_node() : "";
    }
    static std::shared_ptr<MemoryResource> make() {
        return std::make_shared<HostMemory>(HostMemory::Options{
            .pages = pages, .node = node >= 0 ? std::optional(node) : std::nullopt, .touch = touch});
    }
    static constexpr std::size_t kPromisedAlignment = 1 << 20;
    static constexpr std::size_t kTooMuch = std::size_t{1} << 60;
    static std::size_t live_blocks() { return 0; }
};

using Touched = Mapped<Pages::normal, true>;
using TransparentHuge = Mapped<Pages::transparent_huge, false>;
using OnNodeZero = Mapped<Pages::normal, true, 0>;
INSTANTIATE_TYPED_TEST_SUITE_P(Touched, MemoryContract, Touched);
INSTANTIATE_TYPED_TEST_SUITE_P(TransparentHuge, MemoryContract, TransparentHuge);
INSTANTIATE_TYPED_TEST_SUITE_P(OnNodeZero, MemoryContract, OnNodeZero);

PagePlacement placement_of(const Buffer& buffer) { return page_placement(buffer.view()); }

TEST(HostMemory, SizesThatWrapAroundWhenTheyAreRoundedAreRefused) {
    HostMemory memory;
    for (const std::size_t size : {SIZE_MAX, SIZE_MAX - 200}) EXPECT_THROW((void)memory.allocate(size), OutOfMemory);
}

TEST(HostMemory, PagesThatNobodyTouchedAreAbsent) {
    if (!why_no_transparent().empty()) GTEST_SKIP() << why_no_transparent();
    Buffer buffer(std::make_shared<HostMemory>(HostMemory::Options{.pages = Pages::transparent_huge}), 4 * kMiB);
    EXPECT_EQ(placement_of(buffer).absent_bytes, 4 * kMiB);
    EXPECT_EQ(huge_page_bytes(buffer.view()), 0u);
    static_cast<char*>(buffer.data())[3 * kMiB] = 1;
    EXPECT_LT(placement_of(buffer).absent_bytes, 4 * kMiB);
}

TEST(HostMemory, TouchedPagesAreThere) {
    Buffer buffer(std::make_shared<HostMemory>(HostMemory::Options{.touch = true}), 100'000);
    const PagePlacement placement = placement_of(buffer);
    EXPECT_EQ(placement.absent_bytes, 0u);
    std::size_t total = 0;
    for (const auto& [node, bytes] : placement.bytes_of_node) total += bytes;
    EXPECT_EQ(total, 100'000u);
}

TEST(HostMemory, MemoryOfANodeLiesOnIt) {
    if (!why_no_node().empty()) GTEST_SKIP() << why_no_node();
    const auto memory = std::make_shared<HostMemory>(HostMemory::Options{.node = 0});
    EXPECT_EQ(memory->name(), "host memory on node 0");
    Buffer buffer(memory, 3 * kMiB + 5);
    EXPECT_EQ(placement_of(buffer).bytes_of_node, (std::map<int, std::size_t>{{0, 3 * kMiB + 5}}));
    EXPECT_EQ(memory->left_out(), "");
}

TEST(HostMemory, ANodeThatTheSystemLacksIsRefusedWithThoseThatItHas) {
    if (!why_no_node().empty()) GTEST_SKIP() << why_no_node();
    for (const int node : {1023, 700}) {
        EXPECT_THAT(refusal([&] { HostMemory memory({.node = node}); }),
                    AllOf(HasSubstr("node " + std::to_string(node)), HasSubstr("nodes with memory: 0")));
    }
    for (const int node : {-1, 1024, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()})
        EXPECT_THAT(refusal([&] { HostMemory memory({.node = node, .strict = false}); }), HasSubstr("0 to 1023"));
}

TEST(HostMemory, ANodeThatTheSystemLacksIsLeftOutWhereFailureIsSoft) {
    if (!why_no_node().empty()) GTEST_SKIP() << why_no_node();
    const auto memory = std::make_shared<HostMemory>(HostMemory::Options{.node = 1023, .touch = true, .strict = false});
    EXPECT_THAT(memory->left_out(), HasSubstr("node 1023"));
    EXPECT_EQ(placement_of(Buffer(memory, 10 * kMiB)).absent_bytes, 0u);
}

TEST(HostMemory, TransparentHugePagesAreGivenWhereTheKernelHasThem) {
    if (!why_no_transparent().empty()) GTEST_SKIP() << why_no_transparent();
    Buffer buffer(std::make_shared<HostMemory>(HostMemory::Options{.pages = Pages::transparent_huge, .touch = true}),
                  8 * kMiB);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % (2 * kMiB), 0u);
    EXPECT_EQ(placement_of(buffer).absent_bytes, 0u);
    // The kernel promises none; one that has memory to spare gives all four, and one that has not, any number.
    EXPECT_EQ(huge_page_bytes(buffer.view()) % (2 * kMiB), 0u);
    if (huge_page_bytes(buffer.view()) == 0) GTEST_SKIP() << "the kernel had no huge page to spare";
    EXPECT_LE(huge_page_bytes(buffer.view()), 8 * kMiB);
}

TEST(HostMemory, ReservedHugePagesAreUsedOrTheMessageSaysHowToReserveThem) {
    if (!std::filesystem::exists("/sys/kernel/mm/hugepages/hugepages-2048kB")) GTEST_SKIP() << "no such pages here";
    const auto memory = std::make_shared<HostMemory>(HostMemory::Options{.pages = Pages::huge_2mib, .touch = true});
    if (why_no_reserved().empty()) {
        Buffer buffer(memory, 3 * kMiB, 4 * kMiB);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % (4 * kMiB), 0u);
        EXPECT_EQ(huge_page_bytes({buffer.data(), 4 * kMiB, {}}), 4 * kMiB);
    }
    try {
        (void)memory->allocate(std::size_t{1} << 40);
        FAIL() << "nothing was thrown";
    } catch (const OutOfMemory& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr("524288 pages"), HasSubstr("hugepages-2048kB/nr_hugepages"),
                                        HasSubstr("administrator"), HasSubstr(memory->name())));
    }
}

TEST(HostMemory, ReservedHugePagesThatThereAreNotAreLeftOutWhereFailureIsSoft) {
    const auto free = std::stoull("0" + line_of("/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages"));
    if (free > 0) GTEST_SKIP() << "this machine has pages of 1 GiB";
    const auto memory = std::make_shared<HostMemory>(HostMemory::Options{.pages = Pages::huge_1gib, .strict = false});
    const std::size_t before = mapped_bytes();
    for (int i = 0; i < 4; ++i) {
        Buffer buffer(memory, 100);
        std::memset(buffer.data(), 1, 100);
    }
    EXPECT_THAT(memory->left_out(), HasSubstr("1 GiB"));
    EXPECT_LT(mapped_bytes(), before + 512 * kMiB);
}

TEST(HostMemory, MoreThanIsAvailableIsNotTouched) {
    HostMemory memory({.touch = true});
    std::ifstream meminfo("/proc/meminfo");
    std::string key;
    std::size_t kib = 0;
    while (meminfo >> key && key != "MemTotal:") meminfo.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    meminfo >> kib;
    EXPECT_THROW(memory.allocate(kib * 1024), OutOfMemory);
}

TEST(HostMemory, ASizeThatNoPagesCanHoldIsOutOfMemory) {
    for (const Pages pages : {Pages::normal, Pages::transparent_huge, Pages::huge_2mib, Pages::huge_1gib}) {
        HostMemory memory({.pages = pages, .touch = true, .strict = false});
        for (const std::size_t less : {0, 1, 4095, 1 << 30})
            EXPECT_THROW(memory.allocate(std::numeric_limits<std::size_t>::max() - less), OutOfMemory);
        EXPECT_THROW(memory.allocate(1, std::size_t{1} << 63), OutOfMemory);
    }
}

// The lab rounded by adding the remainder: 2.5 MiB became 3.0, which are no whole pages.
TEST(PredecessorDefect12, HugePagesAreRoundedUpToWholeOnes) {
    if (!why_no_transparent().empty()) GTEST_SKIP() << why_no_transparent();
    HostMemory memory({.pages = Pages::transparent_huge});
    constexpr std::size_t kSize = 5 * kMiB / 2;
    const std::size_t before = mapped_bytes();
    void* const first = memory.allocate(kSize);
    EXPECT_EQ(mapped_bytes() - before, 4 * kMiB);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % (2 * kMiB), 0u);
    std::memset(first, 1, 4 * kMiB);  // all of it is there
    memory.deallocate(first, kSize);
    EXPECT_EQ(mapped_bytes(), before);
}

// The lab's adapter dropped the alignment: 74 of 100 blocks were not at a multiple of 64.
TEST(PredecessorDefect11, AlignmentIsHonouredByEveryKindOfHostMemory) {
    for (const HostMemory::Options& options :
         {HostMemory::Options{}, HostMemory::Options{.touch = true},
          HostMemory::Options{.pages = Pages::transparent_huge, .strict = false}}) {
        HostMemory memory(options);
        std::vector<void*> blocks;
        for (const std::size_t alignment : {std::size_t{64}, std::size_t{4096}, 8 * kMiB}) {
            for (int i = 0; i < 100; ++i) {
                blocks.push_back(memory.allocate(100, alignment));
                EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back()) % alignment, 0u) << memory.name();
            }
            for (void* block : blocks) memory.deallocate(block, 100, alignment);
            blocks.clear();
        }
    }
}

TEST(PagePlacement, BytesAddUpToTheRange) {
    alignas(64) static char bytes[70'000];
    std::memset(bytes, 1, sizeof(bytes));
    for (const std::size_t size : {0, 1, 4096, 4097, 65'000}) {
        const PagePlacement placement = page_placement({bytes + 17, size, {}});
        std::size_t total = placement.absent_bytes;
        for (const auto& [node, on_node] : placement.bytes_of_node) total += on_node;
        EXPECT_EQ(total, size);
        EXPECT_EQ(placement.absent_bytes, 0u);
    }
}

TEST(PagePlacement, MemoryThatTheCpuCannotReadIsRefused) {
    const BufferView range{nullptr, 10, {DeviceType::cuda, 1}};
    EXPECT_THAT(refusal([&] { (void)page_placement(range); }), HasSubstr("cuda:1"));
    EXPECT_THAT(refusal([&] { (void)huge_page_bytes(range); }), HasSubstr("cuda:1"));
}

TEST(PagePlacement, AddressesThatNobodyMappedAreAbsent) {
    const PagePlacement placement = page_placement({reinterpret_cast<void*>(std::uintptr_t{4096}), 8192, {}});
    EXPECT_EQ(placement.absent_bytes, 8192u);
}

}  // namespace
}  // namespace trtlab::core::testing
