#pragma once

#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "trtlab/core/continuation.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/free_list.hpp"
#include "trtlab/core/function.hpp"
#include "trtlab/core/histogram.hpp"
#include "trtlab/core/ref_counted.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

template <class T>
class Pool;

/// The right to use one item of a `Pool`, until it is destroyed or `release()`d, exceptions included.
/// Owns: a share of the pool, so that items may be returned after the last `Pool` handle is gone.
/// Threads: as `std::unique_ptr`: one thread at a time, movable between them.
template <class T>
class Lease {
public:
    Lease() = default;
    Lease(Lease&& other) noexcept
        : state_(std::exchange(other.state_, nullptr)), item_(std::exchange(other.item_, nullptr)) {}
    Lease& operator=(Lease&& other) noexcept {
        if (this != &other) {
            release();
            state_ = std::exchange(other.state_, nullptr);
            item_ = std::exchange(other.item_, nullptr);
        }
        return *this;
    }
    ~Lease() { release(); }

    T& operator*() const noexcept { return *item_; }
    T* operator->() const noexcept { return item_; }
    T* get() const noexcept { return item_; }
    explicit operator bool() const noexcept { return item_ != nullptr; }

    /// Returns the item now: to the longest waiter, if there is one. A coroutine that waited for it goes on in here.
    /// Idempotent.
    void release() noexcept {
        if (item_ != nullptr) std::exchange(state_, nullptr)->put(std::exchange(item_, nullptr));
    }

private:
    friend class Pool<T>;
    using State = typename Pool<T>::State;
    Lease(State* state, T* item) noexcept : state_(state), item_(item) {}

    State* state_ = nullptr;  // stays while an item is out
    T* item_ = nullptr;
};

/// A fixed set of things that many threads and coroutines share: who needs one leases it, and waits its turn if all are
/// out.
///
/// Items never move: their addresses are stable for the pool's life. What came back last is leased first.
/// Threads: all members may be called from any thread. A `Pool` is a cheap handle; copies are the same pool.
/// Blocks: `acquire` only. Order: first come, first served, whatever it is that waits; an item that comes back goes to the
/// longest waiter.
/// Errors: whoever asks for a lease gets Timeout, or Closed once `close` was called. What the on-return hook throws is
/// logged, and the item returns all the same.
template <class T>
class Pool {
    struct State;
    struct Acquirer;
    struct Callback;

public:
    struct Stats {
        std::size_t size = 0;
        std::size_t free = 0;
        std::size_t leased = 0;
        std::size_t waiting = 0;     ///< threads blocked in `acquire`, coroutines and callbacks
        std::uint64_t acquired = 0;  ///< leases given since the pool was made
        std::uint64_t waited = 0;    ///< of these, how many had to wait
    };
    using OnReturn = UniqueFunction<void(T&)>;
    using OnLease = UniqueFunction<void(Lease<T>)>;

    /// Takes the items over. `on_return` runs on the returning thread before the item becomes free, and must be
    /// thread-safe.
    explicit Pool(std::vector<T> items, OnReturn on_return = {})
        : state_(make_ref<State>(std::move(items), std::move(on_return))) {}

    /// Leases an item, waiting as `options` allow.
    [[nodiscard]] Lease<T> acquire(const WaitOptions& options = {}) {
        const FreeList::Number number = state_->free.pop();
        if (number < FreeList::kBarred) [[likely]]
            return state_->lease(number);
        return state_->wait(options);
    }

    /// Leases an item if one is free and nobody waits for it; otherwise an empty lease. Throws Closed.
    [[nodiscard]] Lease<T> try_acquire() {
        const FreeList::Number number = state_->free.pop();
        if (number < FreeList::kBarred) [[likely]]
            return state_->lease(number);
        if (closed()) State::throw_closed();
        return {};
    }

    class Acquisition;
    /// `Lease<T> lease = co_await pool.acquire_async();`: suspends the coroutine if all items are out, and resumes it on the
    /// thread that returns one; or with Closed, on the thread that closes the pool. A coroutine that waits may not be
    /// destroyed (a `Task` can't be).
    [[nodiscard]] Acquisition acquire_async() const noexcept { return Acquisition(state_); }

    class Request;
    /// The same for a callback: called once, here and now if an item is free, else on the thread that returns one; with
    /// an empty lease on the thread that closes the pool. It must not block. What it throws is logged. Throws Closed.
    Request acquire_then(OnLease on_lease);

    /// Wakes every waiter with Closed and refuses new leases. Leases that are out stay valid. Idempotent.
    void close() noexcept { Ref<State>(state_)->close(); }
    bool closed() const noexcept { return state_->free.barred(FreeList::kClosed); }
    /// Exact when nothing changes. Cost: a look at each item.
    Stats stats() const { return state_->stats(); }
    /// For how many ns those that had to wait, and were served, waited for their turn.
    Histogram wait_times() const { return state_->wait_times(); }

private:
    friend class Lease<T>;
    Ref<State> state_;
};

/// A place in the queue: a thread's, or with a continuation a coroutine's or a callback's.
template <class T>
struct Pool<T>::Acquirer : Waiter {
    explicit Acquirer(Continuation* continuation_ = nullptr) noexcept : continuation(continuation_) {}
    Continuation* const continuation;
    FreeList::Number number = FreeList::kEmpty;
    std::chrono::steady_clock::time_point since;
    bool queued = false;
};

/// References are the handles and the waiters. Leases are counted by the list: when the last reference goes while items are
/// out, the last one that comes back deletes the state. So a lease costs no change of a count.
template <class T>
struct Pool<T>::State final : RefCounted {
    State(std::vector<T> items_, OnReturn on_return_)
        : items(std::move(items_)), on_return(std::move(on_return_)), free(items.size()) {}

    [[noreturn]] static void throw_closed() { throw Closed("the pool is closed: it gives no more leases"); }

    Lease<T> lease(FreeList::Number number) noexcept { return Lease<T>(this, items.data() + number); }

    void put(T* item) noexcept {
        if (on_return) {
            try {
                on_return(*item);
            } catch (...) {
                log_current_exception("a pool's on-return hook");
            }
        }
        give_back(static_cast<FreeList::Number>(item - items.data()));
    }

    void give_back(FreeList::Number number) noexcept {
        if (!free.push(number)) [[unlikely]]
            give_back_slowly(number);
    }

    void give_back_slowly(FreeList::Number number) noexcept {
        Continuation* next = nullptr;
        bool last = false;
        {
            WakeUp wake_up;
            std::lock_guard lock(mutex);
            if (auto* acquirer = static_cast<Acquirer*>(waiters.pop())) {
                if (waiters.empty()) free.unbar(FreeList::kWaited);
                free.hand_over(number);
                waits->record(static_cast<std::uint64_t>(
                    std::chrono::nanoseconds(std::chrono::steady_clock::now() - acquirer->since).count()));
                acquirer->number = number;
                next = acquirer->continuation;
                acquirer->queued = false;
                if (next == nullptr) acquirer->grant(wake_up);
            } else {
                free.push_barred(number);
                last = missing > 0 && --missing == 0;
            }
        }
        if (next != nullptr) next->go_on();
        if (last) delete this;
    }

    /// Takes an item if one is free, or joins the queue: true. Neither if it may not wait. Needs the lock.
    bool enter(Acquirer& self, bool may_wait) {
        if (free.barred(FreeList::kClosed)) throw_closed();
        if (may_wait && waits == nullptr) waits = std::make_unique<Histogram>();
        if (waiters.empty()) {
            do {
                self.number = free.pop_barred();
                if (self.number != FreeList::kEmpty || !may_wait) return false;
            } while (!free.bar_if_empty(FreeList::kWaited));
        }
        if (!may_wait) return false;
        self.since = std::chrono::steady_clock::now();
        self.queued = true;
        waiters.push(self);
        return true;
    }

    /// Leaves the queue unserved. False if it was served, or the pool closed, in the meantime.
    bool leave(Acquirer& self) noexcept {
        std::lock_guard lock(mutex);
        if (!self.queued) return false;
        self.queued = false;
        waiters.remove(self);
        if (waiters.empty()) free.unbar(FreeList::kWaited);
        return true;
    }

    Lease<T> wait(const WaitOptions& options) {
        const Ref<State> keep(this);  // the handle may go away while the thread waits
        Acquirer self;
        bool queued = false;
        {
            std::lock_guard lock(mutex);
            queued = enter(self, options.timeout.count() > 0);
        }
        if (queued) {
            bool granted = false;
            try {
                granted = self.wait(Deadline(options.timeout), options.on_signal);
            } catch (...) {
                if (!leave(self) && self.number != FreeList::kEmpty) give_back(self.number);
                throw;
            }
            if (!granted && leave(self)) throw_timeout(options);
            if (self.number == FreeList::kEmpty) throw_closed();
        }
        if (self.number == FreeList::kEmpty) throw_timeout(options);
        return lease(self.number);
    }

    void close() noexcept {
        WaitQueue going_on;
        {
            std::lock_guard lock(mutex);
            free.bar(FreeList::kClosed);
            while (auto* acquirer = static_cast<Acquirer*>(waiters.pop())) {
                acquirer->queued = false;
                if (acquirer->continuation != nullptr) {
                    going_on.push(*acquirer);
                } else {
                    WakeUp wake_up;
                    acquirer->grant(wake_up);
                }
            }
            free.unbar(FreeList::kWaited);
        }
        while (auto* acquirer = static_cast<Acquirer*>(going_on.pop())) acquirer->continuation->go_on();
    }

    void dispose() noexcept override {
        bool idle = false;
        {
            std::lock_guard lock(mutex);
            free.bar(FreeList::kClosed);  // from now on items come back under the lock
            missing = items.size() - free.count_barred();
            idle = missing == 0;
        }
        if (idle) delete this;
    }

    Stats stats() const {
        const FreeList::Counts counts = free.counts();
        std::lock_guard lock(mutex);
        return {.size = items.size(),
                .free = items.size() - counts.taken,
                .leased = counts.taken,
                .waiting = waiters.size(),
                .acquired = counts.pops,
                .waited = waits == nullptr ? 0 : waits->count()};
    }

    Histogram wait_times() const {
        std::lock_guard lock(mutex);
        return waits == nullptr ? Histogram() : *waits;
    }

    std::vector<T> items;
    OnReturn on_return;
    FreeList free;
    mutable std::mutex mutex;
    WaitQueue waiters;                 // not empty: the list is barred, and empty
    std::unique_ptr<Histogram> waits;  // made by the first that has to wait
    std::size_t missing = 0;           // items that are out, once there is no handle
};

/// What `co_await` makes of `acquire_async`. Not movable: the queue knows its address.
template <class T>
class Pool<T>::Acquisition : Acquirer {
public:
    bool await_ready() noexcept {
        const FreeList::Number number = state_->free.pop();
        if (number < FreeList::kBarred) this->number = number;
        return number < FreeList::kBarred;
    }
    /// False if it goes on here and now. If true, then it may be gone already.
    bool await_suspend(std::coroutine_handle<> coroutine) noexcept {
        suspended_.set(coroutine);
        try {
            State& state = *state_;
            if (state.items.empty()) throw InvalidArgument("the pool has no items: nothing would end the wait");
            std::lock_guard lock(state.mutex);
            return state.enter(*this, true);
        } catch (...) {
            error_ = std::current_exception();
            return false;
        }
    }
    Lease<T> await_resume() {
        if (error_) std::rethrow_exception(error_);
        if (this->number == FreeList::kEmpty) State::throw_closed();
        return state_->lease(this->number);
    }

private:
    friend class Pool;
    explicit Acquisition(Ref<State> state) noexcept : Acquirer(&suspended_), state_(std::move(state)) {}

    Ref<State> state_;
    SuspendedCoroutine suspended_;
    std::exception_ptr error_;
};

template <class T>
struct Pool<T>::Callback final : RefCounted, Acquirer, Continuation {
    Callback(Ref<State> state_, OnLease on_lease_)
        : Acquirer(this), state(std::move(state_)), on_lease(std::move(on_lease_)) {}

    /// Brings a reference of its own.
    void run() noexcept override {
        const Ref<Callback> self = Ref<Callback>::adopt(this);
        OnLease call = std::move(on_lease);
        try {
            call(this->number == FreeList::kEmpty ? Lease<T>() : state->lease(this->number));
        } catch (...) {
            log_current_exception("a callback that waited for a pool");
        }
    }

    const Ref<State> state;
    OnLease on_lease;
};

/// A callback that waits for its turn. Dropping this changes nothing.
/// Threads: as `std::unique_ptr`; `cancel` may meet the call itself on another thread.
template <class T>
class Pool<T>::Request {
public:
    Request() = default;
    Request(Request&&) noexcept = default;
    Request& operator=(Request&&) noexcept = default;

    /// True: the callback will not be called, and was destroyed here and now. False: it was or is called, was cancelled
    /// before, or there is none. Never blocks.
    bool cancel() {
        if (!callback_ || !callback_->state->leave(*callback_)) return false;
        const Ref<Callback> queues = Ref<Callback>::adopt(callback_.get());
        const OnLease dropped = std::move(callback_->on_lease);
        return true;
    }

private:
    friend class Pool;
    explicit Request(Ref<Callback> callback) noexcept : callback_(std::move(callback)) {}
    Ref<Callback> callback_;
};

template <class T>
typename Pool<T>::Request Pool<T>::acquire_then(OnLease on_lease) {
    if (!on_lease) throw InvalidArgument("a pool's callback is empty");
    if (state_->items.empty()) throw InvalidArgument("the pool has no items: nothing would end the wait");
    auto callback = make_ref<Callback>(state_, std::move(on_lease));
    callback->add_ref();  // its run's
    bool queued = false;
    try {
        std::lock_guard lock(state_->mutex);
        queued = state_->enter(*callback, true);
    } catch (...) {
        callback->release();
        throw;
    }
    if (!queued) callback->go_on();
    return Request(std::move(callback));
}

}  // namespace trtlab::core
