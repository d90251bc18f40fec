#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <latch>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "trtlab/core/best_fit_memory.hpp"
#include "trtlab/core/size_class_memory.hpp"
#include "untouchable_memory.hpp"

namespace trtlab::core {
namespace {

constexpr int kThreads = 4;

/// Blocks are written by whoever has them, without order of its own: ThreadSanitizer sees it if the hand-over through a
/// depot, or through the thread that gives back another's block, orders nothing.
TEST(SizeClassStress, BlocksThatWanderBetweenThreadsAreNeverTwosAtOnce) {
    SizeClassMemory memory(std::make_shared<BestFitMemory>(std::make_shared<HostMemory>()), {.magazine_bytes = 1024});
    struct Held {
        unsigned char* block;
        std::size_t size;
        unsigned char mark;
    };
    std::mutex mutex;
    std::vector<Held> passed_on;  // given back by another thread than took them
    std::atomic<int> spoiled{0};
    std::latch start(kThreads);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            std::mt19937 random(static_cast<unsigned>(thread));
            std::vector<Held> held;
            const auto give_back = [&](const Held& old) {
                for (std::size_t i = 0; i < old.size; i += 16) spoiled += old.block[i] != old.mark;
                memory.deallocate(old.block, old.size, 16);
            };
            start.arrive_and_wait();
            for (int step = 0; step < 4000; ++step) {
                if (held.size() < 50) {
                    const std::size_t size = 16 + random() % (step % 200 == 0 ? 40'000 : 500);
                    auto* block = static_cast<unsigned char*>(memory.allocate(size, 16));
                    const auto mark = static_cast<unsigned char>(random());
                    std::memset(block, mark, size);
                    held.push_back({block, size, mark});
                }
                if (random() % 2 == 0) {
                    std::swap(held[random() % held.size()], held.back());
                    const Held old = held.back();
                    held.pop_back();
                    if (random() % 2 == 0) {
                        give_back(old);
                    } else {
                        const std::lock_guard lock(mutex);
                        passed_on.push_back(old);
                    }
                }
                if (step % 16 == 0) {
                    std::vector<Held> others;
                    {
                        const std::lock_guard lock(mutex);
                        others.swap(passed_on);
                    }
                    for (const Held& old : others) give_back(old);
                }
                if (step % 1000 == 999) memory.trim();
            }
            for (const Held& old : held) give_back(old);
        });
    }
    threads.clear();
    for (const Held& old : passed_on) memory.deallocate(old.block, old.size, 16);
    EXPECT_EQ(spoiled, 0);
    memory.trim();
    EXPECT_EQ(memory.stats().reserved_bytes, 0u) << "every block came back to its class";
}

TEST(SizeClassStress, ProducerAndConsumerDoNotGrow) {
    const auto upstream = std::make_shared<testing::UntouchableMemory>();
    SizeClassMemory memory(upstream);
    constexpr std::size_t kSize = 256, kWindow = 64, kBlocks = 50'000;
    std::vector<std::atomic<void*>> ring(kWindow);
    std::jthread consumer([&] {
        for (std::size_t i = 0; i < kBlocks; ++i) {
            void* block = nullptr;
            // Pairs with the producer's store.
            while ((block = ring[i % kWindow].exchange(nullptr, std::memory_order_acq_rel)) == nullptr)
                std::this_thread::yield();
            memory.deallocate(block, kSize);
        }
    });
    for (std::size_t i = 0; i < kBlocks; ++i) {
        void* const block = memory.allocate(kSize);
        // Pairs with the consumer's exchange: the place is free again.
        while (ring[i % kWindow].load(std::memory_order_acquire) != nullptr) std::this_thread::yield();
        ring[i % kWindow].store(block, std::memory_order_release);
    }
    consumer.join();
    // The window, two magazines of 128 blocks for each side and the one in the depot, in chunks that double.
    EXPECT_LE(upstream->peak_bytes(), 4 * (kWindow + 5 * 128) * kSize);
}

TEST(SizeClassStress, ThreadsThatComeAndGoLeaveNothingBehind) {
    const auto upstream = std::make_shared<testing::UntouchableMemory>();
    auto memory = std::make_shared<SizeClassMemory>(upstream);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&] {
            for (int i = 0; i < 30; ++i) {
                std::thread([&] {
                    const auto mine = std::make_shared<SizeClassMemory>(upstream);
                    mine->deallocate(mine->allocate(100), 100);
                    for (int n = 0; n < 20; ++n) memory->deallocate(memory->allocate(1000), 1000);
                }).join();
            }
        });
    }
    threads.clear();
    EXPECT_EQ(memory->stats().thread_caches, 0u);
    EXPECT_LE(upstream->live_bytes(), std::size_t{kThreads} * 2 * 32 * 1024);
    memory = nullptr;
    EXPECT_EQ(upstream->live_blocks(), 0u);
}

}  // namespace
}  // namespace trtlab::core
