#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/intrusive_list.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// What `close()` does with requests that were accepted but have not begun.
enum class Pending {
    drain,   ///< let them run
    cancel,  ///< fail their futures with Closed
};

/// What a job says of its staging.
enum class Staging {
    done,
    deferred,  ///< it goes on elsewhere, and ends with a call of `ExecutionBudget::staged`
};

/// What the models that share a budget share besides it: scratch memory of a device, for example. Made once, kept as long
/// as the budget.
class [[gnu::visibility("default")]] BudgetResource {
public:
    BudgetResource() = default;
    BudgetResource(const BudgetResource&) = delete;
    BudgetResource& operator=(const BudgetResource&) = delete;
    virtual ~BudgetResource();
    /// The memory that it holds now.
    virtual std::vector<MemoryUse> memory() const = 0;
};

/// How many requests should execute at the same time on so many CPUs, where nobody says: 2, or a quarter of the CPUs if that
/// is more, and never more than there are. Two keep the CPUs busy while one request is handed over; beyond that, some four
/// threads for each serve throughput without making a single request slow. 2 on 2 to 8 CPUs, 16 on 64.
std::size_t default_executions(std::size_t cpus) noexcept;

/// One request on its way through an `ExecutionBudget`. The budget calls the hooks below, never under a lock (but for
/// `wanted` and `check_open`) and each at most once, in the order `stage`, `launch`; the job answers with the `give_back` calls.
///
/// A job is an intrusive queue node: it must outlive its stay in the budget, which ends with `give_back_buffer` or
/// `abandon`.
class [[gnu::visibility("default")]] Job : public ListNode<Job> {
public:
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;

protected:
    Job() = default;
    virtual ~Job();

    /// An IO buffer is yours: bring the inputs where the engine will read them. What would keep the calling thread for long
    /// may be deferred to another.
    virtual Staging stage() = 0;

    /// An execution token is yours too: start the engine and return. When the engine is done with its scratch memory,
    /// call `give_back_execution`; when it is done with the IO buffer, `give_back_buffer`. A job that was cancelled since
    /// it was staged does just that.
    virtual void launch() = 0;

    /// Whether the job is still wanted. False frees its place without running it; `abandon` is then not called.
    /// Called before `stage`, and by whoever looks for room in a full queue; under the budget's lock, so it only reads.
    virtual bool wanted() const noexcept = 0;

    /// The job will not (or no longer) run: `error` says why. What it held has been taken back already. Called when
    /// `stage` or `launch` threw, with what they threw, and when the budget gives up a queued job.
    virtual void abandon(std::exception_ptr error) noexcept = 0;

    /// Throws if the job's owner takes no more. Asked by `admit`, under the budget's lock: whoever shuts the owner before
    /// it calls `refuse` knows that what `refuse` did not find will not come in.
    virtual void check_open() const {}

    /// The job was not `wanted` any more and has left the queue: let go of it.
    virtual void discard() noexcept = 0;

private:
    friend class ExecutionBudget;
    const void* owner_ = nullptr;
    std::uint64_t ticket_ = 0;
};

/// What models that live together share: execution tokens, IO buffers, and one bounded first-come-first-served queue.
///
/// Two limits rather than one, because they buy different things (the idea is the predecessor's): tokens trade latency
/// against throughput; buffers beyond the tokens let the copies of one request overlap the computation of another.
///
/// Threads: everything may be called from any thread, engine callbacks included.
/// Blocks: only `admit`, when the queue is full.
/// Order: jobs leave the queue in order of admission, whatever models they belong to, and of those that are staged the
/// first admitted is launched first. A job that takes long to stage does not keep a token idle: others go ahead.
class [[gnu::visibility("default")]] ExecutionBudget {
public:
    struct Options {
        std::size_t max_executions = 1;  ///< requests that execute at the same time
        std::size_t max_buffers = 0;     ///< requests staged or executing; 0 means 2 x max_executions
        std::size_t max_queue = 1024;    ///< requests that wait for a buffer
    };

    struct Stats {
        std::size_t executing = 0;  ///< tokens in use
        std::size_t buffers_in_use = 0;
        std::size_t queued = 0;           ///< waiting for a buffer
        std::size_t blocked_callers = 0;  ///< threads waiting for room in the queue
        std::uint64_t admitted = 0;       ///< since the budget was made
        std::uint64_t overloaded = 0;     ///< refused since the budget was made
    };

    /// Throws InvalidArgument if max_executions is 0 or max_buffers is below it.
    explicit ExecutionBudget(const Options& options);
    ExecutionBudget(const ExecutionBudget&) = delete;
    ExecutionBudget& operator=(const ExecutionBudget&) = delete;
    /// No job may be inside: models cancel and wait for theirs first.
    ~ExecutionBudget();

    /// Takes `job` in, and stages and launches it on this thread if there is room at once. Otherwise it queues. If the
    /// queue is full it waits as `wait` allows, then throws Overloaded; the job is then untouched. So it is when
    /// `check_open` throws, which leaves here.
    /// `owner` groups jobs for `refuse`, `name` is the model's in messages.
    ///
    /// What `wait.on_signal` throws leaves here if the job did not get in. If it got in at the same moment, it is
    /// returned instead (null otherwise), for the caller to rethrow once it has let go of the admitted job.
    std::exception_ptr admit(Job& job, const void* owner, std::string_view name, const WaitOptions& wait);

    /// The end of a deferred staging: the job may be launched now, or, with an `error`, is abandoned and its buffer taken
    /// back. May launch it, and others, on this thread. The caller holds a share in the budget: the job, which may be gone
    /// before this returns, is no reason for it to live.
    void staged(Job& job, std::exception_ptr error = {}) noexcept;

    /// The engine is done with what the token stands for. True if `pump` has work to do: publish first, then pump.
    [[nodiscard]] bool give_back_execution() noexcept;
    /// The job has left the budget. True if `pump` has work to do.
    [[nodiscard]] bool give_back_buffer() noexcept;
    /// Both at once, for engines where they end together.
    [[nodiscard]] bool give_back_both() noexcept;

    /// Stages and launches whatever there is room for, on this thread. Reentrant calls return at once and leave the
    /// work to the outer one, as does `admit`, so an engine that completes inside `launch`, and callbacks that then ask
    /// again, do not grow the stack.
    void pump() noexcept;

    /// Wakes `owner`'s callers who are blocked in `admit`: they throw `error`. With `Pending::cancel` also abandons the
    /// jobs of `owner` that wait, for a buffer or for a token. One that is being staged at this moment goes its way.
    void refuse(const void* owner, std::exception_ptr error, Pending pending) noexcept;

    const Options& options() const noexcept { return options_; }
    Stats stats() const;

    /// The resource called `key`, made by `make` if there is none yet. `make` runs under a lock that only other calls of
    /// `shared` and `memory` wait for, and must not call either. Throws what it throws, and InvalidArgument if it makes
    /// nothing.
    std::shared_ptr<BudgetResource> shared(const std::string& key,
                                           const std::function<std::shared_ptr<BudgetResource>()>& make);
    /// The memory of all resources that were made by `shared`.
    std::vector<MemoryUse> memory() const;

private:
    using JobList = IntrusiveList<Job>;
    struct Caller;
    bool runnable() const noexcept;
    bool has_room() const noexcept;
    void enqueue(Job& job) noexcept;
    void keep_staged(Job& job) noexcept;
    void grant_room(WakeUp& wake_up) noexcept;
    Job* unlink_unwanted() noexcept;
    enum class Staged { done, deferred, failed };
    Staged stage(Job& job) noexcept;
    void launch(Job& job) noexcept;
    bool take_back(bool execution, bool buffer) noexcept;

    const Options options_;
    mutable std::mutex mutex_;
    std::size_t free_executions_;
    std::size_t free_buffers_;
    std::uint64_t next_ticket_ = 0;
    std::uint64_t overloaded_ = 0;
    JobList queued_;
    JobList staged_;  // in the order of the tickets
    WaitQueue callers_;

    mutable std::mutex resources_mutex_;
    std::map<std::string, std::shared_ptr<BudgetResource>> resources_;
};

}  // namespace trtlab::core
