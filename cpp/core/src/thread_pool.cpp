#include "trtlab/core/thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "spin_time.hpp"
#include "task_queue.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/signal_mask.hpp"

namespace trtlab::core {
namespace {

constexpr std::size_t kMostThreads = 1 << 16;

/// A worker that has nothing to do, and the task that it is handed.
struct Parked : Waiter {
    ThreadPool::Task task;
};

/// A caller blocked in `post`, with those of its tasks that are still to be taken.
struct Poster : Waiter {
    std::span<ThreadPool::Task> tasks;
};

struct alignas(64) Tally {
    std::atomic<std::uint64_t> executed{0};  // written by its worker only
};

[[noreturn]] void throw_closed(const std::string& name) {
    throw Closed("thread pool '" + name + "' is closed: it takes no more tasks");
}

/// What holds of the options once nothing in them is left to choose.
ThreadPool::Options resolve(ThreadPool::Options options) {
    const std::string name = "thread pool '" + options.name + "': ";
    if (options.max_queue == 0) throw InvalidArgument(name + "max_queue is 0, at least 1 is needed");
    if (options.threads == 0) options.threads = options.cpus.count_common(process_cpus());
    if (options.threads == 0) options.threads = usable_cpus();
    if (options.threads > kMostThreads) {
        throw InvalidArgument(name + "expected at most " + std::to_string(kMostThreads) + " threads, got " +
                              std::to_string(options.threads));
    }
    return options;
}

thread_local const void* current_pool = nullptr;

}  // namespace

/// Workers take tasks from the queue without the lock; everything else is done under it.
///
/// A worker that finds nothing searches, spinning, and then parks. Two things hold whenever the lock is free:
/// - While a worker is parked, each task in the queue has somebody who will look at the queue: a searching worker, or one
///   that has yet to look whether it must wake another. A worker parks only after it has found the queue empty under the
///   lock, under which tasks are put in. Who puts a task in while a worker is parked looks afterwards whether anybody is
///   searching, and else wakes one; who ends its search with a task looks, if it was the last to search, whether there is
///   another task, and then wakes one. The two are ordered (TaskRing::try_push): at least one of them sees the other.
/// - A caller is blocked only while the queue is full: it says that it waits, and looks again whether there is room; who
///   takes a task looks afterwards whether anybody waits (TaskRing::try_take).
struct ThreadPool::State {
    explicit State(const Options& options_)
        : options(options_), queue(options_.max_queue), tallies(std::make_unique<Tally[]>(options_.threads)) {
        idle.reserve(options_.threads);
    }

    void work(std::size_t index);
    /// False once there is nothing more to do.
    bool next(Task& task, SpinTime& spin_time);
    /// Waits for a task, spinning. As long as it does, nobody needs to be woken for what is put in.
    bool search(Task& task, const SpinTime& spin_time);
    void make_room();
    void wake_another();
    void await_searcher() const noexcept;
    void shut(Pending pending);
    std::vector<std::thread> take_threads() {
        std::lock_guard lock(mutex);
        return std::exchange(threads, {});
    }

    // Under the lock:
    bool accept(std::span<Task>& tasks, WakeUp& wake_up);
    void hand_over(WakeUp& wake_up) noexcept;
    void grant_room(WakeUp& worker, WakeUp& poster);
    void note_idle() noexcept {
        idle_count.store(idle.size(), std::memory_order_relaxed);
    }  // a hint, or after the queue

    void require_own_process() const {
        if (fork.forked())
            throw Closed("thread pool '" + options.name + "' stayed in the parent process: make one after the fork");
    }
    void require_task(const Task& task) const {
        if (!task) throw InvalidArgument("thread pool '" + options.name + "': the task is empty");
    }

    const Options options;
    const std::string whose = "a task posted to thread pool '" + options.name + "'";
    const ForkGuard fork;
    std::size_t pinned = 0;   // written before there is a second user
    std::string pin_refusal;  // as pinned
    TaskQueue queue;
    const std::unique_ptr<Tally[]> tallies;

    alignas(64) mutable std::mutex mutex;
    std::vector<Parked*> idle;
    WaitQueue posters;
    std::vector<std::thread> threads;
    std::size_t living = 0;  // workers that have not ended
    WaitQueue closers;       // who waits for them, while another joins
    bool closed = false;

    alignas(64) std::atomic<std::size_t> searching{0};
    alignas(64) std::atomic<std::size_t> idle_count{0};
    std::atomic<bool> posters_wait{false};
    std::atomic<bool> closing{false};   // a hint for who searches
    std::atomic<bool> dropping{false};  // a task taken from now on is not run
};

bool ThreadPool::State::accept(std::span<Task>& tasks, WakeUp& wake_up) {
    const bool parked = !idle.empty();
    while (!tasks.empty()) {
        if (queue.full() || !queue.push(tasks.front(), parked)) {
            if (idle.empty()) return false;
            WakeUp at_once;  // seldom: as many tasks as the queue has room for, and parked workers
            hand_over(at_once);
            continue;
        }
        tasks = tasks.subspan(1);
    }
    if (parked && searching.load(std::memory_order_seq_cst) == 0) hand_over(wake_up);  // pairs with search
    return true;
}

/// The oldest task, to the worker that parked last: its cache is the warmest.
void ThreadPool::State::hand_over(WakeUp& wake_up) noexcept {
    Task task;
    if (idle.empty() || !queue.take(task)) return;
    Parked* worker = idle.back();
    idle.pop_back();
    note_idle();
    worker->task = std::move(task);
    worker->grant(wake_up);
}

void ThreadPool::State::grant_room(WakeUp& worker, WakeUp& poster) {
    auto* first = static_cast<Poster*>(posters.front());
    if (first == nullptr || !accept(first->tasks, worker)) return;
    posters.pop();
    posters_wait.store(!posters.empty(), std::memory_order_relaxed);
    first->grant(poster);
}

void ThreadPool::State::make_room() {
    if (!posters_wait.load(std::memory_order_seq_cst) && !queue.should_move_up()) return;  // pairs with post_bulk
    WakeUp worker, poster;
    std::lock_guard lock(mutex);
    queue.move_up();
    grant_room(worker, poster);
}

void ThreadPool::State::wake_another() {
    WakeUp wake_up;
    std::lock_guard lock(mutex);
    hand_over(wake_up);
}

/// A worker at the end of a short task will look for the next one in a moment. Waiting so long costs a tenth of waking a
/// parked one, and leaves the work where it was.
void ThreadPool::State::await_searcher() const noexcept {
    constexpr int kPauses = 8;
    const std::size_t parked = idle_count.load(std::memory_order_relaxed);
    if (parked == 0 || parked == options.threads || current_pool == this) return;
    for (int i = 0; i < kPauses && searching.load(std::memory_order_relaxed) == 0; ++i) spin_pause();
}

bool ThreadPool::State::search(Task& task, const SpinTime& spin_time) {
    searching.fetch_add(1, std::memory_order_seq_cst);
    // A search that others keep off the CPU is one that nobody should count on: parked, it would be woken in its turn.
    constexpr std::chrono::microseconds kOthers(10);
    bool found = false;
    spin_until(
        SpinTime::Clock::now() + spin_time.next(),
        [&] {
            found = queue.try_take(task);
            return found || closing.load(std::memory_order_relaxed);
        },
        kOthers);
    const bool last = searching.fetch_sub(1, std::memory_order_seq_cst) == 1;  // pairs with accept
    // Who saw the task in the queue sees the worker that was parked when it was put there.
    if (found && last && !queue.empty() && idle_count.load(std::memory_order_relaxed) > 0) wake_another();
    return found;
}

bool ThreadPool::State::next(Task& task, SpinTime& spin_time) {
    for (;;) {
        if (queue.try_take(task) || search(task, spin_time)) {
            make_room();
            return true;
        }
        Parked self;
        {
            WakeUp worker, poster, another;
            std::lock_guard lock(mutex);
            const bool found = queue.take(task);
            queue.move_up();
            grant_room(worker, poster);
            if (found) {
                if (!queue.empty()) hand_over(another);
                return true;
            }
            if (!queue.empty()) continue;  // a poster's
            if (closed) {
                if (--living > 0) return false;
                while (Waiter* closer = closers.pop()) {
                    WakeUp all_ended;
                    closer->grant(all_ended);
                }
                return false;
            }
            idle.push_back(&self);  // cannot throw: reserved for every worker
            note_idle();
        }
        const auto begin = SpinTime::Clock::now();
        self.wait(Deadline(kForever), nullptr);
        spin_time.learn(SpinTime::Clock::now() - begin);
        task = std::move(self.task);
        if (!task) continue;  // close() woke it
        if (!queue.empty() && idle_count.load(std::memory_order_relaxed) > 0) wake_another();
        return true;
    }
}

void ThreadPool::State::work(std::size_t index) {
    current_pool = this;
    const std::string suffix = "-" + std::to_string(index);
    const std::string name = options.name.substr(0, 15 - std::min<std::size_t>(15, suffix.size())) + suffix;
    pthread_setname_np(pthread_self(), name.c_str());
    std::atomic<std::uint64_t>& executed = tallies[index].executed;
    SpinTime spin_time;
    for (Task task; next(task, spin_time);) {
        const bool runs = !dropping.load(std::memory_order_relaxed);
        if (runs) {
            try {
                task();
            } catch (...) {
                log_current_exception(whose);
            }
        }
        task.reset();
        // Release pairs with stats(): who sees the count sees what the tasks did.
        if (runs) executed.store(executed.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }
}

ThreadPool::ThreadPool(const Options& options) : state_(std::make_shared<State>(resolve(options))) {
    const Options& resolved = state_->options;
    const CpuSet allowed = resolved.cpus & process_cpus();
    const SignalsBlocked blocked;
    try {
        auto cpu = allowed.begin();
        for (std::size_t i = 0; i < resolved.threads; ++i) {
            CpuSet cpus = resolved.cpus;
            if (resolved.pinning == Pinning::one_each && !allowed.empty()) {
                if (cpu == allowed.end()) cpu = allowed.begin();
                cpus = {*cpu++};
            }
            // A thread begins where its maker is: so it is in its place from its first instruction on.
            std::optional<ScopedAffinity> place;
            if (!cpus.empty()) place.emplace(cpus);
            {
                std::lock_guard lock(state_->mutex);
                state_->threads.emplace_back([state = state_, i] { state->work(i); });
                ++state_->living;
            }
            if (!place) continue;
            if (place->pinned()) ++state_->pinned;
            if (state_->pin_refusal.empty()) state_->pin_refusal = place->reason();
        }
    } catch (...) {
        const std::size_t made = state_->threads.size();
        close();
        throw OutOfMemory("thread pool '" + resolved.name + "': the system refused thread " + std::to_string(made + 1) +
                          " of " + std::to_string(resolved.threads));
    }
    if (!state_->pin_refusal.empty())
        log("thread pool '" + resolved.name + "' runs without its pins: " + state_->pin_refusal);
}

ThreadPool::~ThreadPool() {
    if (state_->fork.forked()) {
        // The threads stayed in the parent: joining them would wait for ever, and their stacks may hold the lock.
        new std::shared_ptr<State>(std::move(state_));
        return;
    }
    if (current_pool != state_.get()) {
        close();
        return;
    }
    shut(Pending::drain);
    // Another thread may be in `close`, and be the one that joins: this worker is not waited for here in any case.
    for (std::thread& thread : state_->take_threads())
        thread.get_id() == std::this_thread::get_id() ? thread.detach() : thread.join();
    current_pool = nullptr;
}

void ThreadPool::post_bulk(std::span<Task> tasks, const WaitOptions& wait) {
    State& state = *state_;
    state.require_own_process();
    for (const Task& task : tasks) state.require_task(task);
    state.await_searcher();
    Poster self;
    self.tasks = tasks;
    std::shared_ptr<State> keep;
    {
        WakeUp worker, poster;
        std::lock_guard lock(state.mutex);
        if (state.closed) throw_closed(state.options.name);
        if (state.posters.empty() && state.accept(self.tasks, worker)) return;
        if (tasks.empty()) return;  // behind posters that wait there is nothing to wait for
        if (wait.timeout.count() > 0) {
            keep = state_;  // the pool may go away while the thread waits
            state.posters.push(self);
            state.posters_wait.store(true, std::memory_order_seq_cst);  // pairs with make_room
            state.grant_room(worker, poster);  // who took a task before the line above did not see it
        }
    }
    if (keep) {
        std::exception_ptr interrupted;
        try {
            self.wait(Deadline(wait.timeout), wait.on_signal);
        } catch (...) {
            interrupted = std::current_exception();
        }
        {
            std::lock_guard lock(state.mutex);
            if (!self.granted()) {
                state.posters.remove(self);
                state.posters_wait.store(!state.posters.empty(), std::memory_order_relaxed);
            }
        }
        if (interrupted) std::rethrow_exception(interrupted);
        if (self.tasks.empty()) return;
        if (self.granted()) throw_closed(state.options.name);
    }
    const std::string which =
        tasks.size() == 1 ? "" : " for " + std::to_string(self.tasks.size()) + " of " + std::to_string(tasks.size());
    throw Overloaded("thread pool '" + state.options.name + "': " + std::to_string(state.options.max_queue) +
                     " tasks wait, and no place became free in time" + which +
                     "; post less, wait longer, or raise max_queue");
}

bool ThreadPool::try_post(Task& task) {
    State& state = *state_;
    state.require_own_process();
    state.require_task(task);
    state.await_searcher();
    std::span<Task> tasks(&task, 1);
    WakeUp wake_up;
    std::lock_guard lock(state.mutex);
    if (state.closed) throw_closed(state.options.name);
    return state.posters.empty() && state.accept(tasks, wake_up);
}

void ThreadPool::close(Pending pending) {
    const std::shared_ptr<State> keep = state_;  // a task may destroy the pool meanwhile
    State& state = *keep;
    state.require_own_process();
    if (current_pool == state_.get()) {
        throw InvalidArgument("thread pool '" + state.options.name +
                              "': close() was called by one of its own workers, which would wait for itself");
    }
    state.shut(pending);
    std::vector<std::thread> joining = state.take_threads();
    for (std::thread& thread : joining) thread.join();
    Waiter self;
    {
        std::lock_guard lock(state.mutex);
        if (state.living == 0) return;
        state.closers.push(self);
    }
    self.wait(Deadline(kForever), nullptr);  // another thread joins them
}

void ThreadPool::shut(Pending pending) {
    const std::shared_ptr<State> keep = state_;
    keep->require_own_process();
    keep->shut(pending);
}

void ThreadPool::State::shut(Pending pending) {
    {
        std::lock_guard lock(mutex);
        closed = true;
        closing.store(true, std::memory_order_relaxed);
        if (pending == Pending::cancel) dropping.store(true, std::memory_order_relaxed);
        while (Waiter* poster = posters.pop()) {
            WakeUp wake_up;
            poster->grant(wake_up);
        }
        posters_wait.store(false, std::memory_order_relaxed);
        for (Parked* worker : idle) {
            WakeUp wake_up;
            worker->grant(wake_up);
        }
        idle.clear();
        note_idle();
    }
    if (pending == Pending::drain) return;
    // Before anybody joins: a running task may be waiting for the future of a dropped one. Without the lock: what a task
    // holds may do anything as it goes.
    const auto take = [this](Task& task) {
        std::lock_guard lock(mutex);
        return queue.take(task);
    };
    for (Task dropped; take(dropped);) dropped.reset();
}

std::size_t ThreadPool::threads() const noexcept { return state_->options.threads; }

ThreadPool::Stats ThreadPool::stats() const {
    const State& state = *state_;
    state.require_own_process();
    Stats stats{.threads = state.options.threads, .pinned = state.pinned, .pin_refusal = state.pin_refusal};
    for (std::size_t i = 0; i < state.options.threads; ++i)
        stats.executed += state.tallies[i].executed.load(std::memory_order_acquire);  // pairs with work
    std::lock_guard lock(state.mutex);
    stats.idle = state.idle.size();
    stats.queued = state.queue.size();
    stats.blocked_callers = state.posters.size();
    return stats;
}

}  // namespace trtlab::core
