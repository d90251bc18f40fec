#include "trtlab/core/histogram.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

constexpr double kPercents[] = {0, 0.1, 1, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99, 100};

Histogram histogram_of(const std::vector<std::uint64_t>& values) {
    Histogram histogram;
    for (const std::uint64_t value : values) histogram.record(value);
    return histogram;
}

/// Nearest rank, on the sorted values themselves. In integers, where nothing is rounded.
std::uint64_t exact_percentile(const std::vector<std::uint64_t>& sorted, double percent) {
    const auto hundredths = static_cast<std::uint64_t>(std::llround(percent * 100));
    const std::uint64_t rank = (hundredths * sorted.size() + 9999) / 10000;
    return sorted[std::max<std::uint64_t>(rank, 1) - 1];
}

void expect_near(std::uint64_t got, std::uint64_t exact) {
    EXPECT_LE(std::abs(static_cast<double>(got) - static_cast<double>(exact)),
              static_cast<double>(exact) * Histogram::kMaxRelativeError)
        << got << " instead of " << exact;
}

std::vector<std::vector<std::uint64_t>> distributions() {
    std::mt19937_64 random(20);
    std::vector<std::vector<std::uint64_t>> all;
    for (const std::size_t size : {1u, 2u, 3u, 10u, 999u, 1000u, 1001u, 20'000u}) {
        std::vector<std::uint64_t> small, wide, latencies, spikes;
        std::lognormal_distribution<double> lognormal(13, 2);
        for (std::size_t i = 0; i < size; ++i) {
            small.push_back(random() % 300);
            wide.push_back(random() >> (random() % 64));
            latencies.push_back(static_cast<std::uint64_t>(lognormal(random)));
            spikes.push_back(random() % 100 == 0 ? 1'000'000'000 : 100'000 + random() % 10);
        }
        for (auto* values : {&small, &wide, &latencies, &spikes}) all.push_back(std::move(*values));
    }
    return all;
}

TEST(Histogram, PercentilesAreWithinTheBoundOfTheSortedValues) {
    for (auto& values : distributions()) {
        const Histogram histogram = histogram_of(values);
        std::sort(values.begin(), values.end());
        for (const double percent : kPercents) {
            SCOPED_TRACE(testing::Message() << percent << " % of " << values.size());
            expect_near(histogram.percentile(percent), exact_percentile(values, percent));
        }
    }
}

TEST(Histogram, CountMinimumAndMaximumAreExactAndTheMeanNearlySo) {
    for (const auto& values : distributions()) {
        const Histogram histogram = histogram_of(values);
        EXPECT_EQ(histogram.count(), values.size());
        EXPECT_EQ(histogram.min(), *std::min_element(values.begin(), values.end()));
        EXPECT_EQ(histogram.max(), *std::max_element(values.begin(), values.end()));
        EXPECT_EQ(histogram.percentile(100), histogram.max());
        EXPECT_EQ(histogram.percentile(0), histogram.min());
        long double sum = 0;
        for (const std::uint64_t value : values) sum += static_cast<long double>(value);
        const double mean = static_cast<double>(sum / static_cast<long double>(values.size()));
        EXPECT_NEAR(histogram.mean(), mean, mean * 1e-12);
    }
}

TEST(Histogram, EveryPowerOfTwoAndItsNeighboursKeepTheBound) {
    for (unsigned bit = 0; bit < 64; ++bit) {
        const std::uint64_t power = std::uint64_t{1} << bit;
        for (const std::uint64_t value : {power - 1, power, power + 1, power + power / 3}) {
            // Between a smaller and a larger value, so that the answer is the bucket's, and not the exact minimum or maximum.
            const Histogram histogram = histogram_of({0, value, std::numeric_limits<std::uint64_t>::max()});
            expect_near(histogram.percentile(50), value);
        }
    }
}

TEST(Histogram, SmallValuesAreExact) {
    for (std::uint64_t value = 0; value < 2 * Histogram::kSubBuckets; ++value) {
        EXPECT_EQ(histogram_of({0, value, 1'000'000}).percentile(50), value);
    }
}

TEST(Histogram, PercentilesNeverDecreaseWithThePercentage) {
    for (const auto& values : distributions()) {
        const Histogram histogram = histogram_of(values);
        std::uint64_t before = 0;
        for (int tenth = 0; tenth <= 1000; ++tenth) {
            const std::uint64_t value = histogram.percentile(tenth / 10.0);
            EXPECT_GE(value, before);
            before = value;
        }
    }
}

TEST(Histogram, MergingIsTheSameAsRecordingEverythingInOne) {
    const auto all = distributions();
    Histogram merged, together;
    for (const auto& values : all) {
        merged.merge(histogram_of(values));
        for (const std::uint64_t value : values) together.record(value);
    }
    EXPECT_EQ(merged.count(), together.count());
    EXPECT_EQ(merged.min(), together.min());
    EXPECT_EQ(merged.max(), together.max());
    EXPECT_NEAR(merged.mean(), together.mean(), together.mean() * 1e-9);
    for (const double percent : kPercents) EXPECT_EQ(merged.percentile(percent), together.percentile(percent));
}

TEST(Histogram, MergingAnEmptyOneChangesNothing) {
    Histogram histogram = histogram_of({7, 9});
    histogram.merge(Histogram());
    EXPECT_EQ(histogram.count(), 2u);
    EXPECT_EQ(histogram.min(), 7u);
    EXPECT_EQ(histogram.max(), 9u);

    Histogram empty;
    empty.merge(histogram);
    EXPECT_EQ(empty.min(), 7u);
    EXPECT_EQ(empty.percentile(50), 7u);
}

TEST(Histogram, AnEmptyOneAnswersZero) {
    const Histogram histogram;
    EXPECT_EQ(histogram.count(), 0u);
    EXPECT_EQ(histogram.min(), 0u);
    EXPECT_EQ(histogram.max(), 0u);
    EXPECT_EQ(histogram.mean(), 0.0);
    EXPECT_EQ(histogram.percentile(99), 0u);
}

TEST(Histogram, APercentageThatIsNoneIsRefused) {
    const Histogram histogram = histogram_of({1, 2, 3});
    for (const double percent : {-0.1, 100.1, std::nan(""), std::numeric_limits<double>::infinity()}) {
        EXPECT_THROW(histogram.percentile(percent), InvalidArgument) << percent;
    }
}

}  // namespace
}  // namespace trtlab::core
