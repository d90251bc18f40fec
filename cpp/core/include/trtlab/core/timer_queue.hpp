#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "trtlab/core/budget.hpp"
#include "trtlab/core/function.hpp"
#include "trtlab/core/histogram.hpp"
#include "trtlab/core/ref_counted.hpp"

namespace trtlab::core {

class SleepAwaiter;

/// Runs tasks at their time: one heap on the monotonic clock (`std::chrono::steady_clock`) behind one thread.
///
/// Tasks run one after another on that thread, so each must be short: what is long it posts to a `ThreadPool`. The
/// earliest deadline runs first; of equal ones, what was added first. A timer that is due earlier than all others
/// re-arms the thread at once, which otherwise sleeps: an idle queue costs nothing.
/// Threads: all members may be called from any thread, tasks included. The destructor closes, dropping what is pending;
/// on the queue's own thread it does not wait for that thread.
/// Blocks: `close` only.
/// Errors: `at` and `after` throw InvalidArgument (an empty task), Closed after `close`, and in a forked child, where
/// everything but the destructors does. What a task throws is logged.
class [[gnu::visibility("default")]] TimerQueue {
    struct Entry;
    struct State;

public:
    using Clock = std::chrono::steady_clock;
    using Task = UniqueFunction<void()>;

    struct Options {
        std::string name = "trtlab-timers";  ///< of the thread: 15 bytes are shown by debuggers and `top -H`
    };

    struct Stats {
        std::size_t pending = 0;
        std::uint64_t executed = 0;   ///< tasks finished
        std::uint64_t cancelled = 0;  ///< by `Timer::cancel`
    };

    /// A task that was added. Dropping it cancels nothing.
    /// Threads: as `std::unique_ptr`; `cancel` may meet the task itself on the queue's thread.
    class [[gnu::visibility("default")]] Timer {
    public:
        Timer() noexcept;
        Timer(Timer&&) noexcept;
        Timer& operator=(Timer&&) noexcept;
        ~Timer();

        /// True: the task will not run, and was destroyed here and now. False: it ran, runs, was cancelled before, was
        /// dropped by `close`, or there is none. Never blocks. Cost: O(log n).
        bool cancel();

    private:
        friend class TimerQueue;
        Timer(Ref<State> state, Ref<Entry> entry) noexcept;
        Ref<State> state_;
        Ref<Entry> entry_;
    };

    /// Starts the thread. Throws OutOfMemory if the system refuses one.
    explicit TimerQueue(const Options& options);
    TimerQueue() : TimerQueue(Options{}) {}
    TimerQueue(const TimerQueue&) = delete;
    TimerQueue& operator=(const TimerQueue&) = delete;
    ~TimerQueue();

    /// Runs `task` at `when`, never before; at once if that is past. If it throws, `task` is untouched.
    Timer at(Clock::time_point when, Task&& task);
    /// The same, so long from now. What is too long for the clock is never.
    Timer after(std::chrono::nanoseconds delay, Task&& task);

    /// `co_await timers.sleep_for(5ms);`: the coroutine goes on at that time. Needs `trtlab/core/await.hpp`.
    SleepAwaiter sleep_for(std::chrono::nanoseconds delay) noexcept;
    SleepAwaiter sleep_until(Clock::time_point when) noexcept;

    /// Refuses new timers. What is pending is dropped (`cancel`), or runs at its time, which is waited for (`drain`);
    /// timers can be cancelled in the meantime, and another `close(Pending::cancel)` ends the wait. Then the thread
    /// ends. Idempotent; throws InvalidArgument on the queue's own thread, which would wait for itself.
    void close(Pending pending = Pending::cancel);

    Stats stats() const;
    /// By how many ns the tasks that ran began after their time.
    Histogram lateness() const;
    const std::string& name() const noexcept;

private:
    static Clock::time_point from_now(std::chrono::nanoseconds delay) noexcept;
    Ref<State> state_;
};

using Timer = TimerQueue::Timer;

}  // namespace trtlab::core
