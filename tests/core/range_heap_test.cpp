#include "trtlab/core/range_heap.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <vector>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

constexpr std::size_t kGranule = 64;

void* address(std::uintptr_t at) { return reinterpret_cast<void*>(at); }

/// Granule by granule: whose each is, or which live block it is part of.
class NaiveHeap {
public:
    static constexpr int kFree = 1'000'000;  // and the owner's number

    void add_region(std::uintptr_t begin, std::size_t size, int owner) {
        regions_.push_back({begin, std::vector<int>(size / kGranule, kFree + owner)});
    }
    /// The smallest run of free granules of the owner's that has room, the lowest of those that are alike. The heap promises
    /// this where no alignment asks for more than a granule; else any that fits is right.
    std::optional<std::uintptr_t> best(std::size_t size, std::size_t alignment, int owner) const {
        std::optional<std::pair<std::size_t, std::uintptr_t>> found;
        for_each_run([&](std::uintptr_t begin, std::size_t bytes, int value) {
            const std::size_t gap = (alignment - begin % alignment) % alignment;
            if (value != kFree + owner || bytes < gap + size) return;
            if (!found || std::pair(bytes, begin) < *found) found = {bytes, begin};
        });
        return found ? std::optional(found->second) : std::nullopt;
    }
    bool is_free(std::uintptr_t at, std::size_t size, int owner) const {
        bool free = true;
        each(at, size, [&](const int& value) { free = free && value == kFree + owner; });
        return free;
    }
    void set(std::uintptr_t at, std::size_t size, int value) {
        each(at, size, [&](const int& place) { const_cast<int&>(place) = value; });
    }
    void hand_over(int from, int to) {
        for (Region& region : regions_)
            std::replace(region.values.begin(), region.values.end(), kFree + from, kFree + to);
    }
    RangeHeap::Stats stats() const {
        RangeHeap::Stats stats;
        for_each_run([&](std::uintptr_t, std::size_t bytes, int value) {
            value >= kFree ? (stats.free_bytes += bytes, ++stats.free_ranges)
                           : (stats.live_bytes += bytes, ++stats.live_ranges);
        });
        return stats;
    }

private:
    struct Region {
        std::uintptr_t begin;
        std::vector<int> values;
    };
    template <class F>
    void each(std::uintptr_t at, std::size_t size, F f) const {
        for (const Region& region : regions_) {
            if (at < region.begin || at >= region.begin + region.values.size() * kGranule) continue;
            for (std::size_t i = 0; i < size / kGranule; ++i) f(region.values[(at - region.begin) / kGranule + i]);
        }
    }
    template <class F>
    void for_each_run(F f) const {
        for (const Region& region : regions_) {
            for (std::size_t i = 0, end; i < region.values.size(); i = end) {
                for (end = i + 1; end < region.values.size() && region.values[end] == region.values[i];) ++end;
                f(region.begin + i * kGranule, (end - i) * kGranule, region.values[i]);
            }
        }
    }
    std::vector<Region> regions_;
};

void expect_same(const RangeHeap::Stats& got, const RangeHeap::Stats& expected) {
    EXPECT_EQ(got.free_bytes, expected.free_bytes);
    EXPECT_EQ(got.free_ranges, expected.free_ranges) << "neighbours that are free are one";
    EXPECT_EQ(got.live_bytes, expected.live_bytes);
    EXPECT_EQ(got.live_ranges, expected.live_ranges);
}

TEST(RangeHeap, DoesWhatANaiveHeapOfGranulesDoes) {
    for (unsigned seed = 0; seed < 6; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937 random(seed);
        RangeHeap heap(kGranule, kGranule);
        NaiveHeap naive;
        const int owners = seed % 2 == 0 ? 1 : 3;
        for (int owner = 1; owner < owners; ++owner) ASSERT_EQ(heap.add_owner(), static_cast<unsigned>(owner));
        // Two of them touch: ranges of different regions are never one.
        const std::pair<std::uintptr_t, std::size_t> regions[] = {{64, 8192}, {64 + 8192, 4096}, {1 << 20, 8192}};
        for (const auto& [begin, size] : regions) {
            heap.add_region({address(begin), size});
            naive.add_region(begin, size, 0);
        }
        struct Live {
            std::uintptr_t at;
            std::size_t size;
        };
        std::vector<Live> live;
        int number = 0;
        for (int step = 0; step < 3000; ++step) {
            const int owner = static_cast<int>(random() % static_cast<unsigned>(owners));
            const unsigned dice = random() % 100;
            if (dice < 55) {
                const std::size_t asked = 1 + random() % (dice < 5 ? 5000 : 600);
                const std::size_t size = (asked + kGranule - 1) / kGranule * kGranule;
                const std::size_t alignment = std::size_t{1} << random() % (dice < 15 ? 12 : 7);
                const std::optional<std::uintptr_t> best = naive.best(size, alignment, owner);
                const auto got =
                    reinterpret_cast<std::uintptr_t>(heap.take(asked, alignment, static_cast<RangeHeap::Owner>(owner)));
                ASSERT_EQ(got != 0, best.has_value()) << "step " << step;
                if (got == 0) continue;
                if (alignment <= kGranule) {
                    ASSERT_EQ(got, *best) << "step " << step;
                }
                ASSERT_EQ(got % alignment, 0u);
                ASSERT_TRUE(naive.is_free(got, size, owner)) << "step " << step;
                naive.set(got, size, ++number);
                live.push_back({got, size});
            } else if (dice < 98) {
                if (live.empty()) continue;
                std::swap(live[random() % live.size()], live.back());
                const Live gone = live.back();
                live.pop_back();
                naive.set(gone.at, gone.size, NaiveHeap::kFree + owner);
                ASSERT_EQ(heap.put(address(gone.at), static_cast<RangeHeap::Owner>(owner)).size_bytes, gone.size);
                ASSERT_EQ(heap.put(address(gone.at), static_cast<RangeHeap::Owner>(owner)).size_bytes, 0u);
            } else {
                const int to = static_cast<int>(random() % static_cast<unsigned>(owners));
                naive.hand_over(owner, to);
                heap.hand_over(static_cast<RangeHeap::Owner>(owner), static_cast<RangeHeap::Owner>(to));
            }
            expect_same(heap.stats(), naive.stats());
            if (::testing::Test::HasFailure()) return;
        }
        for (const Live& gone : live) heap.put(address(gone.at));
        for (int owner = 1; owner < owners; ++owner) heap.hand_over(static_cast<RangeHeap::Owner>(owner), 0);
        EXPECT_EQ(heap.stats().free_ranges, 3u) << "as many as regions";
        EXPECT_EQ(heap.stats().live_bytes, 0u);
        EXPECT_EQ(heap.largest(), 8192u);
    }
}

TEST(RangeHeap, RegionThatIsFreeAgainCanBeRemoved) {
    RangeHeap heap(kGranule, kGranule);
    heap.add_region({address(1 << 16), 1000});  // 960 of them
    heap.add_region({address(1 << 20), 640});
    void* const a = heap.take(300, 1);
    void* const b = heap.take(300, 1);
    EXPECT_EQ(heap.put(a).region.data, nullptr);
    const RangeHeap::Freed freed = heap.put(b);
    ASSERT_EQ(freed.region.data, address(1 << 20));
    EXPECT_EQ(freed.region.size_bytes, 640u);
    void* const c = heap.take(700, 1);
    EXPECT_FALSE(heap.remove_region({address(1 << 16), 1000})) << "part of it is live";
    EXPECT_TRUE(heap.remove_region(freed.region));
    EXPECT_FALSE(heap.remove_region(freed.region));
    EXPECT_EQ(heap.stats().free_bytes, 960u - 704);
    heap.put(c);
    EXPECT_EQ(heap.take(961, 1), nullptr);
    EXPECT_EQ(heap.take(960, 1), address(1 << 16));
}

TEST(RangeHeap, RestThatIsTooSmallStaysWithTheBlock) {
    RangeHeap heap(kGranule, 256);
    heap.add_region({address(1 << 16), 1024});
    void* const block = heap.take(800, 1);
    EXPECT_EQ(heap.stats().free_ranges, 0u);
    EXPECT_EQ(heap.put(block).size_bytes, 1024u);
    EXPECT_NE(heap.take(768, 1), nullptr);
    EXPECT_EQ(heap.largest(), 256u);
}

TEST(RangeHeap, OwnersDoNotShareUntilOneHandsOver) {
    RangeHeap heap(kGranule, kGranule);
    const RangeHeap::Owner other = heap.add_owner();
    heap.add_region({address(1 << 16), 1024});
    EXPECT_EQ(heap.take(64, 1, other), nullptr);
    void* const first = heap.take(512, 1);
    heap.put(first, other);
    EXPECT_EQ(heap.stats().free_ranges, 2u) << "neighbours of two owners are two";
    EXPECT_EQ(heap.take(1024, 1, other), nullptr);
    heap.hand_over(0, other);
    EXPECT_EQ(heap.take(1024, 1, other), first);
}

TEST(RangeHeap, SizesBeyondTheAddressSpaceAreNotThere) {
    RangeHeap heap(kGranule, kGranule);
    heap.add_region({address(1 << 16), 1024});
    EXPECT_EQ(heap.take(SIZE_MAX, 1), nullptr);
    EXPECT_EQ(heap.take(SIZE_MAX - 200, std::size_t{1} << 40), nullptr);
    EXPECT_EQ(heap.take(64, std::size_t{1} << 63), nullptr);
    EXPECT_THROW(RangeHeap(48, 48), InvalidArgument);
    EXPECT_THROW(RangeHeap(0, 48), InvalidArgument);
}

}  // namespace
}  // namespace trtlab::core
