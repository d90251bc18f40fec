#include "trtlab/core/dispatcher.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <mutex>

#include "pump_scope.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

constexpr std::size_t kMaxIdleBatches = 64;
constexpr std::size_t kHistogramSize = 22;

/// Whether computing an item once more, alone, may end otherwise.
bool worth_another_try(const std::exception_ptr& error) noexcept {
    try {
        std::rethrow_exception(error);
    } catch (const Closed&) {
        return false;
    } catch (const Cancelled&) {
        return false;
    } catch (const Overloaded&) {
        return false;
    } catch (const CudaError& cuda) {
        return !cuda.device_lost();
    } catch (...) {
        return true;
    }
}

/// A thread blocked in `add`, with the item that it brings.
struct Caller : Waiter {
    DispatchItem* item = nullptr;
    std::exception_ptr refused;
};

}  // namespace

DispatchItem::~DispatchItem() = default;

struct DispatcherState final : std::enable_shared_from_this<DispatcherState> {
    using Clock = BatchQueue::Clock;

    DispatcherState(const Dispatcher::Options& options_, Dispatcher::Run run_)
        : options(options_), run(std::move(run_)), queue(options.batching), timers(options.timers) {}
    ~DispatcherState() { timer.cancel(); }

    void pump() noexcept;
    Clock::time_point take_turns() noexcept;
    bool grant_room(WakeUp& wake_up) noexcept;
    void expire(BatchQueue::Items items) noexcept;
    void dispatch(BatchQueue::Items items) noexcept;
    bool arm(Clock::time_point when) noexcept;
    void tick() noexcept;

    void fail(DispatchItem& item, const std::exception_ptr& error) noexcept;
    void let_go(DispatchItem& item) noexcept;
    void slot_back() noexcept {
        std::lock_guard lock(mutex);
        --counts.in_flight;
    }
    Closed closed_error(const char* what) const { return Closed(options.name + " " + what); }
    Closed shut_error() const { return closed_error("is closed: it takes no more requests"); }

    const Dispatcher::Options options;
    const Dispatcher::Run run;
    const ForkGuard fork;
    Gate gate;  // counts the items under way
    const Ref<Recycler<Batch>> batches = make_ref<Recycler<Batch>>(kMaxIdleBatches, [] { return new Batch; });

    std::mutex mutex;
    BatchQueue queue;
    WaitQueue callers;
    Dispatcher::Stats counts;                                       // `queued` and `blocked_callers` are others' to say
    std::array<std::uint64_t, kHistogramSize> rows_histogram = {};  // up to BatchQueue::kMaxRows, and what is more
    bool closed = false;
    bool cancelled = false;

    std::mutex timer_mutex;  // never together with the other
    std::shared_ptr<TimerQueue> timers;
    Timer timer;
    Clock::time_point armed = BatchQueue::kNever;
};

// --- a batch ------------------------------------------------------------------------------------------------------

Batch::Stay::Stay(const Batch& batch) noexcept : state_(batch.state_) { state_->gate.enter_beside(); }
Batch::Stay::~Stay() {
    if (state_) state_->gate.leave();
}
Gate::Completion Batch::Stay::here() const noexcept { return Gate::Completion(state_->gate); }

const Gate& Batch::gate() const noexcept { return state_->gate; }

void Batch::complete() noexcept {
    const auto took = BatchItem::Clock::now() - began_;
    std::lock_guard lock(state_->mutex);
    --state_->counts.in_flight;
    state_->queue.completed(rows_, took);
}

void Batch::let_go(DispatchItem& item) noexcept { state_->let_go(item); }

void Batch::end() noexcept {
    items_.clear();
    const std::shared_ptr<DispatcherState> state = std::move(state_);  // which the last item may have kept
    state->pump();
}

void Batch::fail(std::exception_ptr error, Isolate isolate) noexcept {
    bool again = isolate == Isolate::yes && items_.size() > 1 && worth_another_try(error);
    {
        std::lock_guard lock(state_->mutex);
        --state_->counts.in_flight;
        again = again && !state_->cancelled;
        if (again) {
            for (DispatchItem* item : items_) state_->queue.add_alone(*item);
            state_->counts.isolated += items_.size();
        }
    }
    if (!again) {
        for (DispatchItem* item : items_) state_->fail(*item, error);
    }
    end();
}

void Batch::recycle() noexcept {
    if (state_ == nullptr) return;
    std::exception_ptr error;
    try {
        throw state_->closed_error("dropped a batch before it was computed");
    } catch (...) {
        error = std::current_exception();  // or there is no memory for the message
    }
    fail(error);
}

// --- in -----------------------------------------------------------------------------------------------------------

namespace {

std::shared_ptr<DispatcherState> make_state(const Dispatcher::Options& options, Dispatcher::Run run) {
    if (!run) throw InvalidArgument(options.name + ": there is no function that computes batches");
    if (options.max_queue == 0)
        throw InvalidArgument(options.name + ": max_queue is 0, at least 1 item must be able to wait for a batch");
    return std::make_shared<DispatcherState>(options, std::move(run));
}

}  // namespace

Dispatcher::Dispatcher(const Options& options, Run run) : state_(make_state(options, std::move(run))) {}

std::exception_ptr Dispatcher::add(DispatchItem& item, const WaitOptions& wait) {
    require_own_process();
    const std::shared_ptr<DispatcherState> state = state_;  // a callback may destroy the dispatcher meanwhile
    if (!state->gate.enter()) throw state->shut_error();
    item.started_ = false;
    const std::size_t max_queue = state->options.max_queue;
    Caller self;
    std::exception_ptr interrupted, refused;
    BatchItem* unwanted = nullptr;
    bool taken = false;
    try {
        std::lock_guard lock(state->mutex);
        if (state->closed) throw state->shut_error();
        if (state->callers.empty() && state->queue.size() >= max_queue) unwanted = state->queue.remove_unwanted();
        if (state->callers.empty() && state->queue.size() < max_queue) {
            state->queue.add(item, BatchItem::Clock::now());
            taken = true;
        } else if (wait.timeout.count() > 0) {
            self.item = &item;
            state->callers.push(self);
        } else {
            ++state->counts.overloaded;
        }
    } catch (...) {
        refused = std::current_exception();
    }
    if (unwanted != nullptr) state->let_go(static_cast<DispatchItem&>(*unwanted));
    if (self.item != nullptr) {
        try {
            taken = self.wait(Deadline(wait.timeout), wait.on_signal);
        } catch (...) {
            interrupted = std::current_exception();
        }
        if (!taken) {
            std::lock_guard lock(state->mutex);
            taken = self.granted();
            if (!taken) {
                state->callers.remove(self);
                if (!interrupted) ++state->counts.overloaded;
            }
        }
        refused = self.refused;
        if (interrupted && (!taken || refused)) refused = interrupted;
    }
    if (refused || !taken) {
        state->gate.leave();
        if (refused) std::rethrow_exception(refused);
        throw Overloaded(state->options.name + ": " + std::to_string(max_queue) +
                         " requests wait for a batch, and no place became free in time; send less, wait longer "
                         "(queue_timeout), or raise max_queue");
    }
    state->pump();
    return interrupted;
}

// --- out ----------------------------------------------------------------------------------------------------------

void DispatcherState::fail(DispatchItem& item, const std::exception_ptr& error) noexcept {
    {
        const Gate::Completion completing(gate);
        item.fail(error);
    }
    let_go(item);
}

void DispatcherState::let_go(DispatchItem& item) noexcept {
    {
        // What the item drops, such as an answer that nobody wants, may own the dispatcher, whose end must not wait for
        // this.
        const Gate::Completion completing(gate);
        item.leave();
    }
    gate.leave();
}

void DispatcherState::pump() noexcept {
    if (PumpScope::inside(this)) return;
    const std::shared_ptr<DispatcherState> self = shared_from_this();
    if (arm(take_turns())) return;
    // There is no timer: nothing may be held, and deadlines are looked at when something else happens.
    {
        std::lock_guard lock(mutex);
        queue.flush();
    }
    (void)take_turns();
}

/// Begins every batch that is due. Returns when the next will be, if nothing happens.
DispatcherState::Clock::time_point DispatcherState::take_turns() noexcept {
    const PumpScope pumping(this);
    for (;;) {
        BatchQueue::Turn turn;
        bool granted = false;
        Clock::time_point wake;
        {
            WakeUp wake_up;
            std::lock_guard lock(mutex);
            turn = queue.next(Clock::now(), counts.in_flight);
            if (!turn.batch.empty()) ++counts.in_flight;
            counts.expired += turn.expired.size();
            granted = grant_room(wake_up);
            wake = queue.wake_at();
        }
        if (turn.batch.empty() && turn.expired.empty() && turn.unwanted.empty() && !granted) return wake;
        if (!turn.batch.empty()) dispatch(turn.batch);
        if (!turn.expired.empty()) expire(turn.expired);
        while (BatchItem* item = turn.unwanted.pop()) let_go(static_cast<DispatchItem&>(*item));
    }
}

/// Lets one blocked caller's item in, if there is room for it.
bool DispatcherState::grant_room(WakeUp& wake_up) noexcept {
    if (callers.empty() || queue.size() >= options.max_queue) return false;
    auto* caller = static_cast<Caller*>(callers.pop());
    try {
        queue.add(*caller->item, Clock::now());
    } catch (...) {
        caller->refused = std::current_exception();
    }
    caller->grant(wake_up);
    return true;
}

void DispatcherState::expire(BatchQueue::Items items) noexcept {
    std::exception_ptr error;
    try {
        throw Timeout(options.name +
                      ": the request's deadline was over before it could be computed; allow more time, send less, or "
                      "make the model faster");
    } catch (...) {
        error = std::current_exception();  // or there is no memory for the message
    }
    while (BatchItem* item = items.pop()) fail(static_cast<DispatchItem&>(*item), error);
}

void DispatcherState::dispatch(BatchQueue::Items items) noexcept {
    Ref<Batch> batch;
    try {
        batch = batches->take();
        batch->items_.reserve(items.size());
    } catch (...) {
        slot_back();
        const std::exception_ptr error = std::current_exception();
        while (BatchItem* item = items.pop()) fail(static_cast<DispatchItem&>(*item), error);
        return;
    }
    batch->rows_ = 0;
    while (BatchItem* next = items.pop()) {
        auto& item = static_cast<DispatchItem&>(*next);
        if (!item.started_ && !item.start()) {
            let_go(item);  // cancelled after it was chosen
            continue;
        }
        item.started_ = true;
        batch->items_.push_back(&item);
        batch->rows_ += item.rows;
    }
    if (batch->items_.empty()) {
        slot_back();
        return;
    }
    batch->state_ = shared_from_this();
    batch->began_ = Clock::now();
    {
        std::lock_guard lock(mutex);
        ++counts.batches;
        counts.items += batch->items_.size();
        ++rows_histogram[std::min(kHistogramSize - 1, static_cast<std::size_t>(std::bit_width(batch->rows_ - 1)))];
    }
    const Batch::Stay stay(*batch);
    const Gate::Completion running = stay.here();
    try {
        run(batch);
    } catch (...) {
        batch->fail(std::current_exception());
    }
}

// --- time ---------------------------------------------------------------------------------------------------------

/// Has `tick` called no later than `when`. False if it can't be.
bool DispatcherState::arm(Clock::time_point when) noexcept {
    if (when == BatchQueue::kNever) return true;
    try {
        std::lock_guard lock(timer_mutex);
        if (armed <= when) return true;
        if (!timers) timers = std::make_shared<TimerQueue>(TimerQueue::Options{.name = "trtlab-batches"});
        timer.cancel();
        armed = BatchQueue::kNever;
        timer = timers->at(when, [weak = weak_from_this()] {
            if (const auto state = weak.lock()) state->tick();
        });
        armed = when;
        return true;
    } catch (...) {
        log_current_exception("the timer of a dispatcher");
        return false;
    }
}

void DispatcherState::tick() noexcept {
    {
        std::lock_guard lock(timer_mutex);
        armed = BatchQueue::kNever;
    }
    pump();
}

// --- the end ------------------------------------------------------------------------------------------------------

void Dispatcher::require_own_process() const {
    if (state_->fork.forked())
        throw state_->closed_error("stayed in the parent process, where its threads are: make one after the fork");
}

void Dispatcher::shut(Pending pending) {
    require_own_process();
    const std::shared_ptr<DispatcherState> state = state_;  // a callback may destroy the dispatcher meanwhile
    const auto error = std::make_exception_ptr(state->closed_error("was closed before this request was computed"));
    state->gate.shut();
    {
        std::lock_guard lock(state->mutex);
        state->closed = true;
        state->cancelled = state->cancelled || pending == Pending::cancel;
        state->queue.flush();
    }
    for (;;) {
        WakeUp wake_up;
        std::lock_guard lock(state->mutex);
        if (state->callers.empty()) break;
        auto* caller = static_cast<Caller*>(state->callers.pop());
        caller->refused = error;
        caller->grant(wake_up);
    }
    while (pending == Pending::cancel) {
        BatchItem* item = nullptr;
        {
            std::lock_guard lock(state->mutex);
            item = state->queue.pop();
        }
        if (item == nullptr) break;
        state->fail(static_cast<DispatchItem&>(*item), error);
    }
    state->pump();
}

void Dispatcher::close(Pending pending) {
    require_own_process();
    const std::shared_ptr<DispatcherState> state = state_;
    if (state->gate.completing_on_this_thread()) {
        throw InvalidArgument(
            state->options.name +
            ": close() was called by a callback of one of its own futures, and would wait for itself");
    }
    shut(pending);
    (void)state->gate.wait_empty();
}

Dispatcher::~Dispatcher() { end(); }

bool Dispatcher::end() noexcept {
    if (state_->fork.forked()) {
        // What was under way stayed in the parent, and its locks may be held for ever: nothing can be ended here.
        new std::shared_ptr<DispatcherState>(state_);
        return false;
    }
    try {
        shut(Pending::cancel);
    } catch (...) {
        log_current_exception("the destructor of a dispatcher");  // no memory for the message; what waits runs instead
        state_->gate.shut();
    }
    if (state_->gate.completing_on_this_thread()) return false;
    (void)state_->gate.wait_empty();
    return true;
}

bool Dispatcher::closed() const noexcept { return state_->gate.is_shut(); }
std::size_t Dispatcher::under_way() const noexcept { return state_->gate.inside(); }

Dispatcher::Stats Dispatcher::stats() const {
    require_own_process();
    std::lock_guard lock(state_->mutex);
    Stats stats = state_->counts;
    stats.queued = state_->queue.size();
    stats.blocked_callers = state_->callers.size();
    stats.rows_histogram.assign(state_->rows_histogram.begin(), state_->rows_histogram.end());
    return stats;
}

}  // namespace trtlab::core
