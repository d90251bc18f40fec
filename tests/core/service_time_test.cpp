#include "trtlab/core/service_time.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;

double us(std::chrono::nanoseconds time) { return static_cast<double>(time.count()) / 1e3; }

TEST(ServiceTime, KnowsNothingBeforeItHasSeenSomething) {
    const ServiceTime time;
    EXPECT_EQ(time.estimate(8), 0ns);
    EXPECT_EQ(time.rows_within(0ns, 8), 8u);
}

TEST(ServiceTime, TellsTheFixedPartFromTheRows) {
    ServiceTime time;
    for (int i = 0; i < 100; ++i) {
        for (const std::size_t rows : {1u, 3u, 8u}) time.learn(rows, 2ms + 500us * rows);
    }
    for (const std::size_t rows : {1u, 5u, 16u}) {
        EXPECT_NEAR(us(time.estimate(rows)), us(2ms + 500us * rows), 150) << rows;
    }
    EXPECT_EQ(time.rows_within(1ms, 8), 0u);
    EXPECT_EQ(time.rows_within(4900us, 8), 5u);
    EXPECT_EQ(time.rows_within(1s, 8), 8u);
}

TEST(ServiceTime, BatchesOfOneSizeAreTakenToBeHalfFixed) {
    ServiceTime time;
    for (int i = 0; i < 50; ++i) time.learn(4, 4ms);
    EXPECT_NEAR(us(time.estimate(4)), 4000, 1);
    EXPECT_NEAR(us(time.estimate(8)), 6000, 1);
    EXPECT_NEAR(us(time.estimate(2)), 3000, 1);
}

TEST(ServiceTime, OneBatchThatWasHeldUpCountsForLittle) {
    ServiceTime time;
    for (int i = 0; i < 50; ++i) time.learn(1 + static_cast<std::size_t>(i) % 8, 1ms);
    time.learn(4, 10s);
    EXPECT_LT(time.estimate(4), 2ms);
}

TEST(ServiceTime, AnEngineThatBecameSlowerIsBelieved) {
    ServiceTime time;
    for (int i = 0; i < 50; ++i) time.learn(1 + static_cast<std::size_t>(i) % 8, 1ms);
    for (int i = 0; i < 100; ++i) time.learn(1 + static_cast<std::size_t>(i) % 8, 20ms);
    EXPECT_GT(time.estimate(4), 19ms);
    EXPECT_LT(time.estimate(4), 25ms);
}

TEST(ServiceTime, IsCarefulWhereTimesVary) {
    std::mt19937 random(1);
    std::uniform_real_distribution<double> spread(0.5, 1.5);
    ServiceTime time;
    int late = 0;
    for (int i = 0; i < 2000; ++i) {
        const std::size_t rows = 1 + random() % 8;
        const std::chrono::nanoseconds took(static_cast<std::int64_t>(spread(random) * 1e6));
        late += i >= 100 && took > time.estimate(rows) ? 1 : 0;
        time.learn(rows, took);
    }
    EXPECT_LT(late, 100);
}

TEST(ServiceTime, TakesAnyTimeThereIs) {
    ServiceTime time;
    for (const auto took : {0ns, -5ns, std::chrono::nanoseconds::max(), 1ns}) time.learn(SIZE_MAX, took);
    EXPECT_GE(time.estimate(SIZE_MAX), 0ns);
    EXPECT_LE(time.rows_within(std::chrono::nanoseconds::max(), 7), 7u);
    EXPECT_EQ(time.rows_within(std::chrono::nanoseconds::min(), 7), 0u);
}

}  // namespace
}  // namespace trtlab::core
