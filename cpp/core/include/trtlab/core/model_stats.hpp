#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace trtlab::core {

/// What became of a model's requests since it was made, and where their time went (KServe's ModelStatistics has the
/// same split). Times are sums over the completed requests.
struct ModelStats {
    std::uint64_t completed = 0;
    std::uint64_t failed = 0;
    std::uint64_t cancelled = 0;
    std::chrono::nanoseconds queue{0};    ///< from `infer` to an IO buffer, and from the buffer to a token
    std::chrono::nanoseconds input{0};    ///< binding or copying inputs
    std::chrono::nanoseconds execute{0};  ///< the engine
    std::chrono::nanoseconds output{0};   ///< making the answer out of what the engine left
};

/// Points in one request's life, for `StatsRecorder`.
struct RequestTimes {
    using Clock = std::chrono::steady_clock;
    Clock::time_point asked, stage_begin, stage_end, launched, executed, finished;
};

/// Adds up `ModelStats`. Threads: lock-free.
class StatsRecorder {
public:
    void completed(const RequestTimes& times) noexcept {
        const auto add = [](std::atomic<std::uint64_t>& sum, auto duration) {
            sum.fetch_add(static_cast<std::uint64_t>(std::chrono::nanoseconds(duration).count()),
                          std::memory_order_relaxed);
        };
        add(queue_ns_, (times.stage_begin - times.asked) + (times.launched - times.stage_end));
        add(input_ns_, times.stage_end - times.stage_begin);
        add(execute_ns_, times.executed - times.launched);
        add(output_ns_, times.finished - times.executed);
        completed_.fetch_add(1, std::memory_order_relaxed);
    }
    void failed() noexcept { failed_.fetch_add(1, std::memory_order_relaxed); }
    void cancelled() noexcept { cancelled_.fetch_add(1, std::memory_order_relaxed); }

    /// Counters are read one by one: a request that ends meanwhile may be in some and not yet in others.
    ModelStats read() const noexcept {
        const auto ns = [](const std::atomic<std::uint64_t>& sum) {
            return std::chrono::nanoseconds(sum.load(std::memory_order_relaxed));
        };
        return {completed_.load(std::memory_order_relaxed),
                failed_.load(std::memory_order_relaxed),
                cancelled_.load(std::memory_order_relaxed),
                ns(queue_ns_),
                ns(input_ns_),
                ns(execute_ns_),
                ns(output_ns_)};
    }

private:
    std::atomic<std::uint64_t> completed_{0}, failed_{0}, cancelled_{0};
    std::atomic<std::uint64_t> queue_ns_{0}, input_ns_{0}, execute_ns_{0}, output_ns_{0};
};

}  // namespace trtlab::core
