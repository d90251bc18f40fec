#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "trtlab/core/intrusive_list.hpp"

namespace trtlab::core {

/// Called when a signal interrupted a wait. It may throw to abandon the wait; returning goes on waiting.
/// The Python bindings pass one that runs pending signal handlers: that is how Ctrl-C ends a wait without polling.
using SignalHook = void (*)();

inline constexpr std::chrono::nanoseconds kForever = std::chrono::nanoseconds::max();

/// How long a call may block. Zero asks without waiting; `kForever` waits until there is an answer or a `close()`.
struct WaitOptions {
    WaitOptions() = default;
    template <class Rep, class Period>
    WaitOptions(std::chrono::duration<Rep, Period> timeout_, SignalHook on_signal_ = nullptr)
        : timeout(saturated(timeout_)), on_signal(on_signal_) {}

    std::chrono::nanoseconds timeout = kForever;
    SignalHook on_signal = nullptr;

private:
    /// What is too long for nanoseconds (292 years) is for ever; what is negative, or not a number, is no time at all.
    template <class Rep, class Period>
    static constexpr std::chrono::nanoseconds saturated(std::chrono::duration<Rep, Period> timeout) {
        const double ns = std::chrono::duration<double, std::nano>(timeout).count();
        if (ns >= 9.2e18) return kForever;
        return ns > 0 ? std::chrono::duration_cast<std::chrono::nanoseconds>(timeout)
                      : std::chrono::nanoseconds::zero();
    }
};

/// A point on the monotonic clock at which a wait gives up; `never()` for `kForever`.
class Deadline {
public:
    explicit Deadline(std::chrono::nanoseconds timeout);
    /// `time_point::max()` is never.
    explicit Deadline(std::chrono::steady_clock::time_point at) noexcept;
    bool never() const noexcept { return at_ns_ < 0; }
    std::int64_t monotonic_ns() const noexcept { return at_ns_; }

private:
    std::int64_t at_ns_;
};

/// Throws Timeout, saying how long was waited.
[[noreturn]] void throw_timeout(const WaitOptions& options);

enum class WaitResult { woken, timed_out, interrupted };

/// Parks the calling thread while `word == expected`, on a Linux futex. May return `woken` spuriously.
/// Raw futexes, because the standard library's waits hide the interruption by a signal.
WaitResult futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                      const Deadline& deadline) noexcept;
void futex_wake_one(const std::atomic<std::uint32_t>& word) noexcept;
void futex_wake_all(const std::atomic<std::uint32_t>& word) noexcept;

/// A wake-up that is due: carried out at the end of the scope, which the holder of a lock arranges to be after the
/// unlock, so that the woken thread does not run into the lock.
class WakeUp {
public:
    WakeUp() = default;
    WakeUp(const WakeUp&) = delete;
    WakeUp& operator=(const WakeUp&) = delete;
    ~WakeUp();

private:
    friend class Waiter;
    // Only the address is used: the word lived on the stack of a thread that may have gone on already. The kernel
    // then wakes nobody, or a futex that took the address over, and all waits here tolerate that.
    const void* address_ = nullptr;
};

/// Tells the CPU that this is a spinning loop: it yields to its sibling and leaves the loop faster.
inline void spin_pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// One blocked thread's place in a queue: lives on that thread's stack. Everybody who waits for a thing in trtlab
/// waits here, and is handed the thing in order of arrival; nobody races for it.
class Waiter : public ListNode<Waiter> {
public:
    /// Returns true once `grant` was called, false when the deadline passed first. Rethrows what `on_signal` throws.
    bool wait(const Deadline& deadline, SignalHook on_signal);

    /// Ends the wait. Call at most once, under the queue's lock, after unlinking the waiter and writing whatever it
    /// waits for. Declare `wake_up` before the lock, so that it acts after the unlock.
    void grant(WakeUp& wake_up) noexcept;
    bool granted() const noexcept { return granted_.load(std::memory_order_acquire) != 0; }  // pairs with grant

private:
    std::atomic<std::uint32_t> granted_{0};
};

/// FIFO of waiters. Every call needs the lock of what is waited for.
using WaitQueue = IntrusiveList<Waiter>;

/// Whether this process is a forked child of the one that made the object. Threads do not survive a fork, so whoever
/// owns threads asks before it joins or waits for them. Asking costs one load: a handler counts the forks.
class ForkGuard {
public:
    ForkGuard();
    bool forked() const noexcept;

private:
    std::uint32_t born_;
};

}  // namespace trtlab::core
