#include "trtlab/core/cpu_set.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

static_assert(std::forward_iterator<CpuSet::Iterator>);

std::vector<int> listed(const CpuSet& set) { return {set.begin(), set.end()}; }

TEST(CpuSet, IsReadAndWrittenAsTheKernelDoes) {
    EXPECT_EQ(CpuSet::parse("0-3,8,10-11\n"), (CpuSet{0, 1, 2, 3, 8, 10, 11}));
    EXPECT_EQ(CpuSet::parse("130,2-2,1,0-1"), (CpuSet{0, 1, 2, 130}));
    EXPECT_EQ(CpuSet::parse("65535").last(), 65535);
    EXPECT_EQ(CpuSet::parse(""), CpuSet());
    EXPECT_EQ(CpuSet::parse(" \n"), CpuSet());
    EXPECT_EQ((CpuSet{11, 10, 8, 3, 2, 1, 0}.to_string()), "0-3,8,10-11");
    EXPECT_EQ((CpuSet{0, 1}.to_string()), "0-1");
    EXPECT_EQ(CpuSet::range(63, 65).to_string(), "63-65");
    EXPECT_EQ(CpuSet().to_string(), "");
}

TEST(CpuSet, RefusesEveryOtherText) {
    for (const char* text : {"0-", "-1", "3-1", "0,,1", "0,", "a", "0-3x", "0x3", "99999999999", "0-99999999", "1 2",
                             ",", "0-4000000000", "65536", "0-65536", "0-1-2", "0-10:2/4", "+1", " 1"}) {
        EXPECT_THROW((void)CpuSet::parse(text), InvalidArgument) << text;
    }
}

TEST(CpuSet, SaysWhatIsWrongWithATextAndWhere) {
    const auto refusal = [](const std::string& text) {
        try {
            (void)CpuSet::parse(text);
        } catch (const InvalidArgument& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    EXPECT_THAT(refusal("0-3,x"),
                AllOf(HasSubstr("'0-3,x'"), HasSubstr("expected a number at character 5"), HasSubstr("\"0-3,8\"")));
    EXPECT_THAT(refusal("0-4000000000"), HasSubstr("above 65535"));
    EXPECT_THAT(refusal("7-3"), HasSubstr("backwards"));
    EXPECT_LT(refusal(std::string(1 << 20, 'x')).size(), 256u);
}

TEST(CpuSet, RefusesNumbersThatNoMachineHas) {
    CpuSet set;
    EXPECT_THROW(set.add(-1), InvalidArgument);
    EXPECT_THROW(set.add(CpuSet::kMost), InvalidArgument);
    EXPECT_THROW((void)CpuSet::range(3, 2), InvalidArgument);
    EXPECT_THROW((void)CpuSet::range(-1, 2), InvalidArgument);
    EXPECT_THROW((void)(CpuSet{0, 1 << 20}), InvalidArgument);
    EXPECT_TRUE(set.empty());
    EXPECT_FALSE(set.contains(-1));
    EXPECT_FALSE(set.contains(CpuSet::kMost));
    set.remove(-1);
    set.remove(CpuSet::kMost);
}

TEST(CpuSet, OfAMaskHasTheNumbersOfItsBits) {
    const std::array<unsigned long, 4> mask = {0b101, 0, 0b100, 0};
    EXPECT_EQ(CpuSet::of_mask(mask), (CpuSet{0, 2, 130}));
    EXPECT_EQ(CpuSet::of_mask({}), CpuSet());
    EXPECT_EQ(CpuSet::of_mask(CpuSet({0, 2, 130}).mask()), (CpuSet{0, 2, 130}));
    const std::vector<unsigned long> beyond(2 * CpuSet::kMost / 64, ~0UL);
    EXPECT_EQ(CpuSet::of_mask(beyond), CpuSet::range(0, CpuSet::kMost - 1));
}

TEST(CpuSet, ThatLostItsHighestIsEqualToOneThatNeverHadIt) {
    CpuSet set{1, 1500};
    set.remove(1500);
    EXPECT_EQ(set, CpuSet{1});
    EXPECT_EQ(set.mask().size(), 1u);
    set.remove(1);
    EXPECT_EQ(set, CpuSet());
    EXPECT_EQ(set.first(), -1);
    EXPECT_EQ(set.last(), -1);
}

/// The same operations on the standard's set, which is the model.
TEST(CpuSetProperty, RandomSetsAreWhatTheModelSays) {
    std::mt19937 random(20261124);
    const auto draw = [&](int most, int count) {
        std::set<int> model;
        for (int i = 0; i < count; ++i) model.insert(static_cast<int>(random() % static_cast<unsigned>(most)));
        return model;
    };
    const auto made = [](const std::set<int>& model) {
        CpuSet set;
        for (const int cpu : model) set.add(cpu);
        return set;
    };
    const auto list = [](const std::set<int>& model) { return std::vector<int>(model.begin(), model.end()); };
    for (int round = 0; round < 300; ++round) {
        const int most = std::array{3, 64, 65, 128, 1024, 4096, CpuSet::kMost}[random() % 7];
        const std::set<int> a = draw(most, static_cast<int>(random() % 200)),
                            b = draw(most, static_cast<int>(random() % 200));
        const CpuSet set_a = made(a), set_b = made(b);
        ASSERT_EQ(listed(set_a), list(a));
        ASSERT_EQ(set_a.count(), a.size());
        ASSERT_EQ(set_a.first(), a.empty() ? -1 : *a.begin());
        ASSERT_EQ(set_a.last(), a.empty() ? -1 : *a.rbegin());
        ASSERT_EQ(CpuSet::parse(set_a.to_string()), set_a) << set_a.to_string();
        ASSERT_EQ(CpuSet::of_mask(set_a.mask()), set_a);

        std::vector<int> both, either, only;
        std::ranges::set_intersection(a, b, std::back_inserter(both));
        std::ranges::set_union(a, b, std::back_inserter(either));
        std::ranges::set_difference(a, b, std::back_inserter(only));
        ASSERT_EQ(listed(set_a & set_b), both);
        ASSERT_EQ(listed(set_a | set_b), either);
        ASSERT_EQ(listed(set_a - set_b), only);
        ASSERT_EQ(set_a.count_common(set_b), both.size());
        ASSERT_EQ(set_a.contains(set_b), std::ranges::includes(a, b));
        ASSERT_TRUE(set_a.contains(set_a & set_b));
        ASSERT_EQ(set_a == set_b, a == b);
        const int any = static_cast<int>(random() % static_cast<unsigned>(most));
        ASSERT_EQ(set_a.contains(any), a.contains(any));
    }
}

}  // namespace
}  // namespace trtlab::core
