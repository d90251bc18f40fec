// How late a timer is, on an idle machine and on one whose CPUs are all busy, and what setting and cancelling one costs.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "rounds.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/future.hpp"
#include "trtlab/core/histogram.hpp"
#include "trtlab/core/thread_pool.hpp"
#include "trtlab/core/timer_queue.hpp"

#if __has_include(<boost/asio/steady_timer.hpp>)
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/version.hpp>
#define TRTLAB_BENCH_ASIO
#endif

namespace {

using namespace trtlab::core;
using Clock = std::chrono::steady_clock;
using Callback = std::function<void()>;

class OurTimers {
public:
    void at(Clock::time_point when, Callback callback) { (void)timers_.at(when, std::move(callback)); }

private:
    TimerQueue timers_;
};

/// What one writes without a timer queue: a thread of one's own that waits with a deadline.
class WaitingThread {
public:
    ~WaitingThread() {
        {
            const std::lock_guard lock(mutex_);
            ending_ = true;
        }
        changed_.notify_one();
    }
    void at(Clock::time_point when, Callback callback) {
        {
            const std::lock_guard lock(mutex_);
            next_.emplace(when, std::move(callback));
        }
        changed_.notify_one();
    }

private:
    void serve() {
        std::unique_lock lock(mutex_);
        while (!ending_) {
            if (!next_) {
                changed_.wait(lock);
            } else if (changed_.wait_until(lock, next_->first) == std::cv_status::timeout) {
                const Callback callback = std::move(next_->second);
                next_.reset();
                lock.unlock();
                callback();
                lock.lock();
            }
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::optional<std::pair<Clock::time_point, Callback>> next_;
    bool ending_ = false;
    std::jthread thread_{[this] { serve(); }};
};

#ifdef TRTLAB_BENCH_ASIO
class AsioTimers {
public:
    ~AsioTimers() { context_.stop(); }
    void at(Clock::time_point when, Callback callback) {
        auto timer = std::make_shared<boost::asio::steady_timer>(context_, when);
        timer->async_wait([timer, callback = std::move(callback)](const boost::system::error_code&) { callback(); });
    }

private:
    boost::asio::io_context context_;
    boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{context_.get_executor()};
    std::jthread thread_{[this] { context_.run(); }};
};
#endif

/// Keeps every CPU busy as long as it lives.
class Load {
public:
    explicit Load(bool on) {
        for (std::size_t i = 0; on && i < usable_cpus(); ++i) {
            threads_.emplace_back([](const std::stop_token& stop) {
                std::uint64_t spun = 0;
                while (!stop.stop_requested()) benchmark::DoNotOptimize(++spun);
            });
        }
    }

private:
    std::vector<std::jthread> threads_;
};

/// One timer after another, between 0.2 and 1.2 ms ahead; this thread is parked meanwhile.
template <class Timers>
void lateness(benchmark::State& state, bool loaded) {
    const Load load(loaded);
    Timers timers;
    Histogram late;
    std::uint64_t turn = 0;
    for (auto _ : state) {
        Promise<std::int64_t> ran;
        const Future<std::int64_t> late_ns = ran.future();
        const auto when = Clock::now() + std::chrono::microseconds(200 + turn++ * 137 % 1000);
        timers.at(when, [&ran, when] { ran.set_value(std::chrono::nanoseconds(Clock::now() - when).count()); });
        late.record(static_cast<std::uint64_t>(std::max<std::int64_t>(late_ns.get(), 0)));
    }
    state.counters["late_p50_us"] = static_cast<double>(late.percentile(50)) / 1000;
    state.counters["late_p99_us"] = static_cast<double>(late.percentile(99)) / 1000;
}

/// A deadline that is not needed: set, and cancelled, among so many others.
void set_and_cancel(benchmark::State& state) {
    TimerQueue timers;
    for (int i = 0; i < 1000; ++i) (void)timers.after(std::chrono::hours(1 + i), [] {});
    int turn = 0;
    for (auto _ : state) {
        Timer timer = timers.after(std::chrono::hours(2 + turn++ % 500), [] {});
        benchmark::DoNotOptimize(timer.cancel());
    }
}

#ifdef TRTLAB_BENCH_ASIO
void asio_set_and_cancel(benchmark::State& state) {
    boost::asio::io_context context;
    const auto work = boost::asio::make_work_guard(context);
    std::jthread thread([&] { context.run(); });
    std::vector<std::unique_ptr<boost::asio::steady_timer>> others;
    for (int i = 0; i < 1000; ++i) {
        others.push_back(std::make_unique<boost::asio::steady_timer>(context, std::chrono::hours(1 + i)));
        others.back()->async_wait([](const boost::system::error_code&) {});
    }
    int turn = 0;
    for (auto _ : state) {
        boost::asio::steady_timer timer(context, std::chrono::hours(2 + turn++ % 500));
        timer.async_wait([](const boost::system::error_code&) {});
        benchmark::DoNotOptimize(timer.cancel());
    }
    context.stop();
}
#endif

template <class Timers>
void add(const std::string& name) {
    for (const bool loaded : {false, true}) {
        benchmark::RegisterBenchmark((name + (loaded ? ", loaded" : ", idle")).c_str(),
                                     [loaded](benchmark::State& state) { lateness<Timers>(state, loaded); })
            ->Iterations(500)
            ->UseRealTime();
    }
}

}  // namespace

int main(int argc, char** argv) {
    trtlab::bench::Rounds rounds(argc, argv);
    add<OurTimers>("TimerQueue");
    add<WaitingThread>("std::condition_variable::wait_until");
    benchmark::RegisterBenchmark("TimerQueue set and cancel", set_and_cancel)->MinTime(0.05)->UseRealTime();
#ifdef TRTLAB_BENCH_ASIO
    rounds.describe("rival", "Boost.Asio " BOOST_LIB_VERSION);
    add<AsioTimers>("asio::steady_timer");
    benchmark::RegisterBenchmark("asio::steady_timer set and cancel", asio_set_and_cancel)
        ->MinTime(0.05)
        ->UseRealTime();
#else
    rounds.describe("left out", "Boost.Asio: its headers are not installed");
#endif
    std::vector<trtlab::bench::Comparison> comparisons;
    for (const char* load : {", idle", ", loaded"}) {
        for (const char* rival : {"std::condition_variable::wait_until", "asio::steady_timer"}) {
            for (const char* metric : {"late_p50_us", "late_p99_us"}) {
                comparisons.push_back({std::string("TimerQueue") + load, std::string(rival) + load, metric});
            }
        }
    }
    comparisons.push_back({"TimerQueue set and cancel", "asio::steady_timer set and cancel", "time_ns"});
    return rounds.run(comparisons);
}
