#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "trtlab/core/batch_queue.hpp"
#include "trtlab/core/budget.hpp"
#include "trtlab/core/gate.hpp"
#include "trtlab/core/recycler.hpp"
#include "trtlab/core/timer_queue.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

struct DispatcherState;

/// One item on its way through a `Dispatcher`, which calls the hooks below. It must live until `leave`.
class [[gnu::visibility("default")]] DispatchItem : public BatchItem {
protected:
    /// The item is about to be computed: it can't be cancelled any more. False if it was. Called once, without a lock.
    virtual bool start() noexcept = 0;

    /// It will not be computed, or was and failed: `error` says why. At most once, and then not answered. Without a lock.
    virtual void fail(std::exception_ptr error) noexcept = 0;

    /// The dispatcher's last word, whether the item was answered, failed or cancelled: let go of it. Without a lock.
    virtual void leave() noexcept = 0;

    ~DispatchItem() override;

private:
    friend class Batch;
    friend class Dispatcher;
    friend struct DispatcherState;
    bool started_ = false;
};

/// Items that are computed together. Whoever computes them ends the batch with `succeed` or `fail`, on whatever thread; a
/// batch that is dropped without has failed.
/// Owns: a share in the dispatcher's inner parts, which may be gone itself.
class [[gnu::visibility("default")]] Batch final : public Recycled<Batch> {
public:
    /// What may be done about a failure.
    enum class Isolate {
        yes,  ///< of several items one may be to blame: each is computed once more, alone
        no,
    };

    /// Keeps `Dispatcher::close` and its destructor waiting while it lives. For a thread that goes on with the batch, and may
    /// not be done with what it uses when the batch has ended elsewhere. Made before the batch ends.
    class [[gnu::visibility("default")]] Stay {
    public:
        explicit Stay(const Batch& batch) noexcept;
        Stay(Stay&&) noexcept = default;
        Stay& operator=(Stay&&) = delete;
        ~Stay();
        /// For the thread, while it goes on: closing is refused there, since it would wait for itself.
        Gate::Completion here() const noexcept;

    private:
        std::shared_ptr<DispatcherState> state_;
    };

    std::span<DispatchItem* const> items() const noexcept { return items_; }
    std::size_t rows() const noexcept { return rows_; }
    /// When it left the queue.
    BatchItem::Clock::time_point began() const noexcept { return began_; }

    /// Takes the slot back, calls `answer(item, first_row)` for each item, which must not throw, lets go of them, and
    /// dispatches what is next.
    template <class Answer>
    void succeed(Answer&& answer) noexcept {
        complete();
        std::size_t row = 0;
        for (DispatchItem* item : items_) {
            {
                const Gate::Completion completing(gate());
                answer(*item, row);
            }
            row += item->rows;
            let_go(*item);
        }
        end();
    }

    /// Every item fails with `error`, or is computed once more, alone: if there are several and nothing says that it
    /// would be in vain (Closed, Cancelled, Overloaded, a lost device). So an item is computed twice at most, and what
    /// one of them did wrong harms no other.
    void fail(std::exception_ptr error, Isolate isolate = Isolate::yes) noexcept;

    /// For the recycler.
    void recycle() noexcept;

private:
    friend struct DispatcherState;
    void complete() noexcept;
    const Gate& gate() const noexcept;
    void let_go(DispatchItem& item) noexcept;
    void end() noexcept;

    std::shared_ptr<DispatcherState> state_;
    std::vector<DispatchItem*> items_;
    std::size_t rows_ = 0;
    BatchItem::Clock::time_point began_ = {};
};

/// A `BatchQueue` with a lock, a clock and threads: what is added is computed in batches, each item gets its own answer.
///
/// A batch is begun on the thread that makes it possible: the one that adds an item while nothing is in flight, the one
/// that ends a batch, or that of the timers, when a delay or a deadline is over. No other thread is needed.
/// Threads: all members may be called from any thread. The destructor fails what waits with Closed and waits for what is
/// computed; called by an item's own callback it does not wait, and what is under way ends without the dispatcher.
/// Blocks: `add`, while the queue is full; `close`.
/// Errors: `add` throws Overloaded when the queue stayed full, Closed after `close` and in a forked child, InvalidArgument
/// for a priority that does not exist. An item whose deadline is over before it is computed fails with Timeout.
/// Cost: nothing is allocated for an item or a batch after warm-up.
class [[gnu::visibility("default")]] Dispatcher {
public:
    /// Computes a batch: begins it, and returns. What it throws fails the batch. The destructor waits for it to return.
    using Run = std::function<void(Ref<Batch> batch)>;

    struct Options {
        BatchQueue::Options batching = {};
        std::size_t max_queue = 1024;             ///< items waiting to be computed
        std::string name = "dispatcher";          ///< in messages: "model 'm'"
        std::shared_ptr<TimerQueue> timers = {};  ///< null: one of its own, when first needed
    };

    struct Stats {
        std::size_t queued = 0;           ///< items
        std::size_t in_flight = 0;        ///< batches
        std::size_t blocked_callers = 0;  ///< threads waiting for room in the queue
        std::uint64_t batches = 0;        ///< begun
        std::uint64_t items = 0;          ///< in them; those computed again count again
        std::uint64_t expired = 0;        ///< items whose deadline was over before they were computed
        std::uint64_t isolated = 0;       ///< items computed again, because their batch failed
        std::uint64_t overloaded = 0;     ///< refused
        /// Batches of 1 row, 2, up to 4, up to 8, ...; the last of more.
        std::vector<std::uint64_t> rows_histogram = {};
    };

    /// Throws InvalidArgument as `BatchQueue`, if max_queue is 0 or `run` is empty.
    Dispatcher(const Options& options, Run run);
    Dispatcher(const Dispatcher&) = delete;
    Dispatcher& operator=(const Dispatcher&) = delete;
    ~Dispatcher();

    /// Takes `item` in, and begins its batch on this thread if the queue says so. If it throws, the item was not taken,
    /// but for what `wait.on_signal` throws when the item got in at the same moment: that is returned (null otherwise),
    /// for the caller to rethrow once it has let go of the item.
    std::exception_ptr add(DispatchItem& item, const WaitOptions& wait);

    /// Refuses new items and wakes the callers who are blocked, who throw Closed; items that wait are computed at once,
    /// as slots allow, or fail with Closed. Does not wait for them.
    void shut(Pending pending);
    /// `shut`, and waits for every item to end. Idempotent. Throws InvalidArgument in an item's own callback, which it
    /// would wait for.
    void close(Pending pending = Pending::drain);
    bool closed() const noexcept;

    /// What the destructor does, for owners that must do it before their own parts go. True if nothing is under way any
    /// more.
    bool end() noexcept;

    /// Items that were taken and have not ended, and threads that still are in `run`.
    std::size_t under_way() const noexcept;
    Stats stats() const;

private:
    void require_own_process() const;
    const std::shared_ptr<DispatcherState> state_;
};

}  // namespace trtlab::core
