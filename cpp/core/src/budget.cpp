#include "trtlab/core/budget.hpp"

#include <algorithm>
#include <string>

#include "pump_scope.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/tensor.hpp"

namespace trtlab::core {

std::size_t default_executions(std::size_t cpus) noexcept { return std::min(cpus, std::max<std::size_t>(2, cpus / 4)); }

Job::~Job() = default;
BudgetResource::~BudgetResource() = default;

/// A thread blocked in `admit`, with the job that it brings.
struct ExecutionBudget::Caller : Waiter {
    Job* job = nullptr;
    std::exception_ptr refused;
};

namespace {

ExecutionBudget::Options checked(ExecutionBudget::Options options) {
    if (options.max_executions == 0)
        throw InvalidArgument("max_executions is 0: at least 1 request must be able to execute");
    if (options.max_buffers == 0) options.max_buffers = checked_mul(options.max_executions, 2);
    if (options.max_buffers < options.max_executions) {
        throw InvalidArgument("max_buffers is " + std::to_string(options.max_buffers) + ", below max_executions, " +
                              std::to_string(options.max_executions) + ": every executing request needs a buffer");
    }
    return options;
}

}  // namespace

ExecutionBudget::ExecutionBudget(const Options& options)
    : options_(checked(options)), free_executions_(options_.max_executions), free_buffers_(options_.max_buffers) {}

ExecutionBudget::~ExecutionBudget() = default;

bool ExecutionBudget::runnable() const noexcept {
    return (!staged_.empty() && free_executions_ > 0) || (!queued_.empty() && free_buffers_ > 0);
}

/// Whether a new job may come in: past the queue at once, or into it.
bool ExecutionBudget::has_room() const noexcept {
    return (queued_.empty() && free_buffers_ > 0) || queued_.size() < options_.max_queue;
}

void ExecutionBudget::enqueue(Job& job) noexcept {
    job.ticket_ = next_ticket_++;
    queued_.push(job);
}

/// Jobs that are staged by several threads at a time may be ready in another order than they came in.
void ExecutionBudget::keep_staged(Job& job) noexcept {
    Job* before = staged_.back();
    while (before != nullptr && before->ticket_ > job.ticket_) before = JobList::previous(*before);
    staged_.insert_after(before, job);
}

void ExecutionBudget::grant_room(WakeUp& wake_up) noexcept {
    if (callers_.empty() || !has_room()) return;
    auto* caller = static_cast<Caller*>(callers_.pop());
    enqueue(*caller->job);
    caller->grant(wake_up);
}

/// Takes one cancelled job out of the queue, or returns null.
Job* ExecutionBudget::unlink_unwanted() noexcept {
    for (Job* job = queued_.front(); job != nullptr; job = JobList::next(*job)) {
        if (!job->wanted()) {
            queued_.remove(*job);
            return job;
        }
    }
    return nullptr;
}

std::exception_ptr ExecutionBudget::admit(Job& job, const void* owner, std::string_view name, const WaitOptions& wait) {
    job.owner_ = owner;
    const bool reentrant = PumpScope::inside(this);
    Caller self;
    std::exception_ptr interrupted;
    Job* discarded = nullptr;
    bool straight_through = false;
    bool queued = true;
    {
        std::lock_guard lock(mutex_);
        job.check_open();
        if (!has_room() && callers_.empty()) discarded = unlink_unwanted();
        if (!callers_.empty() || !has_room()) {
            queued = false;
            if (wait.timeout.count() > 0) {
                self.job = &job;
                callers_.push(self);
            } else {
                ++overloaded_;
            }
        } else if (!reentrant && queued_.empty() && staged_.empty() && free_buffers_ > 0 && free_executions_ > 0) {
            straight_through = true;
            job.ticket_ = next_ticket_++;
            --free_buffers_;
            --free_executions_;
        } else {
            enqueue(job);
        }
    }
    if (discarded != nullptr) discarded->discard();
    if (straight_through) {
        {
            const PumpScope pumping(this);
            if (stage(job) == Staged::done) {
                launch(job);
            } else {
                take_back(true, false);
            }
        }
        pump();
        return nullptr;
    }
    if (!queued && wait.timeout.count() > 0) {
        bool granted = false;
        try {
            granted = self.wait(Deadline(wait.timeout), wait.on_signal);
        } catch (...) {
            interrupted = std::current_exception();
        }
        if (!granted) {
            std::lock_guard lock(mutex_);
            granted = self.granted();
            if (!granted) {
                callers_.remove(self);
                if (!interrupted) ++overloaded_;
            }
        }
        if (interrupted && (!granted || self.refused)) std::rethrow_exception(interrupted);
        if (self.refused) std::rethrow_exception(self.refused);
        queued = granted;
    }
    if (!queued) {
        throw Overloaded(
            "model '" + std::string(name) + "': " + std::to_string(options_.max_executions) + " requests execute, " +
            std::to_string(options_.max_buffers) + " hold buffers and " + std::to_string(options_.max_queue) +
            " wait, and no place became free in time; send less, wait longer (queue_timeout), or raise max_queue");
    }
    pump();
    return interrupted;
}

bool ExecutionBudget::give_back_execution() noexcept { return take_back(true, false); }
bool ExecutionBudget::give_back_buffer() noexcept { return take_back(false, true); }
bool ExecutionBudget::give_back_both() noexcept { return take_back(true, true); }

bool ExecutionBudget::take_back(bool execution, bool buffer) noexcept {
    WakeUp wake_up;
    std::lock_guard lock(mutex_);
    if (execution) ++free_executions_;
    if (buffer) ++free_buffers_;
    if (queued_.empty()) grant_room(wake_up);  // matters where max_queue is 0: a free buffer is the only room there is
    return runnable();
}

ExecutionBudget::Staged ExecutionBudget::stage(Job& job) noexcept {
    try {
        // A deferred job may be launched, answered and gone before this returns: it is not looked at any more.
        return job.stage() == Staging::done ? Staged::done : Staged::deferred;
    } catch (...) {
        take_back(false, true);
        job.abandon(std::current_exception());
        return Staged::failed;
    }
}

void ExecutionBudget::staged(Job& job, std::exception_ptr error) noexcept {
    if (error) {
        take_back(false, true);
        job.abandon(std::move(error));
    } else {
        std::lock_guard lock(mutex_);
        keep_staged(job);
    }
    pump();
}

void ExecutionBudget::launch(Job& job) noexcept {
    try {
        job.launch();
    } catch (...) {
        take_back(true, true);
        job.abandon(std::current_exception());
    }
}

void ExecutionBudget::pump() noexcept {
    if (PumpScope::inside(this)) return;
    const PumpScope pumping(this);
    for (;;) {
        Job* to_stage = nullptr;
        Job* to_launch = nullptr;
        Job* unwanted = nullptr;
        {
            WakeUp wake_up;
            std::lock_guard lock(mutex_);
            if (!staged_.empty() && free_executions_ > 0) {
                to_launch = staged_.pop();
                --free_executions_;
            } else if (!queued_.empty() && free_buffers_ > 0) {
                Job* job = queued_.pop();
                if (job->wanted()) {
                    to_stage = job;
                    --free_buffers_;
                } else {
                    unwanted = job;
                }
                grant_room(wake_up);
            } else {
                break;
            }
        }
        if (to_launch != nullptr) {
            launch(*to_launch);
        } else if (unwanted != nullptr) {
            unwanted->discard();
        } else if (stage(*to_stage) == Staged::done) {
            std::lock_guard lock(mutex_);
            keep_staged(*to_stage);
        }
    }
}

void ExecutionBudget::refuse(const void* owner, std::exception_ptr error, Pending pending) noexcept {
    JobList abandoned;
    std::size_t freed = 0;
    {
        std::lock_guard lock(mutex_);
        for (Waiter* waiter = callers_.front(); waiter != nullptr;) {
            auto* caller = static_cast<Caller*>(waiter);
            waiter = WaitQueue::next(*waiter);
            if (caller->job->owner_ != owner) continue;
            callers_.remove(*caller);
            caller->refused = error;
            WakeUp wake_up;
            caller->grant(wake_up);
        }
        if (pending == Pending::cancel) {
            const auto move_out = [&](JobList& list, std::size_t& count) {
                for (Job* job = list.front(); job != nullptr;) {
                    Job* next = JobList::next(*job);
                    if (job->owner_ == owner) {
                        list.remove(*job);
                        abandoned.push(*job);
                        ++count;
                    }
                    job = next;
                }
            };
            std::size_t from_queue = 0;
            move_out(queued_, from_queue);
            move_out(staged_, freed);
        }
    }
    while (Job* job = abandoned.pop()) job->abandon(error);
    if (freed != 0) {
        // Only now: an engine's own buffer may go back as late as in `abandon`.
        std::lock_guard lock(mutex_);
        free_buffers_ += freed;
    }
    // Room for other models' callers came free with every job that left; each pass of the pump lets one in.
    for (;;) {
        WakeUp wake_up;
        std::lock_guard lock(mutex_);
        if (callers_.empty() || !has_room()) break;
        grant_room(wake_up);
    }
    pump();
}

ExecutionBudget::Stats ExecutionBudget::stats() const {
    std::lock_guard lock(mutex_);
    return {options_.max_executions - free_executions_,
            options_.max_buffers - free_buffers_,
            queued_.size(),
            callers_.size(),
            next_ticket_,
            overloaded_};
}

std::shared_ptr<BudgetResource> ExecutionBudget::shared(const std::string& key,
                                                        const std::function<std::shared_ptr<BudgetResource>()>& make) {
    std::lock_guard lock(resources_mutex_);
    const auto found = resources_.find(key);
    if (found != resources_.end()) return found->second;
    std::shared_ptr<BudgetResource> made = make();
    if (!made) throw InvalidArgument("what makes the budget's resource '" + key + "' returned nothing");
    return resources_.emplace(key, std::move(made)).first->second;
}

std::vector<MemoryUse> ExecutionBudget::memory() const {
    std::lock_guard lock(resources_mutex_);
    std::vector<MemoryUse> all;
    for (const auto& [key, resource] : resources_) {
        for (MemoryUse& use : resource->memory()) all.push_back(std::move(use));
    }
    return all;
}

}  // namespace trtlab::core
