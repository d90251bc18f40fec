#include "trtlab/core/pool.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "interruption.hpp"
#include "log_capture.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::yield_until;

TEST(Pool, LeasesEveryItemOnceAtStableAddresses) {
    Pool<int> pool({1, 2, 3});
    std::set<int*> first, second;
    for (auto* addresses : {&first, &second}) {
        std::vector<Lease<int>> leases;
        for (int i = 0; i < 3; ++i) {
            leases.push_back(pool.acquire(0s));
            addresses->insert(leases.back().get());
        }
        EXPECT_THROW((void)pool.acquire(0s), Timeout);
    }
    EXPECT_EQ(first.size(), 3u);
    EXPECT_EQ(first, second);
}

TEST(Pool, LeaseReturnsItemWhenUserThrows) {
    Pool<int> pool({7});
    try {
        const Lease<int> lease = pool.acquire();
        EXPECT_EQ(*lease, 7);
        throw std::runtime_error("the user's");
    } catch (const std::runtime_error&) {
    }
    EXPECT_EQ(pool.stats().free, 1u);
}

TEST(Pool, ReleaseReturnsTheItemAtOnceAndOnlyOnce) {
    Pool<int> pool({1});
    Lease<int> lease = pool.acquire();
    lease.release();
    EXPECT_FALSE(lease);
    lease.release();
    EXPECT_EQ(pool.stats().free, 1u);
    Lease<int>().release();
}

TEST(Pool, TryAcquireNeverWaits) {
    Pool<int> pool({1});
    Lease<int> lease = pool.try_acquire();
    ASSERT_TRUE(lease);
    EXPECT_FALSE(pool.try_acquire());
    lease.release();
    EXPECT_TRUE(pool.try_acquire());
}

TEST(Pool, AcquireGivesUpWhenItsTimeIsOver) {
    Pool<int> pool({1});
    const Lease<int> lease = pool.acquire();
    EXPECT_THROW((void)pool.acquire(0s), Timeout);
    EXPECT_THROW((void)pool.acquire(-1s), Timeout);
    EXPECT_THROW((void)pool.acquire(2ms), Timeout);
    EXPECT_EQ(pool.stats().waiting, 0u);
    EXPECT_EQ(pool.stats().free, 0u);
}

TEST(Pool, EmptyOneMakesEverybodyWait) {
    Pool<int> pool({});
    EXPECT_FALSE(pool.try_acquire());
    EXPECT_THROW((void)pool.acquire(1ms), Timeout);
}

TEST(Pool, ServesWaitersInOrderOfArrival) {
    constexpr int kWaiters = 5;
    Pool<int> pool({0});
    Lease<int> lease = pool.acquire();
    std::vector<int> order;  // written by whoever holds the only item
    std::vector<std::jthread> threads;
    for (int i = 0; i < kWaiters; ++i) {
        threads.emplace_back([&, i] {
            const Lease<int> mine = pool.acquire();
            order.push_back(i);
        });
        yield_until([&] { return pool.stats().waiting == static_cast<std::size_t>(i + 1); });
    }
    lease.release();
    threads.clear();
    EXPECT_THAT(order, ::testing::ElementsAre(0, 1, 2, 3, 4));
    EXPECT_EQ(pool.stats().acquired, kWaiters + 1u);
}

TEST(Pool, NewcomerDoesNotOvertakeAWaiter) {
    Pool<int> pool({0});
    Lease<int> lease = pool.acquire();
    std::latch may_return(1);
    std::jthread waiting([&] {
        const Lease<int> mine = pool.acquire();
        may_return.wait();
    });
    yield_until([&] { return pool.stats().waiting == 1; });
    lease.release();  // handed to the waiter here and now, whether it has woken up or not
    EXPECT_EQ(pool.stats().waiting, 0u);
    EXPECT_FALSE(pool.try_acquire());
    may_return.count_down();
}

TEST(Pool, WaiterThatGivesUpLeavesTheOthersInOrder) {
    Pool<int> pool({0});
    Lease<int> lease = pool.acquire();
    std::vector<int> order;
    std::jthread first([&] {
        const Lease<int> mine = pool.acquire();
        order.push_back(1);
    });
    yield_until([&] { return pool.stats().waiting == 1; });
    std::jthread([&] { EXPECT_THROW((void)pool.acquire(1ms), Timeout); });
    std::jthread third([&] {
        const Lease<int> mine = pool.acquire();
        order.push_back(3);
    });
    yield_until([&] { return pool.stats().waiting == 2; });
    lease.release();
    first.join();
    third.join();
    EXPECT_THAT(order, ::testing::ElementsAre(1, 3));
}

TEST(Pool, CloseWakesWaitersAndRefusesNewLeases) {
    Pool<int> pool({0});
    Lease<int> lease = pool.acquire();
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i) {
        threads.emplace_back([&] { EXPECT_THROW((void)pool.acquire(), Closed); });
    }
    yield_until([&] { return pool.stats().waiting == 3; });
    EXPECT_FALSE(pool.closed());
    pool.close();
    threads.clear();
    pool.close();
    EXPECT_TRUE(pool.closed());
    EXPECT_THROW((void)pool.try_acquire(), Closed);
    EXPECT_THROW((void)pool.acquire(0s), Closed);
    *lease = 5;  // what is out stays valid
    lease.release();
    EXPECT_EQ(pool.stats().free, 1u);
    EXPECT_THROW((void)pool.acquire(), Closed);
}

TEST(Pool, OutlivesItsHandlesAsLongAsALeaseIsOut) {
    auto witness = std::make_shared<int>(1);
    const std::weak_ptr<int> watched = witness;
    int returned = 0;
    Lease<std::shared_ptr<int>> lease;
    {
        std::vector<std::shared_ptr<int>> items;
        items.push_back(std::move(witness));
        Pool<std::shared_ptr<int>> pool(std::move(items), [&](std::shared_ptr<int>&) { ++returned; });
        lease = pool.acquire();
    }
    EXPECT_FALSE(watched.expired());
    EXPECT_EQ(**lease, 1);
    lease.release();
    EXPECT_EQ(returned, 1);
    EXPECT_TRUE(watched.expired());
}

TEST(Pool, HandleMayGoAwayWhileAThreadWaits) {
    auto pool = std::make_unique<Pool<int>>(std::vector<int>{4});
    Lease<int> lease = pool->acquire();
    std::jthread waiting([&pool = *pool] { EXPECT_EQ(*pool.acquire(), 4); });
    yield_until([&] { return pool->stats().waiting == 1; });
    pool.reset();
    lease.release();
}

TEST(Pool, CopiesOfTheHandleAreTheSamePool) {
    Pool<int> pool({1});
    Pool<int> same = pool;
    const Lease<int> lease = pool.acquire();
    EXPECT_FALSE(same.try_acquire());
    same.close();
    EXPECT_TRUE(pool.closed());
}

TEST(Pool, OnReturnHookRunsBeforeTheItemIsFreeAndMayUseThePool) {
    std::vector<int> seen;
    std::unique_ptr<Pool<int>> pool;
    pool = std::make_unique<Pool<int>>(std::vector<int>{3}, [&](int& item) {
        seen.push_back(item);
        EXPECT_FALSE(pool->try_acquire());  // no lock is held, and the item is not yet free
        item = 0;
    });
    pool->acquire().release();
    EXPECT_THAT(seen, ::testing::ElementsAre(3));
    EXPECT_EQ(*pool->acquire(), 0);
}

TEST(Pool, OnReturnHookThatThrowsIsLoggedAndTheItemReturnsAllTheSame) {
    testing::LogCapture log;
    Pool<int> pool({1}, [](int&) { throw std::runtime_error("the hook's own trouble"); });
    pool.acquire().release();
    EXPECT_EQ(pool.stats().free, 1u);
    ASSERT_EQ(log.messages().size(), 1u);
    EXPECT_THAT(log.messages()[0], ::testing::HasSubstr("the hook's own trouble"));
}

TEST(Pool, HoldsWhatCanOnlyBeMoved) {
    std::vector<std::unique_ptr<int>> items;
    items.push_back(std::make_unique<int>(9));
    Pool<std::unique_ptr<int>> pool(std::move(items));
    EXPECT_EQ(**pool.acquire(), 9);
}

TEST(Pool, SignalHookThatThrowsAbandonsTheWaitAndNothingElse) {
    testing::InterruptingSignal signal;
    Pool<int> pool({1});
    Lease<int> lease = pool.acquire();
    std::atomic<bool> thrown{false};
    std::thread waiting([&] {
        try {
            (void)pool.acquire(WaitOptions(kForever, [] { throw testing::Interrupted(); }));
        } catch (const testing::Interrupted&) {
            thrown = true;
        }
    });
    signal.interrupt_until(waiting, [&] { return thrown.load(); });
    waiting.join();
    EXPECT_EQ(pool.stats().waiting, 0u);
    lease.release();
    EXPECT_EQ(pool.stats().free, 1u);
}

TEST(Pool, ItemThatArrivesTogetherWithTheInterruptionIsNotLost) {
    testing::InterruptingSignal signal;
    static Lease<int> lease;
    Pool<int> pool({1});
    lease = pool.acquire();
    std::atomic<bool> thrown{false};
    std::thread waiting([&] {
        try {
            (void)pool.acquire(WaitOptions(kForever, [] {
                lease.release();  // goes to the thread that runs this hook
                throw testing::Interrupted();
            }));
        } catch (const testing::Interrupted&) {
            thrown = true;
        }
    });
    signal.interrupt_until(waiting, [&] { return thrown.load(); });
    waiting.join();
    EXPECT_EQ(pool.stats().free, 1u);
}

TEST(PoolStress, NoItemIsSharedOrLostAndNoWakeUpIsMissed) {
    constexpr int kItems = 2, kThreads = 5, kRounds = 3000;
    struct Item {
        Item() = default;
        Item(Item&&) noexcept {}
        std::atomic<int> users{0};
        int plain = 0;  // ThreadSanitizer sees if two threads ever hold it
    };
    Pool<Item> pool(std::vector<Item>(kItems), [](Item& item) { ++item.plain; });
    std::atomic<int> shared{0}, timeouts{0}, served{0};
    std::latch start(kThreads);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            start.arrive_and_wait();
            for (int round = 0; round < kRounds; ++round) {
                Lease<Item> lease;
                try {
                    if (thread < 3) {
                        lease = pool.acquire();
                    } else if (thread == 3) {
                        lease = pool.acquire(std::chrono::microseconds(round % 20));
                    } else {
                        lease = pool.try_acquire();
                    }
                } catch (const Timeout&) {
                    ++timeouts;
                }
                if (!lease) continue;
                shared += lease->users.fetch_add(1, std::memory_order_relaxed) != 0;
                ++lease->plain;
                lease->users.fetch_sub(1, std::memory_order_relaxed);
                ++served;
            }
        });
    }
    threads.clear();
    EXPECT_EQ(shared, 0);
    EXPECT_GE(served, 3 * kRounds);
    const auto stats = pool.stats();
    EXPECT_EQ(stats.free, static_cast<std::size_t>(kItems));
    EXPECT_EQ(stats.waiting, 0u);
    EXPECT_EQ(stats.acquired, static_cast<std::uint64_t>(served));
}

// The predecessor's UniqueItem dropped what it held when it was move-assigned: a pool of two shrank to one.
TEST(PredecessorDefect14, MoveAssigningALeaseReturnsTheItemThatItHeld) {
    Pool<int> pool({1, 2});
    Lease<int> first = pool.acquire();
    Lease<int> second = pool.acquire();
    int* kept = second.get();
    first = std::move(second);
    EXPECT_EQ(first.get(), kept);
    EXPECT_FALSE(second);
    EXPECT_EQ(pool.stats().free, 1u);
    auto& same = first;
    first = std::move(same);
    EXPECT_EQ(first.get(), kept);
    first = Lease<int>();
    EXPECT_EQ(pool.stats().free, 2u);
}

}  // namespace
}  // namespace trtlab::core
