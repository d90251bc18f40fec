#include "trtlab/core/timer_queue.hpp"

#include <sys/prctl.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "trtlab/core/deadline_heap.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/recycler.hpp"
#include "trtlab/core/signal_mask.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// The heap owns a reference to each entry in it, the timer another.
struct TimerQueue::Entry final : Recycled<Entry>, DeadlineNode {
    void recycle() noexcept { task.reset(); }
    Task task;
};

struct TimerQueue::State final : RefCounted {
    // More than so many timers at a time is rare; beyond it they are allocated.
    static constexpr std::size_t kMaxIdle = 256;

    explicit State(const Options& options_) : options(options_) {}

    void serve();
    /// Ends the thread's sleep. Needs the lock.
    void wake(WakeUp& wake_up) noexcept {
        if (sleeper != nullptr) std::exchange(sleeper, nullptr)->grant(wake_up);
    }
    void shut(Pending pending);
    void require_own_process() const {
        if (fork.forked())
            throw Closed("timer queue '" + options.name + "' stayed in the parent process: make one after the fork");
    }

    const Options options;
    const std::string whose = "a task of timer queue '" + options.name + "'";
    const ForkGuard fork;
    const Ref<Recycler<Entry>> recycler = make_ref<Recycler<Entry>>(kMaxIdle, [] { return new Entry; });
    mutable std::mutex mutex;
    DeadlineHeap<Entry> heap;
    Waiter* sleeper = nullptr;       // the thread, if it sleeps and was not woken
    Clock::time_point sleeps_until;  // means something while there is a sleeper
    Stats counts;                    // `pending` is the heap's to say
    Histogram lateness;
    WaitQueue closers;
    bool closed = false;
    bool dropping = false;  // nothing that is pending runs any more
    bool ended = false;
    std::thread thread;
};

namespace {
thread_local const void* current_queue = nullptr;
}

void TimerQueue::State::serve() {
    char short_name[16];
    std::snprintf(short_name, sizeof short_name, "%s", options.name.c_str());
    pthread_setname_np(pthread_self(), short_name);
    // Else the kernel lets every sleep last up to 50 us longer, to join it with others.
    (void)prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
    current_queue = this;
    std::unique_lock lock(mutex);
    while (!dropping && (!closed || !heap.empty())) {
        const Clock::time_point next = heap.next();
        const Clock::time_point now = Clock::now();
        if (Entry* due = heap.pop_due(now)) {
            lateness.record(static_cast<std::uint64_t>(std::chrono::nanoseconds(now - next).count()));
            lock.unlock();
            {
                const Ref<Entry> entry = Ref<Entry>::adopt(due);
                try {
                    entry->task();
                } catch (...) {
                    log_current_exception(whose);
                }
                entry->task.reset();
            }
            lock.lock();
            ++counts.executed;
        } else {
            Waiter self;
            sleeper = &self;
            sleeps_until = next;
            lock.unlock();
            self.wait(Deadline(next), nullptr);
            lock.lock();
            sleeper = nullptr;
        }
    }
    ended = true;
    while (Waiter* closer = closers.pop()) {
        WakeUp wake_up;
        closer->grant(wake_up);
    }
    lock.unlock();
    current_queue = nullptr;
}

void TimerQueue::State::shut(Pending pending) {
    {
        WakeUp wake_up;
        std::lock_guard lock(mutex);
        closed = true;
        dropping = dropping || pending == Pending::cancel;
        wake(wake_up);
        if (!dropping) return;
    }
    for (;;) {
        Ref<Entry> entry;  // the timer may have another
        Task dropped;      // one by one, after the unlock: what a task captured is the user's
        std::lock_guard lock(mutex);
        entry = Ref<Entry>::adopt(heap.pop());
        if (!entry) return;
        dropped = std::move(entry->task);
    }
}

TimerQueue::TimerQueue(const Options& options) : state_(make_ref<State>(options)) {
    const SignalsBlocked blocked;
    try {
        state_->thread = std::thread([state = state_] { state->serve(); });
    } catch (const std::system_error& error) {
        throw OutOfMemory("timer queue '" + options.name + "': the system refused its thread: " + error.what());
    }
}

TimerQueue::~TimerQueue() {
    if (state_->fork.forked()) {
        // The thread stayed in the parent: joining it would wait for ever, and it may hold the lock.
        (void)state_.detach();
        return;
    }
    if (current_queue == state_.get()) {
        std::thread own;  // empty if another thread is in `close`, which joins it
        {
            std::lock_guard lock(state_->mutex);
            own.swap(state_->thread);
        }
        if (own.joinable()) own.detach();  // it keeps the state alive until it returns
        state_->shut(Pending::cancel);
    } else {
        close();
    }
}

Timer TimerQueue::at(Clock::time_point when, Task&& task) {
    State& state = *state_;
    state.require_own_process();
    if (!task) throw InvalidArgument("timer queue '" + state.options.name + "': the task is empty");
    when = std::max(when, Clock::time_point{});  // further back, differences of times overflow
    Ref<Entry> entry = state.recycler->take();
    WakeUp wake_up;
    std::lock_guard lock(state.mutex);
    if (state.closed) throw Closed("timer queue '" + state.options.name + "' is closed: it takes no more timers");
    state.heap.push(*entry, when);
    entry->task = std::move(task);
    (void)Ref<Entry>(entry).detach();  // the heap's
    if (state.sleeper != nullptr && when < state.sleeps_until) state.wake(wake_up);
    return Timer(state_, std::move(entry));
}

TimerQueue::Clock::time_point TimerQueue::from_now(std::chrono::nanoseconds delay) noexcept {
    const Clock::time_point now = Clock::now();
    return delay < Clock::time_point::max() - now ? now + delay : Clock::time_point::max();
}

Timer TimerQueue::after(std::chrono::nanoseconds delay, Task&& task) { return at(from_now(delay), std::move(task)); }

void TimerQueue::close(Pending pending) {
    const Ref<State> state = state_;  // first: a task may destroy the queue meanwhile
    state->require_own_process();
    if (current_queue == state.get()) {
        throw InvalidArgument("timer queue '" + state->options.name +
                              "': close() was called by one of its own tasks, which would wait for itself");
    }
    state->shut(pending);
    std::thread joining;
    {
        Waiter self;
        std::unique_lock lock(state->mutex);
        joining.swap(state->thread);
        if (!state->ended) {
            state->closers.push(self);
            lock.unlock();
            self.wait(Deadline(kForever), nullptr);
        }
    }
    if (joining.joinable()) joining.join();
}

TimerQueue::Stats TimerQueue::stats() const {
    state_->require_own_process();
    std::lock_guard lock(state_->mutex);
    Stats stats = state_->counts;
    stats.pending = state_->heap.size();
    return stats;
}

Histogram TimerQueue::lateness() const {
    state_->require_own_process();
    std::lock_guard lock(state_->mutex);
    return state_->lateness;
}

const std::string& TimerQueue::name() const noexcept { return state_->options.name; }

TimerQueue::Timer::Timer() noexcept = default;
TimerQueue::Timer::Timer(Ref<State> state, Ref<Entry> entry) noexcept
    : state_(std::move(state)), entry_(std::move(entry)) {}
TimerQueue::Timer::Timer(Timer&&) noexcept = default;
TimerQueue::Timer& TimerQueue::Timer::operator=(Timer&& other) noexcept {
    if (this != &other) {
        const Timer dropped(std::move(*this));
        state_ = std::move(other.state_);
        entry_ = std::move(other.entry_);
    }
    return *this;
}

TimerQueue::Timer::~Timer() {
    if (entry_ && state_->fork.forked()) {
        // A thread of the parent may hold the recycler's lock.
        (void)entry_.detach();
        (void)state_.detach();
    }
}

bool TimerQueue::Timer::cancel() {
    if (!entry_) return false;
    state_->require_own_process();
    Task dropped;  // destroyed after the unlock
    Ref<Entry> entry;
    WakeUp wake_up;
    std::lock_guard lock(state_->mutex);
    if (!DeadlineHeap<Entry>::holds(*entry_)) return false;
    state_->heap.remove(*entry_);
    entry = Ref<Entry>::adopt(entry_.get());
    dropped = std::move(entry_->task);
    ++state_->counts.cancelled;
    if (state_->closed && state_->heap.empty()) state_->wake(wake_up);  // there is nothing left to drain
    return true;
}

}  // namespace trtlab::core
