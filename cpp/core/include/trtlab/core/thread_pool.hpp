#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "trtlab/core/budget.hpp"
#include "trtlab/core/cpu_set.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/function.hpp"
#include "trtlab/core/future.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

class ScheduleAwaiter;

/// Worker threads behind one bounded first-in-first-out queue.
///
/// A task posted while a worker is parked, and none is about to look, is handed to that worker directly. Workers search
/// for as long as parking would cost, and are then parked on a futex and cost nothing.
/// Threads: all members may be called from any thread; a task may post. The destructor closes, draining; on
/// one of the pool's own workers it does not wait for that worker.
/// Blocks: `post`, `post_bulk` and the submits while the queue is full; `close`.
/// Errors: they throw Overloaded when the queue stayed full, Closed after `close` and in a forked child. What a task
/// throws reaches its future, or the log if it was posted. A pin that the system refuses is logged once, and to be read
/// in `stats()`: the pool works without.
class [[gnu::visibility("default")]] ThreadPool {
public:
    using Task = UniqueFunction<void()>;

    /// How workers share the CPUs that they are given.
    enum class Pinning {
        one_each,  ///< each is pinned to one of them, in turn
        shared,    ///< each may run on all of them
    };

    struct Options {
        std::size_t threads = 0;          ///< 0: as many as the process may use CPUs, of `cpus` if there are any
        std::size_t max_queue = 1 << 16;  ///< tasks waiting for a worker
        std::string name = "trtlab";  ///< of the threads, as shown by debuggers and `top -H`: 15 bytes with the index
        CpuSet cpus = {};             ///< where workers run; empty: wherever the thread that makes the pool may
        Pinning pinning = Pinning::one_each;
    };

    struct Stats {
        std::size_t threads = 0;
        std::size_t idle = 0;  ///< workers parked
        std::size_t queued = 0;
        std::size_t blocked_callers = 0;  ///< threads waiting for room in the queue
        std::uint64_t executed = 0;       ///< tasks finished
        std::size_t pinned = 0;           ///< workers
        std::string pin_refusal = {};     ///< why a worker that was to be pinned is not; empty if none
    };

    explicit ThreadPool(const Options& options);
    explicit ThreadPool(std::size_t threads = 0) : ThreadPool(Options{.threads = threads}) {}
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;
    ~ThreadPool();

    /// Fire and forget. What `wait.on_signal` throws leaves here even if the task was taken at the same moment.
    void post(Task task, const WaitOptions& wait = {}) { post_bulk({&task, 1}, wait); }

    /// As `post`, for all of `tasks` in their order, with one lock and one wake-up for as many as there is room for: woken
    /// workers wake each other. If this throws, those that were not taken are still in `tasks`; the others are empty.
    void post_bulk(std::span<Task> tasks, const WaitOptions& wait = {});

    /// False, and `task` untouched, if the queue is full. Throws Closed.
    [[nodiscard]] bool try_post(Task& task);

    /// Runs `f()` on a worker. Its future can be cancelled until a worker takes it up.
    template <class F, class R = std::invoke_result_t<std::decay_t<F>&>>
    Future<R> submit(F&& f, const WaitOptions& wait = {}) {
        Promise<R> promise;
        Future<R> future = promise.future();
        try {
            post(
                [promise = std::move(promise), f = std::forward<F>(f)]() mutable {
                    if (promise.try_start()) promise.fulfil(f);
                },
                wait);
        } catch (...) {
            future.cancel();  // of use if a signal interrupted the call as the task was taken
            throw;
        }
        return future;
    }

    /// Runs `f(0)` to `f(count - 1)` on the workers, which take the next number each when they are free for it, so that
    /// the calls may be of any length. The future is done when all calls are; it has the first exception, after which no
    /// further call begins. It can be cancelled until the first begins. `f` is called by several threads at a time.
    template <class F>
    Future<void> submit_bulk(std::size_t count, F&& f, const WaitOptions& wait = {});

    /// `co_await pool.schedule();`: the coroutine goes on on a worker. Needs `trtlab/core/await.hpp`.
    ScheduleAwaiter schedule() noexcept;

    /// Refuses new tasks; runs those queued (`drain`) or drops them (`cancel`: their futures fail with Closed); joins
    /// the workers. Callers blocked in `post` wake with Closed. Idempotent; throws InvalidArgument on one of the
    /// pool's own workers.
    void close(Pending pending = Pending::drain);

    /// As `close`, but waits for no worker: the pool's own may call it, too. What still runs is waited for by `close`, or
    /// by the destructor.
    void shut(Pending pending = Pending::drain);

    std::size_t threads() const noexcept;
    Stats stats() const;

private:
    template <class F>
    struct Bulk;
    struct State;
    std::shared_ptr<State> state_;
};

/// What the tasks of one `submit_bulk` share.
template <class F>
struct ThreadPool::Bulk {
    Bulk(std::size_t count_, F f_) : count(count_), left(count_), f(std::move(f_)) {}

    /// One worker's part.
    void run() {
        if (promise.try_start()) {
            begun.store(true, std::memory_order_relaxed);
        } else if (!begun.load(std::memory_order_relaxed)) {
            return;  // cancelled, or about to be; or the one that just began does this part, too
        }
        std::size_t finished = 0;
        for (std::size_t i = 0; (i = next.fetch_add(1, std::memory_order_relaxed)) < count; ++finished) call(i);
        finish(finished);
    }

    /// No further call begins.
    void abandon() noexcept {
        const std::size_t begun = next.exchange(count, std::memory_order_relaxed);
        if (begun < count) finish(count - begun);
    }

    const std::size_t count;
    std::atomic<std::size_t> next{
        0};  // only numbers are handed out: what f reads was written before the tasks were posted
    std::atomic<std::size_t> left;
    std::atomic<bool> begun{false};
    std::atomic<bool> failed{false};
    std::exception_ptr error;
    Promise<void> promise;
    F f;

private:
    void call(std::size_t i) noexcept {
        try {
            f(i);
        } catch (...) {
            if (!failed.exchange(true, std::memory_order_relaxed)) error = std::current_exception();
            abandon();
        }
    }

    void finish(std::size_t calls) noexcept {
        // Release and acquire pair among all who finish: the last one sees the error and everything the calls wrote.
        if (calls == 0 || left.fetch_sub(calls, std::memory_order_acq_rel) != calls) return;
        error ? promise.set_exception(std::move(error)) : promise.set_value();
    }
};

template <class F>
Future<void> ThreadPool::submit_bulk(std::size_t count, F&& f, const WaitOptions& wait) {
    if (count > PTRDIFF_MAX) throw InvalidArgument("submit_bulk: " + std::to_string(count) + " calls would never end");
    const auto bulk = std::make_shared<Bulk<std::decay_t<F>>>(count, std::forward<F>(f));
    Future<void> future = bulk->promise.future();
    if (count == 0) bulk->promise.set_value();
    std::vector<Task> tasks(std::min(count, threads()));
    for (Task& task : tasks) task = [bulk] { bulk->run(); };
    try {
        post_bulk(tasks, wait);
    } catch (...) {
        future.cancel();
        bulk->abandon();  // some may have begun
        throw;
    }
    return future;
}

}  // namespace trtlab::core
