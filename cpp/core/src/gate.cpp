#include "trtlab/core/gate.hpp"

namespace trtlab::core {
namespace {
thread_local const Gate::Completion* innermost = nullptr;
}

bool Gate::enter() noexcept {
    // Acquire pairs with the release in leave/shut: who enters sees what was set up before.
    const std::uint32_t before = state_.fetch_add(kOne, std::memory_order_acq_rel);
    if ((before & kShut) == 0) return true;
    leave();
    return false;
}

void Gate::enter_beside() noexcept {
    state_.fetch_add(kOne, std::memory_order_relaxed);  // the one inside saw what was set up before, and told us
}

void Gate::leave() noexcept {
    // Release pairs with the acquire in wait_empty: who waited sees everything done inside. The waiter may have seen the
    // count and destroyed the gate before the wake-up: only the address is used then.
    if (state_.fetch_sub(kOne, std::memory_order_acq_rel) == (kShut | kOne)) futex_wake_all(state_);
}

bool Gate::shut() noexcept {
    const std::uint32_t before = state_.fetch_or(kShut, std::memory_order_acq_rel);
    if (before == 0)
        futex_wake_all(state_);  // who waits may have come before the shutting, and nobody is left to leave
    return (before & kShut) == 0;
}

bool Gate::is_shut() const noexcept { return (state_.load(std::memory_order_acquire) & kShut) != 0; }

bool Gate::wait_empty(const WaitOptions& options) const {
    const Deadline deadline(options.timeout);
    for (;;) {
        const std::uint32_t state = state_.load(std::memory_order_acquire);  // pairs with leave
        if (state == kShut) return true;
        switch (futex_wait(state_, state, deadline)) {
            case WaitResult::woken:
                break;
            case WaitResult::timed_out:
                return state_.load(std::memory_order_acquire) == kShut;
            case WaitResult::interrupted:
                if (options.on_signal != nullptr) options.on_signal();
                break;
        }
    }
}

std::uint32_t Gate::inside() const noexcept { return state_.load(std::memory_order_relaxed) / kOne; }

Gate::Completion::Completion(const Gate& gate) noexcept : gate_(&gate), outer_(innermost) { innermost = this; }
Gate::Completion::~Completion() { innermost = outer_; }

bool Gate::completing_on_this_thread() const noexcept {
    for (const Completion* scope = innermost; scope != nullptr; scope = scope->outer_) {
        if (scope->gate_ == this) return true;
    }
    return false;
}

}  // namespace trtlab::core
