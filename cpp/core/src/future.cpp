#include "trtlab/core/future.hpp"

#include <algorithm>
#include <chrono>

#include "spin_time.hpp"

namespace trtlab::core {
namespace {

thread_local SpinTime spin_time;

void run(FutureStateBase::Callback& callback) noexcept {
    try {
        callback();
    } catch (...) {
        log_current_exception("a future's callback");
    }
}

}  // namespace

bool FutureStateBase::try_start() noexcept {
    std::uint32_t status = status_.load(std::memory_order_relaxed);
    while ((status & kPhase) == kPending) {
        if (status_.compare_exchange_weak(status, (status & ~kPhase) | kRunning, std::memory_order_relaxed))
            return true;
    }
    return false;
}

bool FutureStateBase::cancel() {
    std::uint32_t status = status_.load(std::memory_order_relaxed);
    if ((status & kPhase) != kPending) return false;
    // Made first, since it may throw for want of memory: between the exchange and publish nothing may.
    auto error = std::make_exception_ptr(Cancelled("the request was cancelled before it ran"));
    while ((status & kPhase) == kPending) {
        // Whoever wins this exchange is the only one to write error_.
        if (status_.compare_exchange_weak(status, (status & ~kPhase) | kFinishing, std::memory_order_relaxed)) {
            error_ = std::move(error);
            publish(kCancelled);
            return true;
        }
    }
    return false;
}

bool FutureStateBase::claim() noexcept {
    std::uint32_t status = status_.load(std::memory_order_relaxed);
    while ((status & kPhase) <= kRunning) {
        if (status_.compare_exchange_weak(status, (status & ~kPhase) | kFinishing, std::memory_order_relaxed))
            return true;
    }
    return false;
}

void FutureStateBase::set_exception(std::exception_ptr error) noexcept {
    if (!claim()) return;
    error_ = std::move(error);
    finish();
}

void FutureStateBase::finish() noexcept { publish(kReady); }

void FutureStateBase::publish(std::uint32_t phase) noexcept {
    // Release pairs with the acquire of done(): who sees the phase sees the value. Acquire pairs with the fetch_or in
    // on_ready and wait: their flags are seen here, or they see the phase.
    const std::uint32_t before = status_.exchange(phase, std::memory_order_acq_rel);
    if ((before & kWaiters) != 0) futex_wake_all(status_);
    if ((before & kCallbacks) == 0) return;
    for (std::size_t i = 0;; ++i) {
        Callback callback;
        {
            std::lock_guard lock(callbacks_mutex_);
            if (i >= callbacks_.size()) {
                callbacks_.clear();
                return;
            }
            callback = std::move(callbacks_[i]);
        }
        run(callback);
    }
}

bool FutureStateBase::wait(const WaitOptions& options) const {
    if (done()) return true;
    if (options.timeout.count() <= 0) return false;
    const auto begin = SpinTime::Clock::now();
    const auto until = begin + std::min(std::max(spin_time.next(), expected_within()), options.timeout);
    if (spin_until(until, [this] { return done(); })) return true;
    const bool answered = park(options);
    spin_time.learn(SpinTime::Clock::now() - begin);
    return answered;
}

bool FutureStateBase::park(const WaitOptions& options) const {
    const Deadline deadline(options.timeout);
    for (;;) {
        std::uint32_t status = status_.fetch_or(kWaiters, std::memory_order_acq_rel);  // pairs with publish
        if ((status & kPhase) >= kReady) return true;
        switch (futex_wait(status_, status | kWaiters, deadline)) {
            case WaitResult::woken:
                break;
            case WaitResult::timed_out:
                return done();
            case WaitResult::interrupted:
                if (options.on_signal != nullptr) options.on_signal();
                break;
        }
    }
}

void FutureStateBase::on_ready(Callback callback) {
    {
        std::lock_guard lock(callbacks_mutex_);
        if (!done()) {
            const bool first = callbacks_.empty();
            callbacks_.push_back(std::move(callback));
            const std::uint32_t status = status_.fetch_or(kCallbacks, std::memory_order_acq_rel);  // pairs with publish
            if ((status & kPhase) < kReady) return;
            // Published between the two lines above. If an earlier callback had set the flag, publish waits for this
            // lock and will find the new one too; otherwise it saw no flag and is gone.
            if (!first) return;
            callback = std::move(callbacks_.back());
            callbacks_.pop_back();
        }
    }
    run(callback);
}

void FutureStateBase::reset() noexcept {
    callbacks_.clear();
    error_ = nullptr;
    expected_ns_.store(0, std::memory_order_relaxed);
    status_.store(kPending, std::memory_order_relaxed);  // the last owner: the recycler's lock orders it for the next
}

}  // namespace trtlab::core
