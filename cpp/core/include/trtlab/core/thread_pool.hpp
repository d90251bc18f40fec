#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "trtlab/core/budget.hpp"
#include "trtlab/core/function.hpp"
#include "trtlab/core/future.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// Worker threads behind one bounded first-in-first-out queue.
///
/// A task posted while a worker is parked is handed to that worker directly. Idle workers are parked on a futex and
/// cost nothing.
/// Threads: all members may be called from any thread; a task may post. The destructor closes, draining; on
/// one of the pool's own workers it does not wait for that worker.
/// Blocks: `post` and `submit` while the queue is full; `close`.
/// Errors: they throw Overloaded when the queue stayed full, Closed after `close` and in a forked child. What a task
/// throws reaches its future, or the log if it was posted.
class [[gnu::visibility("default")]] ThreadPool {
public:
    using Task = UniqueFunction<void()>;

    struct Options {
        std::size_t threads = 0;          ///< 0: as many as the process may use CPUs
        std::size_t max_queue = 1 << 16;  ///< tasks waiting for a worker
        std::string name = "trtlab";  ///< of the threads, as shown by debuggers and `top -H`: 15 bytes with the index
    };

    struct Stats {
        std::size_t threads = 0;
        std::size_t idle = 0;  ///< workers parked
        std::size_t queued = 0;
        std::size_t blocked_callers = 0;  ///< threads waiting for room in the queue
        std::uint64_t executed = 0;       ///< tasks finished
    };

    explicit ThreadPool(const Options& options);
    explicit ThreadPool(std::size_t threads = 0) : ThreadPool(Options{.threads = threads}) {}
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;
    ~ThreadPool();

    /// Fire and forget. What `wait.on_signal` throws leaves here even if the task was taken at the same moment.
    void post(Task task, const WaitOptions& wait = {});

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

    /// Refuses new tasks; runs those queued (`drain`) or drops them (`cancel`: their futures fail with Closed); joins
    /// the workers. Callers blocked in `post` wake with Closed. Idempotent; throws InvalidArgument on one of the
    /// pool's own workers.
    void close(Pending pending = Pending::drain);

    std::size_t threads() const noexcept;
    Stats stats() const;

private:
    struct State;
    std::shared_ptr<State> state_;
};

/// CPUs that this process may run on: the affinity mask, capped by the cgroup's CPU quota. At least 1.
std::size_t usable_cpus() noexcept;

}  // namespace trtlab::core
