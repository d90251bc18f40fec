#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "trtlab/core/error.hpp"
#include "trtlab/core/function.hpp"
#include "trtlab/core/recycler.hpp"
#include "trtlab/core/ref_counted.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// The part of a future's state that does not depend on the value's type: status, waiters, callbacks, error.
///
/// One producer calls `try_start` (optional), then exactly one of the `finish` paths; any number of consumers wait,
/// add callbacks, or cancel.
class [[gnu::visibility("default")]] FutureStateBase : public RefCounted {
public:
    using Callback = UniqueFunction<void()>;

    bool done() const noexcept {
        return (status_.load(std::memory_order_acquire) & kPhase) >= kReady;
    }  // pairs: finish
    bool running() const noexcept { return (status_.load(std::memory_order_relaxed) & kPhase) == kRunning; }
    bool cancelled() const noexcept { return (status_.load(std::memory_order_acquire) & kPhase) == kCancelled; }

    /// Producer: the work begins; from now on it cannot be cancelled. False if it was cancelled before.
    bool try_start() noexcept;

    /// Producer, before the future is handed out: the answer is expected so soon that who waits for it should rather spin
    /// for so long than park, since being woken would cost a good part of the wait.
    void expect_within(std::chrono::nanoseconds time) noexcept {
        expected_ns_.store(time.count(), std::memory_order_relaxed);  // a hint
    }
    std::chrono::nanoseconds expected_within() const noexcept {
        return std::chrono::nanoseconds(expected_ns_.load(std::memory_order_relaxed));
    }

    /// Consumer: gives up work that has not begun. False if it runs or is done.
    bool cancel();

    /// Waits until done. False when the time is over. See `Future::wait`.
    bool wait(const WaitOptions& options = {}) const;

    /// Runs `callback` on the completing thread, or here and now if done.
    void on_ready(Callback callback);

    /// The error, or null. Only once done.
    const std::exception_ptr& error() const noexcept { return error_; }

    /// Producer: fails the future. No effect if it was cancelled or finished before.
    void set_exception(std::exception_ptr error) noexcept;

protected:
    /// Makes the state usable again. Only the last owner may call it.
    void reset() noexcept;

    /// Claims the right to finish: false if cancelled or already finished.
    bool claim() noexcept;
    /// Publishes what the claimer wrote and runs the callbacks.
    void finish() noexcept;

private:
    static constexpr std::uint32_t kPending = 0, kRunning = 1, kFinishing = 2, kReady = 3, kCancelled = 4, kPhase = 7;
    static constexpr std::uint32_t kWaiters = 8, kCallbacks = 16;

    void publish(std::uint32_t phase) noexcept;
    bool park(const WaitOptions& options) const;

    std::mutex callbacks_mutex_;
    std::vector<Callback> callbacks_;
    mutable std::atomic<std::uint32_t> status_{kPending};
    std::atomic<std::int64_t> expected_ns_{0};

protected:
    std::exception_ptr error_;
};

template <class T>
class FutureState : public FutureStateBase {
public:
    using Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

    /// Producer: fulfils the future. No effect if it was cancelled or finished before.
    template <class... Args>
    void set_value(Args&&... args) noexcept {
        if (!claim()) return;
        try {
            value_.emplace(std::forward<Args>(args)...);
        } catch (...) {
            error_ = std::current_exception();
        }
        finish();
    }

    const Value& value() const {
        if (error()) std::rethrow_exception(error());
        return *value_;
    }

protected:
    std::optional<Value> value_;
};

/// The answer to come of an asynchronous call: a value or an exception. A cheap, shared handle; copies are the same
/// future.
///
/// Threads: everything may be called from any thread, callbacks included.
/// Blocks: `wait` and `get`, only.
template <class T>
class Future {
public:
    Future() = default;
    explicit Future(Ref<FutureState<T>> state) noexcept : state_(std::move(state)) {}

    bool valid() const noexcept { return static_cast<bool>(state_); }
    /// Value, exception or cancellation is there.
    bool done() const noexcept { return state_->done(); }
    bool running() const noexcept { return state_->running(); }
    bool cancelled() const noexcept { return state_->cancelled(); }

    /// Gives up a request that has not begun; its future then throws Cancelled. False if it runs or is done.
    bool cancel() const { return state_->cancel(); }

    /// Blocks until done, or until the time is over: then false. Rethrows what `options.on_signal` throws.
    [[nodiscard]] bool wait(const WaitOptions& options = {}) const { return state_->wait(options); }

    /// The value, by reference into the shared state. Blocks as `wait`. Throws what the producer threw, Cancelled, or
    /// Timeout when the time is over.
    decltype(auto) get(const WaitOptions& options = {}) const {
        if (!state_->wait(options)) throw_timeout(options);
        if constexpr (std::is_void_v<T>) {
            state_->value();
        } else {
            return state_->value();
        }
    }

    /// The exception, or null if there is a value. Only once done.
    std::exception_ptr error() const noexcept { return state_->error(); }

    /// Runs `callback` once: on the thread that completes the future, or here and now if it is done. The callback must
    /// not block. What it throws is logged and goes no further.
    void on_ready(FutureStateBase::Callback callback) const { state_->on_ready(std::move(callback)); }

    const Ref<FutureState<T>>& state() const noexcept { return state_; }

private:
    Ref<FutureState<T>> state_;
};

/// The producer's end of a `Future`. A promise that is dropped unfulfilled fails its future, so that nobody waits in
/// vain.
template <class T>
class Promise {
public:
    Promise() : state_(make_ref<FutureState<T>>()) {}
    Promise(Promise&&) noexcept = default;
    Promise& operator=(Promise&& other) noexcept {
        if (this != &other) {
            const Promise dropped(std::move(*this));
            state_ = std::move(other.state_);
        }
        return *this;
    }
    ~Promise() {
        if (state_ && !state_->done()) {
            state_->set_exception(std::make_exception_ptr(Closed("the work was dropped before it produced an answer")));
        }
    }

    Future<T> future() const { return Future<T>(state_); }
    bool try_start() noexcept { return state_->try_start(); }
    /// It was cancelled, or fulfilled.
    bool done() const noexcept { return state_->done(); }
    template <class... Args>
    void set_value(Args&&... args) {
        state_->set_value(std::forward<Args>(args)...);
    }
    void set_exception(std::exception_ptr error) noexcept { state_->set_exception(std::move(error)); }

    /// Runs `f` and fulfils the future with what it returns or throws.
    template <class F>
    void fulfil(F&& f) noexcept {
        try {
            if constexpr (std::is_void_v<T>) {
                std::forward<F>(f)();
                set_value();
            } else {
                set_value(std::forward<F>(f)());
            }
        } catch (...) {
            set_exception(std::current_exception());
        }
    }

private:
    Ref<FutureState<T>> state_;
};

}  // namespace trtlab::core
