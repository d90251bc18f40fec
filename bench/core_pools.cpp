// What the parts of `core` that every request passes through cost on their own.

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "rounds.hpp"
#include "trtlab/core/function.hpp"
#include "trtlab/core/future.hpp"
#include "trtlab/core/pool.hpp"
#include "trtlab/core/recycler.hpp"
#include "trtlab/core/thread_pool.hpp"

namespace {

using namespace trtlab::core;

Pool<int>& pool() {
    static Pool<int> items(std::vector<int>(4));
    return items;
}

void pool_acquire(benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(*pool().acquire());
}

/// Two threads that want the same item: who finds it taken is parked, and handed it when it comes back.
void pool_of_one(benchmark::State& state) {
    static Pool<int> one(std::vector<int>(1));
    for (auto _ : state) benchmark::DoNotOptimize(++*one.acquire());
}

void mutex_lock_unlock_twice(benchmark::State& state) {
    static std::mutex mutex;
    static int value = 0;
    for (auto _ : state) {
        for (int i = 0; i < 2; ++i) {
            const std::lock_guard lock(mutex);
            benchmark::DoNotOptimize(++value);
        }
    }
}

struct Item final : Recycled<Item> {
    void recycle() noexcept {}
    char payload[256];
};

void recycler_take_return(benchmark::State& state) {
    const auto recycler = make_ref<Recycler<Item>>(std::size_t{16}, [] { return new Item; });
    for (auto _ : state) benchmark::DoNotOptimize(recycler->take().get());
}

void shared_pointer_make_drop(benchmark::State& state) {
    struct Plain {
        char payload[256];
    };
    for (auto _ : state) benchmark::DoNotOptimize(std::make_shared_for_overwrite<Plain>().get());
}

/// The time of `post` itself, while the worker keeps up; the batch is waited for outside of it.
void thread_pool_post(benchmark::State& state) {
    ThreadPool threads(1);
    std::atomic<int> done{0};
    constexpr int kBatch = 256;
    for (auto _ : state) {
        done.store(0);
        for (int i = 0; i < kBatch; ++i) {
            threads.post([&done] {
                if (done.fetch_add(1) == kBatch - 1) done.notify_one();
            });
        }
        state.PauseTiming();
        for (int seen = done.load(); seen != kBatch; seen = done.load()) done.wait(seen);
        state.ResumeTiming();
    }
    state.counters["each_ns"] = benchmark::Counter(static_cast<double>(state.iterations()) * kBatch * 1e-9,
                                                   benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void thread_pool_submit_get(benchmark::State& state) {
    ThreadPool threads(1);
    for (auto _ : state) benchmark::DoNotOptimize(threads.submit([] { return 1; }).get());
}

void future_set_get(benchmark::State& state) {
    for (auto _ : state) {
        Promise<int> promise;
        const Future<int> future = promise.future();
        promise.set_value(1);
        benchmark::DoNotOptimize(future.get());
    }
}

void std_future_set_get(benchmark::State& state) {
    for (auto _ : state) {
        std::promise<int> promise;
        std::future<int> future = promise.get_future();
        promise.set_value(1);
        benchmark::DoNotOptimize(future.get());
    }
}

void future_on_ready(benchmark::State& state) {
    int seen = 0;
    for (auto _ : state) {
        Promise<int> promise;
        promise.future().on_ready([&seen] { ++seen; });
        promise.set_value(1);
    }
    benchmark::DoNotOptimize(seen);
}

/// Made with a capture of 40 bytes, moved once, called, destroyed: a task's life.
template <class Function>
void function_life(benchmark::State& state) {
    std::uint64_t a = 1, b = 2, c = 3, d = 4, sum = 0;
    for (auto _ : state) {
        Function made([a, b, c, d, &sum] { sum += a + b + c + d; });
        benchmark::DoNotOptimize(&made);
        Function moved(std::move(made));
        moved();
        benchmark::DoNotOptimize(&moved);
    }
    benchmark::DoNotOptimize(sum);
}

void add(const char* name, void (*function)(benchmark::State&), int threads = 1) {
    benchmark::RegisterBenchmark(name, function)->MinTime(0.05)->UseRealTime()->Threads(threads);
}

}  // namespace

int main(int argc, char** argv) {
    trtlab::bench::Rounds rounds(argc, argv);
    add("Pool acquire and return", pool_acquire);
    add("std::mutex lock and unlock, twice", mutex_lock_unlock_twice);
    add("Pool acquire and return, 2 threads", pool_acquire, 2);
    add("std::mutex lock and unlock, twice, 2 threads", mutex_lock_unlock_twice, 2);
    add("Pool of 1, 2 threads", pool_of_one, 2);
    add("Recycler take and return", recycler_take_return);
    add("std::make_shared and drop", shared_pointer_make_drop);
    add("ThreadPool post, 256", thread_pool_post);
    add("ThreadPool submit and get", thread_pool_submit_get);
    add("Promise, set and get", future_set_get);
    add("std::promise, set and get", std_future_set_get);
    add("Future on_ready", future_on_ready);
    add("UniqueFunction made, moved, called", function_life<UniqueFunction<void()>>);
    add("std::function made, moved, called", function_life<std::function<void()>>);
    return rounds.run({
        {"Pool acquire and return", "std::mutex lock and unlock, twice", "time_ns"},
        {"Pool acquire and return, 2 threads", "std::mutex lock and unlock, twice, 2 threads", "time_ns"},
        {"Recycler take and return", "std::make_shared and drop", "time_ns"},
        {"Promise, set and get", "std::promise, set and get", "time_ns"},
        {"UniqueFunction made, moved, called", "std::function made, moved, called", "time_ns"},
    });
}
