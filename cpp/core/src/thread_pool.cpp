#include "trtlab/core/thread_pool.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <mutex>
#include <thread>
#include <vector>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

struct Worker : Waiter {
    ThreadPool::Task task;
};

/// A caller blocked in `post`, with the task that it brings.
struct Poster : Waiter {
    ThreadPool::Task* task = nullptr;
    bool accepted = false;
};

/// A growing ring: a deque would allocate as it moves along, this allocates only for a new high water mark.
class TaskRing {
public:
    bool empty() const noexcept { return size_ == 0; }
    std::size_t size() const noexcept { return size_; }

    void push(ThreadPool::Task&& task) {
        if (size_ == slots_.size()) {
            std::vector<ThreadPool::Task> larger(std::max<std::size_t>(16, slots_.size() * 2));
            for (std::size_t i = 0; i < size_; ++i) larger[i] = std::move(slots_[(head_ + i) % slots_.size()]);
            slots_ = std::move(larger);
            head_ = 0;
        }
        slots_[(head_ + size_) % slots_.size()] = std::move(task);
        ++size_;
    }

    ThreadPool::Task pop() noexcept {
        ThreadPool::Task task = std::move(slots_[head_]);
        head_ = (head_ + 1) % slots_.size();
        --size_;
        return task;
    }

private:
    std::vector<ThreadPool::Task> slots_;
    std::size_t head_ = 0;
    std::size_t size_ = 0;
};

[[noreturn]] void throw_closed(const std::string& name) {
    throw Closed("thread pool '" + name + "' is closed: it takes no more tasks");
}

}  // namespace

struct ThreadPool::State {
    explicit State(const Options& options_) : options(options_) {}

    void work();
    /// Hands `task` to a parked worker or to the queue; false if there is no room.
    bool accept(Task& task, WakeUp& wake_up);
    void grant_room(WakeUp& wake_up);
    void require_own_process() const {
        if (fork.forked())
            throw Closed("thread pool '" + options.name + "' stayed in the parent process: make one after the fork");
    }

    const Options options;
    const ForkGuard fork;
    mutable std::mutex mutex;
    TaskRing queue;
    std::vector<Worker*> idle;
    WaitQueue posters;
    std::vector<std::thread> threads;
    std::uint64_t executed = 0;
    bool closed = false;
};

namespace {
thread_local const void* current_pool = nullptr;
}

bool ThreadPool::State::accept(Task& task, WakeUp& wake_up) {
    if (!idle.empty()) {
        // The worker that parked last: its cache is the warmest.
        Worker* worker = idle.back();
        idle.pop_back();
        worker->task = std::move(task);
        worker->grant(wake_up);
        return true;
    }
    if (queue.size() >= options.max_queue) return false;
    queue.push(std::move(task));
    return true;
}

void ThreadPool::State::grant_room(WakeUp& wake_up) {
    if (posters.empty() || queue.size() >= options.max_queue) return;
    auto* poster = static_cast<Poster*>(posters.pop());
    queue.push(std::move(*poster->task));
    poster->accepted = true;
    poster->grant(wake_up);
}

void ThreadPool::State::work() {
    current_pool = this;
    std::unique_lock lock(mutex);
    for (;;) {
        Task task;
        if (!queue.empty()) {
            WakeUp wake_up;
            task = queue.pop();
            grant_room(wake_up);
            lock.unlock();
        } else if (closed) {
            return;
        } else {
            Worker self;
            idle.push_back(&self);  // cannot throw: reserved for every worker
            lock.unlock();
            self.wait(Deadline(kForever), nullptr);
            task = std::move(self.task);
        }
        const bool handed_a_task = static_cast<bool>(task);  // not so when close() woke the worker
        if (handed_a_task) {
            try {
                task();
            } catch (...) {
                log_current_exception("a task posted to thread pool '" + options.name + "'");
            }
            task.reset();
        }
        lock.lock();
        if (handed_a_task) ++executed;
    }
}

ThreadPool::ThreadPool(const Options& options) {
    Options resolved = options;
    if (resolved.threads == 0) resolved.threads = usable_cpus();
    if (resolved.max_queue == 0)
        throw InvalidArgument("thread pool '" + resolved.name + "': max_queue is 0, at least 1 is needed");
    state_ = std::make_shared<State>(resolved);
    state_->idle.reserve(resolved.threads);

    // Signals belong to the application's threads; a worker that took one would leave the main thread asleep. Those that
    // a fault raises are the faulting thread's own: blocked, they would end the process without the handler's report.
    sigset_t all, before;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        for (std::size_t i = 0; i < resolved.threads; ++i) {
            state_->threads.emplace_back([state = state_] { state->work(); });
            const std::string suffix = "-" + std::to_string(i);
            const std::string name = resolved.name.substr(0, 15 - std::min<std::size_t>(15, suffix.size())) + suffix;
            pthread_setname_np(state_->threads.back().native_handle(), name.c_str());
        }
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        const std::size_t made = state_->threads.size();
        close();
        throw OutOfMemory("thread pool '" + resolved.name + "': the system refused thread " + std::to_string(made + 1) +
                          " of " + std::to_string(resolved.threads));
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ThreadPool::~ThreadPool() {
    if (state_->fork.forked()) {
        // The threads stayed in the parent: joining them would wait for ever, and their stacks may hold the lock.
        new std::shared_ptr<State>(std::move(state_));
        return;
    }
    if (current_pool == state_.get()) {
        for (std::thread& thread : state_->threads) {
            if (thread.get_id() == std::this_thread::get_id())
                thread.detach();  // it keeps the state alive until it returns
        }
    }
    std::erase_if(state_->threads, [](const std::thread& thread) { return !thread.joinable(); });
    current_pool = current_pool == state_.get() ? nullptr : current_pool;
    close();
}

void ThreadPool::post(Task task, const WaitOptions& wait) {
    state_->require_own_process();
    if (!task) throw InvalidArgument("thread pool '" + state_->options.name + "': the task is empty");
    Poster self;
    {
        WakeUp wake_up;
        std::lock_guard lock(state_->mutex);
        if (state_->closed) throw_closed(state_->options.name);
        if (state_->posters.empty() && state_->accept(task, wake_up)) return;
        if (wait.timeout.count() > 0) {
            self.task = &task;
            state_->posters.push(self);
        }
    }
    if (self.task != nullptr) {
        std::exception_ptr interrupted;
        try {
            self.wait(Deadline(wait.timeout), wait.on_signal);
        } catch (...) {
            interrupted = std::current_exception();
        }
        {
            std::lock_guard lock(state_->mutex);
            if (!self.granted()) state_->posters.remove(self);
        }
        if (interrupted) std::rethrow_exception(interrupted);
        if (self.accepted) return;
        if (self.granted()) throw_closed(state_->options.name);
    }
    throw Overloaded("thread pool '" + state_->options.name + "': " + std::to_string(state_->options.max_queue) +
                     " tasks wait, and no place became free in time; post less, wait longer, or raise max_queue");
}

bool ThreadPool::try_post(Task& task) {
    state_->require_own_process();
    if (!task) throw InvalidArgument("thread pool '" + state_->options.name + "': the task is empty");
    WakeUp wake_up;
    std::lock_guard lock(state_->mutex);
    if (state_->closed) throw_closed(state_->options.name);
    return state_->posters.empty() && state_->accept(task, wake_up);
}

void ThreadPool::close(Pending pending) {
    state_->require_own_process();
    if (current_pool == state_.get()) {
        throw InvalidArgument("thread pool '" + state_->options.name +
                              "': close() was called by one of its own workers, which would wait for itself");
    }
    std::vector<std::thread> joining;
    {
        TaskRing dropped;  // gone before the join: a running task may be waiting for the future of a dropped one
        std::lock_guard lock(state_->mutex);
        state_->closed = true;
        if (pending == Pending::cancel) std::swap(dropped, state_->queue);
        while (Waiter* poster = state_->posters.pop()) {
            WakeUp wake_up;
            poster->grant(wake_up);
        }
        for (Worker* worker : state_->idle) {
            WakeUp wake_up;
            worker->grant(wake_up);
        }
        state_->idle.clear();
        joining.swap(state_->threads);
    }
    for (std::thread& thread : joining) thread.join();
}

std::size_t ThreadPool::threads() const noexcept { return state_->options.threads; }

ThreadPool::Stats ThreadPool::stats() const {
    state_->require_own_process();
    std::lock_guard lock(state_->mutex);
    return {state_->options.threads, state_->idle.size(), state_->queue.size(), state_->posters.size(),
            state_->executed};
}

}  // namespace trtlab::core
