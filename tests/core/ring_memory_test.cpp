#include "trtlab/core/ring_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <optional>
#include <random>
#include <vector>

#include "log_capture.hpp"
#include "refusal.hpp"
#include "untouchable_memory.hpp"

namespace trtlab::core {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::UntouchableMemory;

class Ring : public ::testing::Test {
protected:
    char* take(std::size_t size, std::size_t alignment = 1) {
        return static_cast<char*>(ring_.allocate(size, alignment));
    }
    void give(char* block, std::size_t size = 1) { ring_.deallocate(block, size, 1); }
    std::shared_ptr<UntouchableMemory> upstream_ = std::make_shared<UntouchableMemory>();
    RingMemory ring_{upstream_, 1000};
};

TEST_F(Ring, GoesRoundItsBlock) {
    char* const base = take(400);
    EXPECT_EQ(take(400), base + 400);
    give(base);
    EXPECT_EQ(take(300), base) << "200 bytes at the end are too few";
    EXPECT_EQ(ring_.stats().used_bytes, 900u) << "with the gap";
    give(base + 400);
    EXPECT_EQ(ring_.stats().used_bytes, 500u) << "the gap is behind the tail until what follows it comes back";
    EXPECT_EQ(take(400), base + 300);
    give(base);
    EXPECT_EQ(ring_.stats().used_bytes, 400u);
}

TEST_F(Ring, TailAdvancesOverWhatIsBackWhateverTheOrder) {
    char* const a = take(250);
    char* const b = take(250);
    char* const c = take(250);
    give(c);
    give(b);
    EXPECT_EQ(ring_.stats().used_bytes, 750u);
    EXPECT_THROW(take(251), OutOfMemory);
    give(a);
    EXPECT_EQ(ring_.stats().used_bytes, 0u);
    EXPECT_EQ(take(1000), a) << "an empty ring is one piece";
}

TEST_F(Ring, FullRingSaysWhatIsInUse) {
    take(900);
    try {
        take(101);
        ADD_FAILURE() << "nothing was thrown";
    } catch (const OutOfMemory& error) {
        EXPECT_THAT(error.what(), AllOf(HasSubstr("ring memory over untouchable memory"), HasSubstr("101 bytes"),
                                        HasSubstr("900 of 1000")));
    }
    EXPECT_NE(take(100), nullptr);
    EXPECT_THROW(take(1), OutOfMemory);
    EXPECT_EQ(ring_.stats().live, 2u);
}

TEST_F(Ring, WhatCanNeverFitIsOutOfMemory) {
    EXPECT_THROW(take(1001), OutOfMemory);
    EXPECT_THROW(take(SIZE_MAX), OutOfMemory);
    EXPECT_THROW(take(SIZE_MAX, std::size_t{1} << 63), OutOfMemory);
    EXPECT_THROW(take(1000, std::size_t{1} << 40), OutOfMemory);
    EXPECT_EQ(ring_.stats().used_bytes, 0u);
}

TEST_F(Ring, ForeignAddressesAndSecondReturnsAreLeftAlone) {
    const testing::LogCapture log;
    char* const a = take(100);
    char* const b = take(100);
    give(b);
    give(b);
    give(a + 1);
    give(a + 5000);
    char other = 0;
    give(&other);
    EXPECT_THAT(log.messages(), ::testing::SizeIs(4));
    EXPECT_EQ(ring_.stats().live, 1u);
    give(a);
    give(a);
    EXPECT_EQ(ring_.stats().used_bytes, 0u);
    EXPECT_THAT(log.messages(), ::testing::SizeIs(5));
}

TEST(RingMemory, TakesItsBlockAtOnceAndGivesItBack) {
    const auto upstream = std::make_shared<UntouchableMemory>();
    {
        const RingMemory ring(upstream, 4096);
        EXPECT_EQ(upstream->live_bytes(), 4096u);
        EXPECT_EQ(ring.device(), upstream->device());
    }
    EXPECT_EQ(upstream->live_blocks(), 0u);
    upstream->fail(1);
    EXPECT_THROW(RingMemory(upstream, 4096), OutOfMemory);
    EXPECT_THAT(testing::refusal([&] { RingMemory(upstream, 0); }), HasSubstr("capacity of 0"));
    EXPECT_THROW(RingMemory(nullptr, 1), InvalidArgument);
}

/// Byte by byte: whose it is, in order of allocation.
class NaiveRing {
public:
    NaiveRing(std::uintptr_t base, std::size_t capacity) : base_(base), owner_(capacity, 0) {}

    std::optional<std::size_t> allocate(std::size_t size, std::size_t alignment) {
        if (order_.empty()) head_ = 0;
        for (const std::size_t from : {head_, owner_.size()}) {  // on from the head; or from the beginning
            const std::size_t begin = from == owner_.size() ? 0 : head_;
            std::size_t at = begin;
            while ((base_ + at) % alignment != 0) ++at;
            const bool wraps = from == owner_.size();
            if (at + size > owner_.size() || !free(begin, at + size) || (wraps && !free(head_, owner_.size())))
                continue;
            if (wraps) own(head_, owner_.size(), next_);
            own(begin, at + size, next_);
            order_.push_back({next_++, at, true});
            head_ = at + size;
            return at;
        }
        return std::nullopt;
    }
    void deallocate(std::size_t at) {
        for (Entry& entry : order_) {
            if (entry.at == at && entry.live) entry.live = false;
        }
        while (!order_.empty() && !order_.front().live) {
            for (int& owner : owner_) {
                if (owner == order_.front().number) owner = 0;
            }
            order_.pop_front();
        }
    }
    std::size_t used() const {
        return owner_.size() - static_cast<std::size_t>(std::count(owner_.begin(), owner_.end(), 0));
    }

private:
    struct Entry {
        int number;
        std::size_t at;
        bool live;
    };
    bool free(std::size_t begin, std::size_t end) const {
        for (; begin < end; ++begin) {
            if (owner_[begin] != 0) return false;
        }
        return true;
    }
    void own(std::size_t begin, std::size_t end, int number) {
        for (; begin < end; ++begin) owner_[begin] = number;
    }
    std::uintptr_t base_;
    std::vector<int> owner_;
    std::deque<Entry> order_;
    std::size_t head_ = 0;
    int next_ = 1;
};

TEST(RingMemory, DoesWhatANaiveRingOfBytesDoes) {
    for (unsigned seed = 0; seed < 8; ++seed) {
        std::mt19937 random(seed);
        constexpr std::size_t kCapacity = 700;
        RingMemory ring(std::make_shared<UntouchableMemory>(), kCapacity);
        char* const base = static_cast<char*>(ring.allocate(kCapacity, 1));
        ring.deallocate(base, kCapacity, 1);
        NaiveRing naive(reinterpret_cast<std::uintptr_t>(base), kCapacity);
        std::vector<char*> live;
        for (int step = 0; step < 2000; ++step) {
            if (random() % 5 < 3) {
                const std::size_t size = 1 + random() % (random() % 20 == 0 ? 720 : 120);
                const std::size_t alignment = std::size_t{1} << random() % 7;
                const std::optional<std::size_t> expected = naive.allocate(size, alignment);
                char* got = nullptr;
                try {
                    got = static_cast<char*>(ring.allocate(size, alignment));
                } catch (const OutOfMemory&) {
                }
                ASSERT_EQ(got != nullptr, expected.has_value()) << "seed " << seed << ", step " << step;
                if (got == nullptr) continue;
                ASSERT_EQ(static_cast<std::size_t>(got - base), *expected) << "seed " << seed << ", step " << step;
                live.push_back(got);
            } else if (!live.empty()) {
                // Mostly the older ones.
                const std::size_t which = random() % std::min<std::size_t>(live.size(), 1 + random() % 5);
                naive.deallocate(static_cast<std::size_t>(live[which] - base));
                ring.deallocate(live[which], 1, 1);
                live.erase(live.begin() + static_cast<std::ptrdiff_t>(which));
            }
            ASSERT_EQ(ring.stats().used_bytes, naive.used()) << "seed " << seed << ", step " << step;
            ASSERT_EQ(ring.stats().live, live.size());
        }
    }
}

}  // namespace
}  // namespace trtlab::core
