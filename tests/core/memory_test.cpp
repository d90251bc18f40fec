#include "trtlab/core/memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "memory_contract.hpp"
#include "refusal.hpp"

namespace trtlab::core::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Host {
    static std::string why_not() { return ""; }
    static std::shared_ptr<MemoryResource> make() { return std::make_shared<HostMemory>(); }
    static constexpr std::size_t kPromisedAlignment = 1 << 20;
    static constexpr std::size_t kTooMuch = std::size_t{1} << 60;
    static std::size_t live_blocks() { return 0; }
};

INSTANTIATE_TYPED_TEST_SUITE_P(Host, MemoryContract, Host);

TEST(HostMemory, IsOfTheCpu) {
    EXPECT_EQ(HostMemory().device(), Device{});
    EXPECT_EQ(HostMemory().name(), "host memory");
}

TEST(HostMemory, BeyondTheAddressSpaceIsOutOfMemory) {
    HostMemory memory;
    EXPECT_THROW(memory.allocate(std::numeric_limits<std::size_t>::max()), OutOfMemory);
}

TEST(BufferView, SliceIsPartOfTheRange) {
    char bytes[10];
    const BufferView all{bytes, sizeof(bytes), {DeviceType::cuda_managed, 3}};
    const BufferView part = all.slice(4, 6);
    EXPECT_EQ(part.data, bytes + 4);
    EXPECT_EQ(part.size_bytes, 6u);
    EXPECT_EQ(part.device, all.device);
    EXPECT_EQ(all.slice(10, 0).size_bytes, 0u);
}

TEST(BufferView, SliceOverTheEndIsRefusedAlsoIfTheSumOverflows) {
    const BufferView range{nullptr, 10, {DeviceType::cuda, 1}};
    EXPECT_THAT(refusal([&] { (void)range.slice(4, 7); }), AllOf(HasSubstr("4"), HasSubstr("10"), HasSubstr("cuda:1")));
    (void)refusal([&] { (void)range.slice(11, 0); });
    (void)refusal([&] { (void)range.slice(2, std::numeric_limits<std::size_t>::max()); });
}

TEST(Buffer, MadeOfNothingIsEmpty) {
    Buffer empty;
    EXPECT_FALSE(empty);
    EXPECT_EQ(empty.size_bytes(), 0u);
    EXPECT_EQ(empty.view().data, nullptr);
    EXPECT_EQ(empty.device(), Device{});
    empty.reset();
}

TEST(Buffer, AssignmentGivesTheOldBlockBackFirst) {
    const auto memory = std::make_shared<HostMemory>();
    Buffer first(memory, 10), second(memory, 20);
    void* const kept = second.data();
    first = std::move(second);
    EXPECT_EQ(first.data(), kept);
    EXPECT_EQ(first.size_bytes(), 20u);
    EXPECT_FALSE(second);
    EXPECT_EQ(memory.use_count(), 2);
}

}  // namespace
}  // namespace trtlab::core::testing
