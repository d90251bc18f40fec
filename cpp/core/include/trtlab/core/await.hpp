#pragma once

#include <chrono>
#include <concepts>
#include <coroutine>
#include <exception>
#include <type_traits>
#include <utility>

#include "trtlab/core/continuation.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/future.hpp"
#include "trtlab/core/thread_pool.hpp"
#include "trtlab/core/timer_queue.hpp"

// What makes `co_await` work on the things of this library (a `Pool` brings its own). Each of them suspends the coroutine,
// and resumes it on the thread that completes what is awaited, closing included. Whoever is suspended may not be destroyed:
// a `Task` can't be, and coroutines of other kinds must see to it.

namespace trtlab::core {

/// `co_await future`: waits until it is done and gives what `get` gives. Of a future that has a name a reference to the value
/// in the shared state, good for as long as somebody holds the future; of a temporary a copy. Throws what `get` throws,
/// and InvalidArgument for a future that is not `valid()`.
template <class T, bool kCopies>
class FutureAwaiter {
public:
    explicit FutureAwaiter(Future<T> future) : future_(std::move(future)) {
        if (!future_.valid()) throw InvalidArgument("co_await on a future that has no state: it was never given one");
    }

    bool await_ready() const noexcept { return future_.done(); }
    bool await_suspend(std::coroutine_handle<> coroutine) noexcept {
        suspended_.set(coroutine);
        const Future<T> future = future_;  // this may go away in the call
        try {
            future.on_ready([suspended = &suspended_] { suspended->go_on(); });
            return true;
        } catch (...) {
            error_ = std::current_exception();
            return false;
        }
    }
    std::conditional_t<std::is_void_v<T>, void, std::conditional_t<kCopies, T, const typename FutureState<T>::Value&>>
    await_resume() const {
        if (error_) std::rethrow_exception(error_);
        return future_.get();
    }

private:
    Future<T> future_;
    SuspendedCoroutine suspended_;
    std::exception_ptr error_;
};

template <class T>
FutureAwaiter<T, false> operator co_await(const Future<T>& future) {
    return FutureAwaiter<T, false>(future);
}

template <class T>
FutureAwaiter<T, true> operator co_await(Future<T>&& future) {
    static_assert(std::is_void_v<T> || std::copy_constructible<T>,
                  "the value stays in the future's shared state and can't be copied out of it: give the future a name");
    return FutureAwaiter<T, true>(std::move(future));
}

/// Base of awaiters that resume through a `UniqueFunction<void()>` which somebody runs, or drops.
class TaskAwaiter {
public:
    TaskAwaiter(const TaskAwaiter&) = delete;
    TaskAwaiter& operator=(const TaskAwaiter&) = delete;
    bool await_ready() const noexcept { return false; }

protected:
    TaskAwaiter() = default;
    ~TaskAwaiter() = default;

    /// `give(task)` gives the task away and returns true, after which this may be gone already; or returns false or throws,
    /// and leaves the task.
    template <class Give>
    bool suspend(std::coroutine_handle<> coroutine, Give&& give) noexcept {
        suspended_.set(coroutine);
        given_ = true;
        UniqueFunction<void()> task{Resume(this)};
        try {
            if (give(task)) return true;
        } catch (...) {
            error_ = std::current_exception();
        }
        given_ = false;
        return false;
    }

    /// Whether the task ran, or else was dropped.
    bool finish() const {
        if (error_) std::rethrow_exception(error_);
        return ran_;
    }

    std::exception_ptr error_;

private:
    class Resume {
    public:
        explicit Resume(TaskAwaiter* awaiter) noexcept : awaiter_(awaiter) {}
        Resume(Resume&& other) noexcept : awaiter_(std::exchange(other.awaiter_, nullptr)) {}
        Resume& operator=(Resume&&) = delete;
        ~Resume() {
            if (awaiter_ != nullptr && awaiter_->given_) awaiter_->suspended_.go_on();
        }
        void operator()() noexcept {
            TaskAwaiter* const awaiter = std::exchange(awaiter_, nullptr);
            awaiter->ran_ = true;
            awaiter->suspended_.go_on();
        }

    private:
        TaskAwaiter* awaiter_;
    };

    SuspendedCoroutine suspended_;
    bool given_ = false;
    bool ran_ = false;
};

/// `co_await pool.schedule()`: goes on on a worker. Never blocks. Throws Overloaded if the queue is full, Closed if the pool
/// is closed or drops what is queued: then on the thread that closes it.
class ScheduleAwaiter final : public TaskAwaiter {
public:
    explicit ScheduleAwaiter(ThreadPool& pool) noexcept : pool_(pool) {}
    bool await_suspend(std::coroutine_handle<> coroutine) noexcept {
        return suspend(coroutine, [this](ThreadPool::Task& task) {
            if (pool_.try_post(task)) return true;
            throw Overloaded(
                "a coroutine found the queue of its thread pool full: let fewer of them go on at a time, or "
                "raise max_queue");
        });
    }
    void await_resume() const {
        if (!finish()) throw Closed("the thread pool was closed before the coroutine's turn came");
    }

private:
    ThreadPool& pool_;
};

inline ScheduleAwaiter ThreadPool::schedule() noexcept { return ScheduleAwaiter(*this); }

/// `co_await timers.sleep_for(d)`, `co_await timers.sleep_until(t)`: goes on at that time, on the queue's thread, where what
/// takes long does not belong. Throws Closed if the queue is closed before, on the thread that closes it.
class SleepAwaiter final : public TaskAwaiter {
public:
    SleepAwaiter(TimerQueue& timers, TimerQueue::Clock::time_point when) noexcept : timers_(timers), when_(when) {}
    bool await_suspend(std::coroutine_handle<> coroutine) noexcept {
        return suspend(coroutine, [this](TimerQueue::Task& task) {
            (void)timers_.at(when_, std::move(task));
            return true;
        });
    }
    void await_resume() const {
        if (!finish()) throw Closed("the timer queue was closed before the coroutine's time came");
    }

private:
    TimerQueue& timers_;
    const TimerQueue::Clock::time_point when_;
};

inline SleepAwaiter TimerQueue::sleep_until(Clock::time_point when) noexcept { return SleepAwaiter(*this, when); }
inline SleepAwaiter TimerQueue::sleep_for(std::chrono::nanoseconds delay) noexcept {
    return SleepAwaiter(*this, from_now(delay));
}

}  // namespace trtlab::core
