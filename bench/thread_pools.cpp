// ThreadPool beside other people's: what a task costs, how long a lone one takes, and what its promises of pinning and of
// idleness are worth.

#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#ifdef TRTLAB_BENCH_TBB
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>
#endif
#ifdef TRTLAB_BENCH_CONCURRENTQUEUE
#include <concurrentqueue/blockingconcurrentqueue.h>
#endif
#ifdef TRTLAB_BENCH_ASIO
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#endif

#include "rounds.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/thread_pool.hpp"

namespace {

using namespace trtlab::core;
using Clock = std::chrono::steady_clock;

constexpr int kTasks = 1 << 14;  // in flight at most: within every pool's bounds
constexpr std::size_t kWorkers = 2;

/// Counts tasks down; one thread waits for all.
class Countdown {
public:
    void start(int tasks) { left_.store(tasks, std::memory_order_relaxed); }
    void one() {
        if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) left_.notify_one();
    }
    void wait() {
        for (int left = left_.load(); left != 0; left = left_.load()) left_.wait(left);
    }

private:
    std::atomic<int> left_{0};
};

struct Trtlab {
    ThreadPool pool{kWorkers};
    template <class F>
    void post(F f) {
        pool.post(std::move(f));
    }
};

struct MutexAndCondition {
    MutexAndCondition() {
        for (std::size_t i = 0; i < kWorkers; ++i) threads.emplace_back([this] { work(); });
    }
    ~MutexAndCondition() {
        {
            std::lock_guard lock(mutex);
            closed = true;
        }
        condition.notify_all();
        threads.clear();
    }
    template <class F>
    void post(F f) {
        {
            std::lock_guard lock(mutex);
            tasks.emplace_back(std::move(f));
        }
        condition.notify_one();
    }
    void work() {
        std::unique_lock lock(mutex);
        for (;;) {
            condition.wait(lock, [this] { return closed || !tasks.empty(); });
            if (tasks.empty()) return;
            const std::function<void()> task = std::move(tasks.front());
            tasks.pop_front();
            lock.unlock();
            task();
            lock.lock();
        }
    }
    std::mutex mutex;
    std::condition_variable condition;
    std::deque<std::function<void()>> tasks;
    bool closed = false;
    std::vector<std::jthread> threads;
};

#ifdef TRTLAB_BENCH_TBB
struct TbbArena {
    TbbArena() { arena.initialize(); }
    template <class F>
    void post(F f) {
        arena.enqueue(std::move(f));
    }
    // One worker fewer than CPUs is TBB's own choice, which would be one here.
    tbb::global_control workers{tbb::global_control::max_allowed_parallelism, kWorkers + 1};
    tbb::task_arena arena{static_cast<int>(kWorkers), 0};
};

struct TbbGroup {
    template <class F>
    void post(F f) {
        group.run(std::move(f));
    }
    ~TbbGroup() { group.wait(); }
    tbb::global_control workers{tbb::global_control::max_allowed_parallelism, kWorkers + 1};
    tbb::task_group group;
};
#endif

#ifdef TRTLAB_BENCH_CONCURRENTQUEUE
struct Moodycamel {
    Moodycamel() {
        for (std::size_t i = 0; i < kWorkers; ++i) {
            threads.emplace_back([this] {
                for (std::function<void()> task;;) {
                    queue.wait_dequeue(task);
                    if (!task) return;
                    task();
                }
            });
        }
    }
    ~Moodycamel() {
        for (std::size_t i = 0; i < kWorkers; ++i) queue.enqueue(nullptr);
        threads.clear();
    }
    template <class F>
    void post(F f) {
        queue.enqueue(std::move(f));
    }
    moodycamel::BlockingConcurrentQueue<std::function<void()>> queue;
    std::vector<std::jthread> threads;
};
#endif

#ifdef TRTLAB_BENCH_ASIO
struct Asio {
    ~Asio() { pool.join(); }
    template <class F>
    void post(F f) {
        boost::asio::post(pool, std::move(f));
    }
    boost::asio::thread_pool pool{kWorkers};
};
#endif

void report_each(benchmark::State& state, double tasks) {
    state.counters["each_ns"] = benchmark::Counter(static_cast<double>(state.iterations()) * tasks * 1e-9,
                                                   benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

/// From the first post to the end of the last task, for each.
template <class Pool>
void post(benchmark::State& state) {
    Pool pool;
    Countdown countdown;
    for (auto _ : state) {
        countdown.start(kTasks);
        for (int i = 0; i < kTasks; ++i) pool.post([&countdown] { countdown.one(); });
        countdown.wait();
    }
    report_each(state, kTasks);
}

/// The same with one call for many tasks, made anew each time.
void post_bulk(benchmark::State& state) {
    constexpr int kBulk = 256;
    ThreadPool pool(kWorkers);
    Countdown countdown;
    std::vector<ThreadPool::Task> tasks(kBulk);
    for (auto _ : state) {
        countdown.start(kTasks);
        for (int i = 0; i < kTasks; i += kBulk) {
            for (ThreadPool::Task& task : tasks) task = [&countdown] { countdown.one(); };
            pool.post_bulk(tasks);
        }
        countdown.wait();
    }
    report_each(state, kTasks);
}

void submit_bulk(benchmark::State& state) {
    ThreadPool pool(kWorkers);
    Countdown countdown;
    for (auto _ : state) {
        countdown.start(kTasks);
        pool.submit_bulk(kTasks, [&countdown](std::size_t) { countdown.one(); }).get();
        countdown.wait();
    }
    report_each(state, kTasks);
}

/// A result through a future, one at a time.
template <class Submit>
void latency(benchmark::State& state, Submit submit) {
    std::vector<double> waits;
    int value = 0;
    for (auto _ : state) {
        const auto begin = Clock::now();
        benchmark::DoNotOptimize(submit(++value));
        waits.push_back(std::chrono::duration<double, std::nano>(Clock::now() - begin).count());
    }
    state.counters["p50_ns"] = trtlab::bench::percentile(waits, 0.5);
    state.counters["p99_ns"] = trtlab::bench::percentile(waits, 0.99);
}

void submit_get(benchmark::State& state) {
    ThreadPool pool(kWorkers);
    latency(state, [&pool](int value) { return pool.submit([value] { return value; }).get(); });
}

/// The others', with std::promise.
template <class Pool>
void submit_get_of(benchmark::State& state) {
    Pool pool;
    latency(state, [&pool](int value) {
        const auto promise = std::make_shared<std::promise<int>>();
        std::future<int> future = promise->get_future();
        pool.post([promise, value] { promise->set_value(value); });
        return future.get();
    });
}

double cpu_seconds() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// A million tasks, of which each looks where it runs.
void pinned(benchmark::State& state) {
    ThreadPool pool(ThreadPool::Options{.threads = kWorkers, .cpus = process_cpus()});
    std::atomic<std::int64_t> off{0}, tasks{0};
    const auto mine = [&] {
        thread_local const int cpu = thread_affinity().count() == 1 ? thread_affinity().first() : -1;
        return cpu;
    };
    Countdown countdown;
    for (auto _ : state) {
        countdown.start(kTasks);
        for (int i = 0; i < kTasks; ++i) {
            pool.post([&] {
                if (sched_getcpu() != mine()) off.fetch_add(1, std::memory_order_relaxed);
                countdown.one();
            });
        }
        countdown.wait();
        tasks += kTasks;
    }
    state.counters["tasks"] = static_cast<double>(tasks);
    state.counters["off_their_mask"] = static_cast<double>(off);
}

/// After a burst of work, with nothing to do.
void idle(benchmark::State& state) {
    ThreadPool pool(kWorkers);
    for (int i = 0; i < 1000; ++i) pool.submit([] {}).get();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const double cpu = cpu_seconds();
    const auto begin = Clock::now();
    for (auto _ : state) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const double wall = std::chrono::duration<double>(Clock::now() - begin).count();
    state.counters["cpu_percent"] = 100 * (cpu_seconds() - cpu) / wall;
}

void add(const char* name, void (*function)(benchmark::State&)) {
    benchmark::RegisterBenchmark(name, function)->MinTime(0.1)->UseRealTime();
}

}  // namespace

int main(int argc, char** argv) {
    trtlab::bench::Rounds rounds(argc, argv);
    std::vector<trtlab::bench::Comparison> comparisons;
    const auto against = [&](const char* rival, const char* aim) {
        comparisons.push_back({"post", "post, " + std::string(rival), "each_ns", {}, aim});
        comparisons.push_back({"submit and get", "submit and get, " + std::string(rival), "p50_ns", {}, aim});
    };
    add("post", post<Trtlab>);
    add("submit and get", submit_get);
    add("post, mutex + condition", post<MutexAndCondition>);
    add("submit and get, mutex + condition", submit_get_of<MutexAndCondition>);
    against("mutex + condition", "< 1");
#ifdef TRTLAB_BENCH_TBB
    add("post, TBB arena.enqueue", post<TbbArena>);
    add("submit and get, TBB arena.enqueue", submit_get_of<TbbArena>);
    against("TBB arena.enqueue", "<= 0.6");
    add("post, TBB task_group", post<TbbGroup>);
    add("submit and get, TBB task_group", submit_get_of<TbbGroup>);
    against("TBB task_group", "< 1");
#endif
#ifdef TRTLAB_BENCH_CONCURRENTQUEUE
    add("post, moodycamel + semaphore", post<Moodycamel>);
    add("submit and get, moodycamel + semaphore", submit_get_of<Moodycamel>);
    against("moodycamel + semaphore", "< 1");
#endif
#ifdef TRTLAB_BENCH_ASIO
    add("post, Boost.Asio", post<Asio>);
    add("submit and get, Boost.Asio", submit_get_of<Asio>);
    against("Boost.Asio", "< 1");
#endif
    add("post_bulk of 256", post_bulk);
    add("submit_bulk", submit_bulk);
    comparisons.push_back({"post_bulk of 256", "post", "each_ns", {}, "< 1, and <= 40 ns"});
    benchmark::RegisterBenchmark("pinned, one CPU each", pinned)->Iterations((1000000 + kTasks - 1) / kTasks);
    add("idle", idle);
    return rounds.run(comparisons);
}
