#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <thread>
#include <vector>

#include "trtlab/core/error.hpp"
#include "trtlab/core/future.hpp"

namespace trtlab::core {
namespace {

/// Runs `rounds` rounds of `work(round, thread)` on `threads` threads that start every round together; `between` runs
/// on one of them, alone, after each.
template <class Work, class Between>
void in_rounds(int threads, int rounds, Work work, Between between) {
    int round = 0;
    std::barrier edge(threads, [&]() noexcept {
        if (round > 0) between(round - 1);
    });
    std::vector<std::jthread> pool;
    for (int thread = 0; thread < threads; ++thread) {
        pool.emplace_back([&, thread] {
            for (int r = 0; r < rounds; ++r) {
                edge.arrive_and_wait();
                if (thread == 0) round = r + 1;
                work(r, thread);
            }
            edge.arrive_and_wait();
        });
    }
}

struct State final : Recycled<State, FutureState<int>> {
    void recycle() noexcept {
        reset();
        value_.reset();
    }
};

constexpr int kRounds = 4000;

TEST(FutureStress, EveryCallbackRunsExactlyOnceWheneverItIsAdded) {
    constexpr int kAdders = 3, kPerAdder = 4;
    const auto states = make_ref<Recycler<State>>(std::size_t{2}, [] { return new State; });
    Future<int> future(states->take());
    std::array<std::atomic<int>, kAdders * kPerAdder> calls{};
    int wrong = 0, early = 0;
    in_rounds(
        kAdders + 1, kRounds,
        [&](int round, int thread) {
            if (thread == kAdders) {
                const auto state = future.state();
                for (int spin = 0; spin < round % 40; ++spin) std::atomic_signal_fence(std::memory_order_seq_cst);
                state->set_value(round);
                return;
            }
            for (int i = 0; i < kPerAdder; ++i) {
                future.on_ready([&calls, &early, future, slot = thread * kPerAdder + i] {
                    calls[static_cast<std::size_t>(slot)].fetch_add(1, std::memory_order_relaxed);
                    if (!future.done()) ++early;
                });
            }
        },
        [&](int round) {
            for (auto& count : calls) wrong += count.exchange(0) != 1;
            wrong += future.get() != round;
            future = Future<int>(states->take());
        });
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(early, 0);
}

TEST(FutureStress, OnlyCallbackIsNotLostWhenTheAnswerComesAsItIsAdded) {
    Promise<int> promise;
    Future<int> future = promise.future();
    std::atomic<int> arrived{0}, calls{0};
    int wrong = 0;
    in_rounds(
        2, 5 * kRounds,
        [&](int round, int thread) {
            // Closer together than a barrier lets threads go; which of them is late by how much changes by the round.
            arrived.fetch_add(1);
            for (int spin = 0; arrived.load() < 2; ++spin) {
                if (spin > 1000) std::this_thread::yield();  // there may be one CPU only
            }
            const int late = round % 61 - 30;
            for (int spin = 0; spin < (thread == 0 ? late : -late); ++spin) {
                std::atomic_signal_fence(std::memory_order_seq_cst);
            }
            if (thread == 0) {
                promise.set_value(round);
            } else {
                future.on_ready([&calls] { calls.fetch_add(1, std::memory_order_relaxed); });
            }
        },
        [&](int) {
            wrong += calls.exchange(0) != 1;
            arrived = 0;
            promise = Promise<int>();
            future = promise.future();
        });
    EXPECT_EQ(wrong, 0);
}

TEST(FutureStress, ValueExceptionAndCancellationRaceAndOneOfThemWins) {
    Future<int> future;
    Ref<FutureState<int>> state = make_ref<FutureState<int>>();
    future = Future<int>(state);
    std::atomic<int> cancellations{0}, callbacks{0};
    int wrong = 0;
    std::array<int, 3> outcomes{};
    in_rounds(
        5, kRounds,
        [&](int round, int thread) {
            switch (thread) {
                case 0:
                    if (round % 2 == 0 || state->try_start()) state->set_value(round);
                    break;
                case 1:
                    if (round % 3 != 0) state->set_exception(std::make_exception_ptr(EngineError("x")));
                    break;
                case 2:
                    cancellations += future.cancel();
                    break;
                case 3:
                    future.on_ready([&] { ++callbacks; });
                    break;
                default:
                    if (!future.wait()) ++cancellations;  // cannot be: it waits for ever
                    break;
            }
        },
        [&](int round) {
            const bool cancelled = future.cancelled();
            wrong += !future.done();
            wrong += cancellations.exchange(0) != (cancelled ? 1 : 0);
            wrong += callbacks.exchange(0) != 1;
            try {
                wrong += future.get() != round;
                wrong += cancelled;
                ++outcomes[0];
            } catch (const EngineError&) {
                wrong += cancelled;
                ++outcomes[1];
            } catch (const Cancelled&) {
                wrong += !cancelled;
                ++outcomes[2];
            }
            state = make_ref<FutureState<int>>();
            future = Future<int>(state);
        });
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(outcomes[0] + outcomes[1] + outcomes[2], kRounds);
}

TEST(FutureStress, NoWakeUpIsLostHoweverTheWaitsEnd) {
    Promise<int> promise;
    Future<int> future = promise.future();
    std::atomic<int> wrong{0};
    in_rounds(
        4, kRounds,
        [&](int round, int thread) {
            if (thread == 0) {
                promise.set_value(round);
            } else if (thread == 1) {
                while (!future.wait(std::chrono::microseconds(round % 30))) {
                }
            } else {
                wrong += future.get() != round;
            }
        },
        [&](int) {
            promise = Promise<int>();
            future = promise.future();
        });
    EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace trtlab::core
