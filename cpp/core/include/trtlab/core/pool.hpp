#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trtlab/core/error.hpp"
#include "trtlab/core/function.hpp"
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
    Lease(Lease&& other) noexcept : state_(std::move(other.state_)), item_(std::exchange(other.item_, nullptr)) {}
    Lease& operator=(Lease&& other) noexcept {
        if (this != &other) {
            release();
            state_ = std::move(other.state_);
            item_ = std::exchange(other.item_, nullptr);
        }
        return *this;
    }
    ~Lease() { release(); }

    T& operator*() const noexcept { return *item_; }
    T* operator->() const noexcept { return item_; }
    T* get() const noexcept { return item_; }
    explicit operator bool() const noexcept { return item_ != nullptr; }

    /// Returns the item now. Idempotent.
    void release() noexcept;

private:
    friend class Pool<T>;
    using State = typename Pool<T>::State;
    Lease(std::shared_ptr<State> state, T* item) noexcept : state_(std::move(state)), item_(item) {}

    std::shared_ptr<State> state_;
    T* item_ = nullptr;
};

/// A fixed set of things that many threads share: who needs one leases it, and waits its turn if all are out.
///
/// Items never move: their addresses are stable for the pool's life.
/// Threads: all members may be called from any thread. A `Pool` is a cheap handle; copies are the same pool.
/// Blocks: `acquire` only. Order: first come, first served; an item that comes back goes to the longest waiter.
/// Errors: `acquire` throws Timeout, or Closed once `close` was called. What the on-return hook throws is logged, and
/// the item returns all the same.
template <class T>
class Pool {
public:
    struct Stats {
        std::size_t size = 0;
        std::size_t free = 0;
        std::size_t waiting = 0;     ///< threads blocked in `acquire`
        std::uint64_t acquired = 0;  ///< leases given since the pool was made
    };
    using OnReturn = UniqueFunction<void(T&)>;

    /// Takes the items over. `on_return` runs on the returning thread before the item becomes free, and must be
    /// thread-safe.
    explicit Pool(std::vector<T> items, OnReturn on_return = {})
        : state_(std::make_shared<State>(std::move(items), std::move(on_return))) {}

    /// Leases an item, waiting as `options` allow.
    [[nodiscard]] Lease<T> acquire(const WaitOptions& options = {}) {
        std::shared_ptr<State> state = state_;  // first: this handle may go away while the thread waits
        T* item = state->acquire(options);
        return Lease<T>(std::move(state), item);
    }

    /// Leases an item if one is free and nobody waits for it; otherwise an empty lease. Throws Closed.
    [[nodiscard]] Lease<T> try_acquire() {
        T* item = state_->try_acquire();
        return item == nullptr ? Lease<T>() : Lease<T>(state_, item);
    }

    /// Wakes every waiter with Closed and refuses new leases. Leases that are out stay valid. Idempotent.
    void close() noexcept { state_->close(); }
    bool closed() const { return state_->closed(); }
    Stats stats() const { return state_->stats(); }

private:
    friend class Lease<T>;

    struct Acquirer : Waiter {
        T* item = nullptr;
    };

    struct State {
        State(std::vector<T> items_, OnReturn on_return_) : items(std::move(items_)), on_return(std::move(on_return_)) {
            free.reserve(items.size());
            for (auto item = items.rbegin(); item != items.rend(); ++item) free.push_back(&*item);
        }

        [[noreturn]] static void throw_closed() { throw Closed("the pool is closed: it gives no more leases"); }

        T* try_acquire() {
            std::lock_guard lock(mutex);
            if (shut) throw_closed();
            if (free.empty()) return nullptr;
            return take();
        }

        T* acquire(const WaitOptions& options) {
            Acquirer self;
            {
                std::lock_guard lock(mutex);
                if (shut) throw_closed();
                if (!free.empty()) return take();
                if (options.timeout.count() > 0) waiters.push(self);
            }
            if (options.timeout.count() <= 0) throw_timeout(options);
            bool granted = false;
            try {
                granted = self.wait(Deadline(options.timeout), options.on_signal);
            } catch (...) {
                if (T* item = leave(self)) put(item);
                throw;
            }
            T* item = granted ? self.item : leave(self);
            if (item != nullptr) return item;
            if (self.granted()) throw_closed();
            throw_timeout(options);
        }

        /// The waiter goes away unserved; if it was served in the meantime, that is what it got.
        T* leave(Acquirer& self) {
            {
                std::lock_guard lock(mutex);
                if (!self.granted()) waiters.remove(self);
            }
            return self.item;
        }

        void put(T* item) noexcept {
            WakeUp wake_up;
            std::lock_guard lock(mutex);
            if (auto* next = static_cast<Acquirer*>(waiters.pop())) {
                next->item = item;
                ++acquired;
                next->grant(wake_up);
            } else {
                free.push_back(item);  // cannot throw: reserved for every item
            }
        }

        T* take() noexcept {
            T* item = free.back();
            free.pop_back();
            ++acquired;
            return item;
        }

        void close() noexcept {
            std::lock_guard lock(mutex);
            shut = true;
            while (Waiter* waiter = waiters.pop()) {
                WakeUp wake_up;
                waiter->grant(wake_up);
            }
        }

        bool closed() const {
            std::lock_guard lock(mutex);
            return shut;
        }

        Stats stats() const {
            std::lock_guard lock(mutex);
            return {items.size(), free.size(), waiters.size(), acquired};
        }

        mutable std::mutex mutex;
        std::vector<T> items;
        std::vector<T*> free;
        WaitQueue waiters;
        OnReturn on_return;
        std::uint64_t acquired = 0;
        bool shut = false;
    };

    std::shared_ptr<State> state_;
};

template <class T>
void Lease<T>::release() noexcept {
    if (item_ == nullptr) return;
    T* item = std::exchange(item_, nullptr);
    if (state_->on_return) {
        try {
            state_->on_return(*item);
        } catch (...) {
            log_current_exception("a pool's on-return hook");
        }
    }
    state_->put(item);
    state_.reset();
}

}  // namespace trtlab::core
