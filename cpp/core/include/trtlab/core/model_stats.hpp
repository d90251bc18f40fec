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

    /// Engines on a device, where they were asked to time it: how many requests were, and the sums of those. The names are
    /// trtexec's.
    std::uint64_t device_timed = 0;
    std::chrono::nanoseconds enqueue{0};  ///< the host's part of a launch
    std::chrono::nanoseconds h2d{0};      ///< copying inputs to the device, as the device measured it
    std::chrono::nanoseconds compute{0};  ///< from the copies of the inputs to those of the outputs
    std::chrono::nanoseconds d2h{0};      ///< copying outputs to the host

    ModelStats& operator+=(const ModelStats& other) noexcept {
        each(other, [](auto& mine, auto its) { mine += its; });
        return *this;
    }
    ModelStats& operator-=(const ModelStats& other) noexcept {
        each(other, [](auto& mine, auto its) { mine -= its; });
        return *this;
    }

private:
    template <class F>
    void each(const ModelStats& other, F f) noexcept {
        f(completed, other.completed);
        f(failed, other.failed);
        f(cancelled, other.cancelled);
        f(queue, other.queue);
        f(input, other.input);
        f(execute, other.execute);
        f(output, other.output);
        f(device_timed, other.device_timed);
        f(enqueue, other.enqueue);
        f(h2d, other.h2d);
        f(compute, other.compute);
        f(d2h, other.d2h);
    }
};

/// Points in one request's life, for `StatsRecorder`.
struct RequestTimes {
    using Clock = std::chrono::steady_clock;
    Clock::time_point asked, stage_begin, stage_end, launched, executed, finished;
    bool device_timed = false;
    std::chrono::nanoseconds enqueue{0}, h2d{0}, compute{0}, d2h{0};
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
        if (times.device_timed) {
            add(enqueue_ns_, times.enqueue);
            add(h2d_ns_, times.h2d);
            add(compute_ns_, times.compute);
            add(d2h_ns_, times.d2h);
            device_timed_.fetch_add(1, std::memory_order_relaxed);
        }
        completed_.fetch_add(1, std::memory_order_relaxed);
    }
    /// Forgets everything: what a model asked itself before it was ready is nobody's request. Before there are others.
    void reset() noexcept {
        for (auto* sum : {&completed_, &failed_, &cancelled_, &queue_ns_, &input_ns_, &execute_ns_, &output_ns_,
                          &device_timed_, &enqueue_ns_, &h2d_ns_, &compute_ns_, &d2h_ns_}) {
            sum->store(0, std::memory_order_relaxed);
        }
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
                ns(output_ns_),
                device_timed_.load(std::memory_order_relaxed),
                ns(enqueue_ns_),
                ns(h2d_ns_),
                ns(compute_ns_),
                ns(d2h_ns_)};
    }

private:
    std::atomic<std::uint64_t> completed_{0}, failed_{0}, cancelled_{0};
    std::atomic<std::uint64_t> queue_ns_{0}, input_ns_{0}, execute_ns_{0}, output_ns_{0};
    std::atomic<std::uint64_t> device_timed_{0}, enqueue_ns_{0}, h2d_ns_{0}, compute_ns_{0}, d2h_ns_{0};
};

}  // namespace trtlab::core
