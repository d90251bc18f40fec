#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>

#include "held_batches.hpp"
#include "in_child.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/thread_pool.hpp"
#include "yield_until.hpp"

namespace trtlab::core {
namespace {

using namespace std::chrono_literals;
using testing::add;
using ::testing::ElementsAre;
using testing::HeldBatches;
using testing::in_child;
using testing::numbers_of;
using testing::succeed;
using testing::throws_closed;
using testing::yield_until;

TEST(PredecessorDefect7, CloseComputesWhatIsHeldAtOnceAndDoesNotWaitOutTheWindow) {
    HeldBatches engine;
    Dispatcher dispatcher({.batching = {.max_delay = 1h, .hold_when_idle = true}}, engine.run());
    std::vector<Future<int>> futures;
    for (int i = 0; i < 3; ++i) futures.push_back(add(dispatcher, i));
    EXPECT_EQ(engine.held(), 0u);
    std::jthread closing([&] { dispatcher.close(); });
    const auto batch = engine.take();
    EXPECT_THAT(numbers_of(*batch), ElementsAre(0, 1, 2));
    EXPECT_TRUE(dispatcher.closed());
    EXPECT_THROW((void)add(dispatcher, 3), Closed);
    succeed(*batch);
    closing.join();
    for (int i = 0; i < 3; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].get(0s), 2 * i);
    dispatcher.close(Pending::cancel);
}

TEST(PredecessorDefect5, ACompletionAfterTheDispatcherIsGoneUsesNothingFreed) {
    HeldBatches engine;
    std::optional<Dispatcher> dispatcher(
        std::in_place, Dispatcher::Options{.batching = {.max_rows = 1, .max_in_flight = 2}}, engine.run());
    const auto first = add(*dispatcher, 1), second = add(*dispatcher, 2), third = add(*dispatcher, 3);
    first.on_ready([&] { dispatcher.reset(); });
    auto one = engine.take(), two = engine.take();
    succeed(*one);  // its callback destroys the dispatcher, and does not wait for the other
    EXPECT_FALSE(dispatcher.has_value());
    EXPECT_EQ(first.get(0s), 2);
    EXPECT_THROW((void)third.get(0s), Closed);
    EXPECT_FALSE(second.done());
    succeed(*two);
    EXPECT_EQ(second.get(0s), 4);
}

TEST(PredecessorDefect5, SoItIsWithOneThatIsDroppedOrFails) {
    for (const bool drop : {false, true}) {
        HeldBatches engine;
        std::optional<Dispatcher> dispatcher(std::in_place, Dispatcher::Options{.batching = {.max_in_flight = 2}},
                                             engine.run());
        const auto first = add(*dispatcher, 1), second = add(*dispatcher, 2), third = add(*dispatcher, 3);
        auto one = engine.take(), two = engine.take();
        first.on_ready([&] { dispatcher.reset(); });
        one->fail(std::make_exception_ptr(std::runtime_error("one")));
        EXPECT_FALSE(dispatcher.has_value());
        if (!drop) two->fail(std::make_exception_ptr(std::runtime_error("two")));
        two = nullptr;
        EXPECT_TRUE(second.done() && second.error());
    }
}

TEST(DispatcherClose, CancelFailsWhatWaitsAndWaitsForWhatIsComputed) {
    HeldBatches engine;
    Dispatcher dispatcher({}, engine.run());
    const auto running = add(dispatcher, 1), waiting = add(dispatcher, 2);
    std::jthread closing([&] { dispatcher.close(Pending::cancel); });
    EXPECT_THROW((void)waiting.get(), Closed);
    EXPECT_FALSE(running.done());
    succeed(*engine.take());
    closing.join();
    EXPECT_EQ(running.get(0s), 2);
}

TEST(DispatcherClose, ABatchThatFailsThenIsNotTriedAgain) {
    HeldBatches engine;
    Dispatcher dispatcher({}, engine.run());
    (void)add(dispatcher, 0);
    const auto a = add(dispatcher, 1), b = add(dispatcher, 2);
    succeed(*engine.take());
    std::jthread closing([&] { dispatcher.close(Pending::cancel); });
    yield_until([&] { return dispatcher.closed(); });
    // Whether the flag is seen is a race: tried again or not, it ends.
    engine.take()->fail(std::make_exception_ptr(std::runtime_error("bad")));
    EXPECT_ANY_THROW((void)a.get());
    EXPECT_ANY_THROW((void)b.get());
}

TEST(DispatcherClose, WakesCallersWhoWaitForRoom) {
    HeldBatches engine;
    Dispatcher dispatcher({.max_queue = 1}, engine.run());
    (void)add(dispatcher, 0);
    (void)add(dispatcher, 1);
    std::atomic<int> refused{0};
    std::vector<std::jthread> callers;
    for (int i = 0; i < 3; ++i) {
        callers.emplace_back([&] {
            try {
                (void)add(dispatcher, 2);
            } catch (const Closed&) {
                ++refused;
            }
        });
    }
    yield_until([&] { return dispatcher.stats().blocked_callers == 3; });
    std::jthread closing([&] { dispatcher.close(); });
    yield_until([&] { return refused == 3; });
    succeed(*engine.take());
    succeed(*engine.take());
}

TEST(DispatcherClose, InACallbackOfItsOwnIsRefused) {
    HeldBatches engine;
    Dispatcher dispatcher({}, engine.run());
    bool refused = false;
    add(dispatcher, 1).on_ready([&] {
        try {
            dispatcher.close();
        } catch (const InvalidArgument&) {
            refused = true;
        }
    });
    succeed(*engine.take());
    EXPECT_TRUE(refused);
    dispatcher.close();
}

TEST(DispatcherDestructor, EndsEveryItemOneWayOrTheOther) {
    HeldBatches engine;
    auto dispatcher = std::make_unique<Dispatcher>(Dispatcher::Options{}, engine.run());
    const auto running = add(*dispatcher, 1), waiting = add(*dispatcher, 2);
    std::jthread destroying([&] { dispatcher.reset(); });
    EXPECT_THROW((void)waiting.get(), Closed);
    succeed(*engine.take());
    destroying.join();
    EXPECT_EQ(running.get(0s), 2);
}

TEST(DispatcherDestructor, MayRunOnItsTimersThread) {
    HeldBatches engine;
    auto dispatcher = std::make_unique<Dispatcher>(Dispatcher::Options{}, engine.run());
    const auto running = add(*dispatcher, 1), late = add(*dispatcher, 2, {.deadline = 20ms});
    std::latch gone(1);
    late.on_ready([&] {
        dispatcher.reset();
        gone.count_down();
    });
    gone.wait();
    succeed(*engine.take());
    EXPECT_EQ(running.get(0s), 2);
}

TEST(DispatcherFork, ChildNeitherHangsNorPretendsToWork) {
    HeldBatches engine;
    auto dispatcher = std::make_unique<Dispatcher>(Dispatcher::Options{}, engine.run());
    const auto running = add(*dispatcher, 1), waiting = add(*dispatcher, 2, {.deadline = 1h});
    EXPECT_EQ(in_child([&] {
                  const bool right =
                      throws_closed([&] { (void)add(*dispatcher, 3); }) && throws_closed([&] { dispatcher->close(); });
                  dispatcher.reset();
                  return right ? 0 : 1;
              }),
              0);
    succeed(*engine.take());
    succeed(*engine.take());
    EXPECT_EQ(waiting.get(0s), 4);
}

TEST(DispatcherLifetime, NothingIsLeftBehind) {
    const std::int64_t before = RefCounted::live();
    {
        HeldBatches engine;
        Dispatcher dispatcher({.batching = {.max_rows = 64, .max_delay = 1h, .hold_when_idle = true}}, engine.run());
        for (int i = 0; i < 20; ++i) (void)add(dispatcher, i, {.deadline = 1h});
        dispatcher.shut(Pending::cancel);
    }
    yield_until([&] { return RefCounted::live() == before; });
}

TEST(DispatcherStress, EveryItemEndsOnceWhateverBatchesCancellationsAndDeadlinesDo) {
    constexpr int kThreads = 4, kEach = 400;
    ThreadPool engine(2);
    std::atomic<int> computed{0};
    Dispatcher dispatcher(
        {.batching = {.max_rows = 4, .max_in_flight = 2, .max_delay = 100us, .priorities = 2}, .max_queue = 16},
        [&](Ref<Batch> batch) {
            engine.post([&, batch] {
                for (const int number : numbers_of(*batch)) {
                    if (number % 17 != 0) continue;
                    batch->fail(std::make_exception_ptr(std::runtime_error("bad")));
                    return;
                }
                computed += static_cast<int>(batch->items().size());
                succeed(*batch);
            });
        });
    std::atomic<int> answered{0}, bad{0}, late{0}, cancelled{0};
    std::latch start(kThreads);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            std::mt19937 random(static_cast<unsigned>(thread));
            start.arrive_and_wait();
            for (int i = 0; i < kEach;) {
                std::vector<std::pair<int, Future<int>>> flight;
                for (int k = 0; k < 8; ++k, ++i) {
                    const int number = thread * kEach + i;
                    testing::NumberOptions options{.priority = static_cast<std::uint32_t>(random() % 2)};
                    if (random() % 8 == 0) options.deadline = std::chrono::microseconds(random() % 300);
                    flight.emplace_back(number, add(dispatcher, number, options));
                    if (random() % 16 == 0) flight.back().second.cancel();
                }
                for (const auto& [number, future] : flight) {
                    try {
                        EXPECT_EQ(future.get(), 2 * number);
                        ++answered;
                    } catch (const Timeout&) {
                        ++late;
                    } catch (const Cancelled&) {
                        ++cancelled;
                    } catch (const std::runtime_error&) {
                        EXPECT_EQ(number % 17, 0) << "suffered from another's error";
                        ++bad;
                    }
                }
            }
        });
    }
    threads.clear();
    dispatcher.close();
    EXPECT_EQ(answered + bad + late + cancelled, kThreads * kEach);
    EXPECT_EQ(answered, computed);
    EXPECT_GT(bad, 0);
    EXPECT_EQ(dispatcher.stats().in_flight, 0u);
}

TEST(DispatcherStress, ClosingWhileManyAddEndsEveryItem) {
    for (int round = 0; round < 40; ++round) {
        ThreadPool engine(1);
        auto dispatcher = std::make_unique<Dispatcher>(
            Dispatcher::Options{.batching = {.max_rows = 3, .max_delay = 50us, .hold_when_idle = round % 2 == 0},
                                .max_queue = 3},
            [&](Ref<Batch> batch) { engine.post([batch] { succeed(*batch); }); });
        std::atomic<int> ended{0}, refused{0};
        std::latch start(4);
        std::vector<std::jthread> callers;
        for (int i = 0; i < 3; ++i) {
            callers.emplace_back([&] {
                start.arrive_and_wait();
                for (int k = 0; k < 20; ++k) {
                    try {
                        add(*dispatcher, k).on_ready([&] { ++ended; });
                    } catch (const Closed&) {
                        ++refused;
                    }
                }
            });
        }
        start.arrive_and_wait();
        yield_until([&] { return ended + refused > round; });
        dispatcher->close(round % 4 < 2 ? Pending::drain : Pending::cancel);
        callers.clear();
        dispatcher.reset();
        EXPECT_EQ(ended + refused, 60);
    }
}

}  // namespace
}  // namespace trtlab::core
