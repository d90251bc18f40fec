#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <latch>
#include <string>
#include <vector>

#include "log_capture.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/thread_pool.hpp"

namespace trtlab::core {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAreArray;

using Pinning = ThreadPool::Pinning;

/// What each of the workers may run on.
std::vector<std::string> places(ThreadPool& pool) {
    std::latch all(static_cast<std::ptrdiff_t>(pool.threads()));  // so that each has one of the tasks
    std::vector<Future<std::string>> asked;
    for (std::size_t i = 0; i < pool.threads(); ++i) {
        asked.push_back(pool.submit([&] {
            all.arrive_and_wait();
            return thread_affinity().to_string();
        }));
    }
    std::vector<std::string> places;
    for (const auto& each : asked) places.push_back(each.get());
    return places;
}

TEST(ThreadPoolPinning, GivesEachWorkerOneCpuInTurn) {
    const CpuSet cpus = process_cpus();
    const std::size_t threads = 2 * cpus.count();
    ThreadPool pool(ThreadPool::Options{.threads = threads, .cpus = cpus});
    std::vector<std::string> expected;
    for (const int cpu : cpus) expected.insert(expected.end(), 2, std::to_string(cpu));
    EXPECT_THAT(places(pool), UnorderedElementsAreArray(expected));
    EXPECT_EQ(pool.stats().pinned, threads);
    EXPECT_THAT(pool.stats().pin_refusal, IsEmpty());
}

TEST(ThreadPoolPinning, LetsAllWorkersShareTheSet) {
    const CpuSet cpus = process_cpus();
    ThreadPool pool(ThreadPool::Options{.threads = 2, .cpus = cpus, .pinning = Pinning::shared});
    EXPECT_THAT(places(pool), ElementsAre(cpus.to_string(), cpus.to_string()));
    EXPECT_EQ(pool.stats().pinned, 2u);
}

TEST(ThreadPoolPinning, HasAsManyWorkersAsItWasGivenCpus) {
    EXPECT_EQ(ThreadPool(ThreadPool::Options{.cpus = process_cpus()}).threads(), process_cpus().count());
    EXPECT_EQ(ThreadPool(ThreadPool::Options{.cpus = {process_cpus().first(), 60000}}).threads(), 1u);
}

TEST(ThreadPoolPinning, LeavesTheThreadThatMakesThePoolWhereItWas) {
    const CpuSet before = thread_affinity();
    ThreadPool pool(ThreadPool::Options{.threads = 2, .cpus = {process_cpus().last()}});
    EXPECT_EQ(thread_affinity(), before);
    EXPECT_THAT(places(pool),
                ElementsAre(std::to_string(process_cpus().last()), std::to_string(process_cpus().last())));
}

// As in a container that was given other CPUs than the caller thinks.
TEST(ThreadPoolPinning, ThatIsRefusedIsLoggedOnceAndThePoolWorksWithout) {
    testing::LogCapture log;
    for (const Pinning pinning : {Pinning::one_each, Pinning::shared}) {
        ThreadPool pool(
            ThreadPool::Options{.threads = 2, .name = "astray", .cpus = {60000, 60001}, .pinning = pinning});
        EXPECT_EQ(pool.submit([] { return 1; }).get(), 1);
        const ThreadPool::Stats stats = pool.stats();
        EXPECT_EQ(stats.threads, 2u);
        EXPECT_EQ(stats.pinned, 0u);
        EXPECT_THAT(stats.pin_refusal, AllOf(HasSubstr("60000-60001"), HasSubstr("may use none of them")));
    }
    ASSERT_EQ(log.messages().size(), 2u);
    EXPECT_THAT(log.messages()[0], AllOf(HasSubstr("'astray' runs without its pins"), HasSubstr("60000")));
}

TEST(ThreadPoolPinning, UsesThoseOfTheCpusThatTheProcessMayUse) {
    ThreadPool pool(ThreadPool::Options{.threads = 2, .cpus = {process_cpus().first(), 60000}});
    EXPECT_THAT(places(pool),
                ElementsAre(std::to_string(process_cpus().first()), std::to_string(process_cpus().first())));
    EXPECT_EQ(pool.stats().pinned, 2u);
}

TEST(ThreadPoolPinning, NoTaskOfManyRunsOffItsWorkersCpu) {
    ThreadPool pool(ThreadPool::Options{.threads = 2, .cpus = process_cpus()});
    std::atomic<int> off{0};
    for (int i = 0; i < 100'000; ++i) {
        pool.post([&off] {
            thread_local const CpuSet mine = thread_affinity();
            if (mine.count() != 1 || sched_getcpu() != mine.first()) ++off;
        });
    }
    pool.close();
    EXPECT_EQ(off, 0);
    EXPECT_EQ(pool.stats().executed, 100'000u);
}

TEST(ThreadPoolPinning, OfMoreThreadsThanThereCanBeIsRefused) {
    EXPECT_THROW(ThreadPool(std::size_t{1} << 40), InvalidArgument);
}

}  // namespace
}  // namespace trtlab::core
