#include "trtlab/core/wait.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

constexpr std::int64_t kNsPerSecond = 1'000'000'000;

std::int64_t monotonic_now_ns() noexcept {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

std::atomic<std::uint32_t> forks{0};

void count_fork() { forks.fetch_add(1, std::memory_order_relaxed); }  // the child has one thread: nothing to order

void futex_wake(const void* address, int count) noexcept {
    syscall(SYS_futex, address, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

}  // namespace

void throw_timeout(const WaitOptions& options) {
    char message[96];
    std::snprintf(message, sizeof message, "nothing came within %.6g s; wait longer, or find out what is slow",
                  static_cast<double>(options.timeout.count()) / kNsPerSecond);
    throw Timeout(message);
}

Deadline::Deadline(std::chrono::nanoseconds timeout) : at_ns_(-1) {
    if (timeout == kForever) return;
    const std::int64_t now = monotonic_now_ns();
    if (timeout.count() <= 0) {
        at_ns_ = 0;
    } else if (timeout.count() <= INT64_MAX - now) {
        at_ns_ = now + timeout.count();
    }
}

Deadline::Deadline(std::chrono::steady_clock::time_point at) noexcept : at_ns_(-1) {
    // The standard library's steady clock is CLOCK_MONOTONIC in nanoseconds.
    const std::chrono::nanoseconds since_boot = at.time_since_epoch();
    if (since_boot != std::chrono::nanoseconds::max()) at_ns_ = std::max<std::int64_t>(since_boot.count(), 0);
}

WaitResult futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                      const Deadline& deadline) noexcept {
    timespec at{};
    timespec* until = nullptr;
    if (!deadline.never()) {
        at.tv_sec = deadline.monotonic_ns() / kNsPerSecond;
        at.tv_nsec = deadline.monotonic_ns() % kNsPerSecond;
        until = &at;
    }
    // FUTEX_WAIT_BITSET, because its timeout is a point in time: an interrupted wait goes on without arithmetic.
    const long result =
        syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, expected, until, nullptr, FUTEX_BITSET_MATCH_ANY);
    if (result == 0 || errno == EAGAIN) return WaitResult::woken;
    if (errno == ETIMEDOUT) return WaitResult::timed_out;
    return WaitResult::interrupted;
}

void futex_wake_one(const std::atomic<std::uint32_t>& word) noexcept { futex_wake(&word, 1); }
void futex_wake_all(const std::atomic<std::uint32_t>& word) noexcept { futex_wake(&word, INT_MAX); }

WakeUp::~WakeUp() {
    if (address_ != nullptr) futex_wake(address_, 1);
}

bool Waiter::wait(const Deadline& deadline, SignalHook on_signal) {
    while (!granted()) {
        switch (futex_wait(granted_, 0, deadline)) {
            case WaitResult::woken:
                break;
            case WaitResult::timed_out:
                return granted();
            case WaitResult::interrupted:
                if (on_signal != nullptr) on_signal();
                break;
        }
    }
    return true;
}

void Waiter::grant(WakeUp& wake_up) noexcept {
    granted_.store(1, std::memory_order_release);  // pairs with granted(): what was handed over is visible
    wake_up.address_ = &granted_;
}

ForkGuard::ForkGuard() {
    static const bool registered = [] {
        if (pthread_atfork(nullptr, nullptr, count_fork) != 0)
            throw OutOfMemory("the system has no room for a fork handler");
        return true;
    }();
    (void)registered;
    born_ = forks.load(std::memory_order_relaxed);
}

bool ForkGuard::forked() const noexcept { return forks.load(std::memory_order_relaxed) != born_; }

}  // namespace trtlab::core
