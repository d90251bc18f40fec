#include "trtlab/core/thread_pool.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "interruption.hpp"
#include "log_capture.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::yield_until;

/// Keeps the only worker of a pool of one busy until it is opened.
class Blocker {
public:
    explicit Blocker(ThreadPool& pool) {
        pool.post([latches = latches_] {
            latches->busy.count_down();
            latches->open.wait();
        });
        latches_->busy.wait();
    }
    ~Blocker() { open(); }
    void open() {
        if (!std::exchange(opened_, true)) latches_->open.count_down();
    }

private:
    struct Latches {
        std::latch busy{1}, open{1};
    };
    std::shared_ptr<Latches> latches_ = std::make_shared<Latches>();
    bool opened_ = false;
};

TEST(ThreadPool, RunsTasksOnItsWorkers) {
    ThreadPool pool(2);
    EXPECT_EQ(pool.threads(), 2u);
    EXPECT_NE(pool.submit([] { return std::this_thread::get_id(); }).get(), std::this_thread::get_id());
    EXPECT_EQ(pool.submit([] { return std::string("text"); }).get(), "text");
    pool.submit([] {}).get();
}

TEST(ThreadPool, HasAsManyThreadsAsTheProcessMayUseCpusByDefault) {
    EXPECT_GE(usable_cpus(), 1u);
    EXPECT_EQ(ThreadPool().threads(), usable_cpus());
}

TEST(ThreadPool, RunsTasksInOrderOfArrival) {
    ThreadPool pool(1);
    std::vector<int> order;
    {
        Blocker blocker(pool);
        for (int i = 0; i < 100; ++i) pool.post([&order, i] { order.push_back(i); });
        EXPECT_EQ(pool.stats().queued, 100u);
    }
    pool.close();
    ASSERT_EQ(order.size(), 100u);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
    EXPECT_EQ(pool.stats().executed, 101u);
}

TEST(ThreadPool, HandsATaskToAParkedWorkerEvenIfTheQueueHasNoUseForIt) {
    ThreadPool pool(ThreadPool::Options{.threads = 2, .max_queue = 1});
    Blocker blocker(pool);
    yield_until([&] { return pool.stats().idle == 1; });
    pool.submit([] {}).get();
    yield_until([&] { return pool.stats().idle == 1; });
    EXPECT_EQ(pool.stats().queued, 0u);
}

TEST(ThreadPool, FullQueueRefusesWithItsNameAndLimit) {
    ThreadPool pool(ThreadPool::Options{.threads = 1, .max_queue = 2, .name = "small"});
    Blocker blocker(pool);
    pool.post([] {});
    pool.post([] {});
    try {
        pool.post([] {}, 0s);
        FAIL();
    } catch (const Overloaded& error) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr("'small': 2 tasks wait"));
    }
    EXPECT_THROW(pool.post([] {}, 2ms), Overloaded);
    EXPECT_EQ(pool.stats().blocked_callers, 0u);
}

TEST(ThreadPool, TryPostLeavesTheTaskWithTheCallerWhenItCannotTakeIt) {
    ThreadPool pool(ThreadPool::Options{.threads = 1, .max_queue = 1});
    Blocker blocker(pool);
    std::atomic<int> runs{0};
    ThreadPool::Task first = [&] { ++runs; }, second = [&] { runs += 10; };
    EXPECT_TRUE(pool.try_post(first));
    EXPECT_FALSE(first);
    EXPECT_FALSE(pool.try_post(second));
    EXPECT_TRUE(second);
    blocker.open();
    yield_until([&] { return pool.stats().idle == 1; });
    EXPECT_TRUE(pool.try_post(second));
    pool.close();
    EXPECT_EQ(runs, 11);
}

TEST(ThreadPool, BlockedPostersAreServedInOrderOfArrival) {
    ThreadPool pool(ThreadPool::Options{.threads = 1, .max_queue = 1});
    std::vector<int> order;
    {
        Blocker blocker(pool);
        pool.post([&] { order.push_back(0); });
        std::vector<std::jthread> posters;
        for (std::size_t i = 1; i <= 4; ++i) {
            posters.emplace_back([&, i] { pool.post([&order, i] { order.push_back(static_cast<int>(i)); }); });
            yield_until([&] { return pool.stats().blocked_callers == i; });
        }
        ThreadPool::Task newcomer = [] {};
        EXPECT_FALSE(pool.try_post(newcomer));
        blocker.open();
    }
    pool.close();
    EXPECT_THAT(order, ::testing::ElementsAre(0, 1, 2, 3, 4));
}

TEST(ThreadPool, KeepsExceptionsForTheFuture) {
    ThreadPool pool(1);
    const auto future = pool.submit([]() -> int { throw NotFound("what the task threw"); });
    EXPECT_THROW((void)future.get(), NotFound);
    EXPECT_EQ(pool.submit([] { return 1; }).get(), 1);
}

TEST(ThreadPool, LogsWhatAPostedTaskThrowsAndGoesOn) {
    testing::LogCapture log;
    ThreadPool pool(ThreadPool::Options{.threads = 1, .name = "logged"});
    pool.post([] { throw std::runtime_error("nobody waits for this"); });
    EXPECT_EQ(pool.submit([] { return 1; }).get(), 1);
    ASSERT_EQ(log.messages().size(), 1u);
    EXPECT_THAT(log.messages()[0],
                ::testing::AllOf(::testing::HasSubstr("'logged'"), ::testing::HasSubstr("nobody waits")));
}

TEST(ThreadPool, TakesTasksThatCanOnlyBeMoved) {
    ThreadPool pool(1);
    EXPECT_EQ(pool.submit([box = std::make_unique<int>(6)] { return *box; }).get(), 6);
    const auto moved_out = pool.submit([box = std::make_unique<int>(7)]() mutable { return std::move(box); });
    EXPECT_EQ(*moved_out.get(), 7);
}

TEST(ThreadPool, TasksMaySubmitFurtherTasks) {
    ThreadPool pool(2);
    const auto outer = pool.submit([&pool] { return pool.submit([&pool] { return pool.submit([] { return 3; }); }); });
    EXPECT_EQ(outer.get().get().get(), 3);
}

TEST(ThreadPool, CancelledTaskNeverRuns) {
    ThreadPool pool(1);
    std::atomic<int> runs{0};
    Blocker blocker(pool);
    const auto future = pool.submit([&] { return ++runs; });
    EXPECT_TRUE(future.cancel());
    blocker.open();
    pool.close();
    EXPECT_EQ(runs, 0);
    EXPECT_THROW((void)future.get(), Cancelled);
}

TEST(ThreadPool, RefusesEmptyTasksAndAQueueWithoutRoom) {
    ThreadPool pool(1);
    EXPECT_THROW(pool.post({}), InvalidArgument);
    ThreadPool::Task empty;
    EXPECT_THROW((void)pool.try_post(empty), InvalidArgument);
    EXPECT_THROW(ThreadPool(ThreadPool::Options{.threads = 1, .max_queue = 0}), InvalidArgument);
}

TEST(ThreadPool, NamesItsThreadsWithinTheSystemsFifteenBytes) {
    const auto name_of_worker = [](const std::string& pool_name) {
        ThreadPool pool(ThreadPool::Options{.threads = 1, .name = pool_name});
        Future<std::string> name;
        do {  // the name is set by the constructor, which the worker does not wait for
            name = pool.submit([] {
                char text[16] = {};
                pthread_getname_np(pthread_self(), text, sizeof text);
                return std::string(text);
            });
        } while (name.get().find("-0") == std::string::npos);
        return name.get();
    };
    EXPECT_EQ(name_of_worker("ocr"), "ocr-0");
    EXPECT_EQ(name_of_worker("a-name-that-is-too-long"), "a-name-that-i-0");
}

TEST(ThreadPool, LeavesTheApplicationsSignalsToOtherThreads) {
    ThreadPool pool(1);
    const sigset_t blocked = pool.submit([] {
                                     sigset_t mask;
                                     pthread_sigmask(SIG_SETMASK, nullptr, &mask);
                                     return mask;
                                 })
                                 .get();
    for (int signal : {SIGINT, SIGTERM, SIGUSR1, SIGCHLD}) EXPECT_EQ(sigismember(&blocked, signal), 1) << signal;
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) EXPECT_EQ(sigismember(&blocked, fault), 0) << fault;
}

TEST(ThreadPool, InterruptedPostLeavesTheQueueAsItWas) {
    testing::InterruptingSignal signal;
    ThreadPool pool(ThreadPool::Options{.threads = 1, .max_queue = 1});
    Blocker blocker(pool);
    pool.post([] {});
    std::atomic<bool> thrown{false};
    std::atomic<int> runs{0};
    std::thread poster([&] {
        try {
            pool.post([&] { ++runs; }, WaitOptions(kForever, [] { throw testing::Interrupted(); }));
        } catch (const testing::Interrupted&) {
            thrown = true;
        }
    });
    signal.interrupt_until(poster, [&] { return thrown.load(); });
    poster.join();
    EXPECT_EQ(pool.stats().blocked_callers, 0u);
    EXPECT_EQ(pool.stats().queued, 1u);
    blocker.open();
    pool.close();
    EXPECT_EQ(runs, 0);
}

TEST(ThreadPool, InterruptionThatComesTogetherWithThePlaceIsNotLost) {
    testing::InterruptingSignal signal;
    static ThreadPool* pool;
    static Blocker* blocker;
    ThreadPool owned(ThreadPool::Options{.threads = 1, .max_queue = 1});
    pool = &owned;
    Blocker blocks(owned);
    blocker = &blocks;
    owned.post([] {});
    std::atomic<bool> thrown{false};
    std::atomic<int> runs{0};
    std::thread poster([&] {
        try {
            (void)pool->submit([&] { ++runs; }, WaitOptions(kForever, [] {
                                   blocker->open();
                                   yield_until([] { return pool->stats().blocked_callers == 0; });  // the task is taken
                                   throw testing::Interrupted();
                               }));
        } catch (const testing::Interrupted&) {
            thrown = true;
        }
    });
    signal.interrupt_until(poster, [&] { return thrown.load(); });
    poster.join();
    owned.close();
    EXPECT_LE(runs, 1);  // cancelled, unless a worker was faster
}

TEST(ThreadPoolStress, EveryTaskRunsOnceAndNoWakeUpIsLost) {
    constexpr int kProducers = 4, kPerProducer = 4000;
    std::atomic<int> runs{0}, accepted{0};
    {
        ThreadPool pool(ThreadPool::Options{.threads = 3, .max_queue = 4});
        std::latch start(kProducers);
        std::vector<std::jthread> producers;
        for (int producer = 0; producer < kProducers; ++producer) {
            producers.emplace_back([&, producer] {
                start.arrive_and_wait();
                for (int i = 0; i < kPerProducer; ++i) {
                    try {
                        pool.post([&runs] { runs.fetch_add(1, std::memory_order_relaxed); },
                                  producer == 0 ? WaitOptions(std::chrono::microseconds(i % 20)) : WaitOptions());
                        ++accepted;
                    } catch (const Overloaded&) {
                    }
                    if (i % 64 == 0) pool.submit([] {}).get();  // lets workers park now and then
                }
            });
        }
    }
    EXPECT_EQ(runs, accepted);
    EXPECT_GE(accepted, (kProducers - 1) * kPerProducer);
}

}  // namespace
}  // namespace trtlab::core
