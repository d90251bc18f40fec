#pragma once

#include <sched.h>

#include <algorithm>
#include <chrono>

#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// How long a thread's next wait spins before it parks: as long as parking and waking cost, if the wait before it was
/// over in such a time, and next to nothing if it was not. Spinning for about that cost is never worse than twice the
/// better choice (Karlin et al., "Competitive randomized algorithms for nonuniform problems", 1990); looking at the
/// last wait keeps threads that wait for long work off the CPUs that do it. The cost is some 40 us on a virtual
/// machine of 2 CPUs (Xeon, Debian 12, 2026-11: bench/request_overhead), 5 us on bare metal.
class SpinTime {
public:
    using Clock = std::chrono::steady_clock;

    std::chrono::nanoseconds next() const noexcept { return next_; }

    /// A wait took so long, waking included if it parked.
    void learn(std::chrono::nanoseconds waited) noexcept { next_ = waited < 2 * kCost ? longest() : kShortest; }

private:
    static constexpr std::chrono::nanoseconds kShortest{500};
    static constexpr std::chrono::nanoseconds kCost{50'000};

    /// On a single CPU spinning would only keep the producer off it.
    static std::chrono::nanoseconds longest() noexcept;

    std::chrono::nanoseconds next_ = longest();
};

/// Spins until `condition()` holds, true, or the time is over, false; looks at least once. Gives way to whoever is
/// runnable on this CPU, who may be the one that is waited for, and gives up when they took longer than `others`.
template <class Condition>
bool spin_until(SpinTime::Clock::time_point deadline, Condition condition, std::chrono::nanoseconds others = kForever) {
    // Some 0.3 us. The shorter, the sooner a producer on this very CPU goes on: a task submitted and waited for took 5.6 us
    // there with 64 pauses, 3.4 us with 16, 3.0 us with 8, 2.9 us with 4; from another CPU it is all the same
    // (VM of 2 CPUs, EPYC, 2026-11-25: bench/thread_pools).
    constexpr int kPausesPerYield = 8;
    for (;;) {
        for (int i = 0; i < kPausesPerYield; ++i) {
            if (condition()) return true;
            spin_pause();
        }
        const auto before = SpinTime::Clock::now();
        if (before >= deadline) return false;
        sched_yield();
        if (others != kForever && SpinTime::Clock::now() - before > others) return condition();
    }
}

}  // namespace trtlab::core
