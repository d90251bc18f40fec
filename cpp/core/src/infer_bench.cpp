#include "trtlab/core/infer_bench.hpp"

#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <random>
#include <utility>

#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

constexpr std::size_t kMaxConcurrency = 1'000'000;
constexpr double kMaxArrivals = 1e9;  // also bounds the time that accounting for unserved arrivals takes
constexpr nanoseconds kMaxTime = std::chrono::hours(24 * 365);
constexpr double kFarAwayNs = 1e18;  // 31 years: beyond kMaxTime, and still a point on the clock

/// A request that is outstanding, or may be.
struct Slot {
    Future<Tensors> future;  // touched by the running thread only
    Clock::time_point due, answered;
    Slot* next = nullptr;
};

/// Where completing threads leave answered slots, and the running thread finds them. Counted, because a run that ends
/// by an exception leaves it to the callbacks that are still to come.
class Answers final : public RefCounted {
public:
    explicit Answers(std::size_t slots) : slots_(slots) {}

    std::vector<Slot>& slots() noexcept { return slots_; }

    void push(Slot& slot) noexcept {
        slot.next = head_.load(std::memory_order_relaxed);
        // seq_cst here and in ring, wait: either the waiter sees the slot, or this thread sees the waiter.
        while (!head_.compare_exchange_weak(slot.next, &slot, std::memory_order_seq_cst, std::memory_order_relaxed)) {
        }
        ring();
    }
    /// The answered slots as a list, the latest first.
    Slot* take() noexcept { return head_.exchange(nullptr, std::memory_order_acquire); }  // pairs with push

    void stop() noexcept {
        stopped_.store(true, std::memory_order_seq_cst);  // as in push
        ring();
    }
    bool stopped() const noexcept { return stopped_.load(std::memory_order_relaxed); }

    /// Blocks until there are answers, or `until`, or a signal, or `stop` if that still means something.
    void wait(Clock::time_point until, bool stoppable, SignalHook on_signal) {
        // Parking and being woken takes longer than many a model: see the wait of a Future, which does the same.
        static const nanoseconds spin(usable_cpus() > 1 ? 10'000 : 0);
        const auto spin_until = std::min(until, Clock::now() + spin);
        do {
            if (head_.load(std::memory_order_relaxed) != nullptr) return;
        } while (Clock::now() < spin_until);

        parked_.store(1, std::memory_order_seq_cst);
        WaitResult result = WaitResult::woken;
        if (head_.load(std::memory_order_seq_cst) == nullptr &&
            !(stoppable && stopped_.load(std::memory_order_seq_cst))) {
            result = futex_wait(parked_, 1, Deadline(until - Clock::now()));
        }
        parked_.store(0, std::memory_order_relaxed);
        if (result == WaitResult::interrupted && on_signal != nullptr) on_signal();
    }

private:
    void ring() noexcept {
        if (parked_.load(std::memory_order_seq_cst) != 0 && parked_.exchange(0, std::memory_order_relaxed) != 0) {
            futex_wake_one(parked_);
        }
    }

    std::vector<Slot> slots_;
    std::atomic<Slot*> head_{nullptr};
    std::atomic<std::uint32_t> parked_{0};
    std::atomic<bool> stopped_{false};
};

/// When requests are due.
class Schedule {
public:
    Schedule(const InferBench::Options& options, Clock::time_point begin)
        : load_(options.load), gap_ns_(1e9 / options.rate), begin_(begin), random_(options.seed) {
        if (load_ == InferBench::Load::poisson) advance();
    }

    /// In a closed loop the next request is due as soon as there is a slot for it.
    Clock::time_point next(Clock::time_point now) const noexcept {
        if (load_ == InferBench::Load::closed) return now;
        return begin_ + nanoseconds(static_cast<std::int64_t>(std::min(offset_ns_, kFarAwayNs)));
    }
    void advance() noexcept {
        ++arrivals_;
        if (load_ == InferBench::Load::constant) {
            offset_ns_ = static_cast<double>(arrivals_) * gap_ns_;
        } else if (load_ == InferBench::Load::poisson) {
            // The standard leaves open how its exponential_distribution draws; a seed should mean the same everywhere.
            const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;
            offset_ns_ -= std::log1p(-uniform) * gap_ns_;
        }
    }

private:
    const InferBench::Load load_;
    const double gap_ns_;
    const Clock::time_point begin_;
    std::mt19937_64 random_;
    std::uint64_t arrivals_ = 0;
    double offset_ns_ = 0;
};

/// Timed waits of this thread end when they are due, and not up to 50 us (Linux' default) later.
class ExactTimers {
public:
    ExactTimers() noexcept : slack_(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)) { prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); }
    ~ExactTimers() {
        if (slack_ > 0) prctl(PR_SET_TIMERSLACK, slack_, 0, 0, 0);
    }
    ExactTimers(const ExactTimers&) = delete;
    ExactTimers& operator=(const ExactTimers&) = delete;

private:
    const int slack_;
};

std::string message_of(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const std::exception& exception) {
        return exception.what();
    } catch (...) {
        return "an exception of an unknown type";
    }
}

nanoseconds process_cpu_time() noexcept {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return std::chrono::seconds(now.tv_sec) + nanoseconds(now.tv_nsec);
}

void check(const InferBench::Options& options) {
    const auto refuse = [](const std::string& what) { throw InvalidArgument("InferBench: " + what); };
    if (options.concurrency < 1 || options.concurrency > kMaxConcurrency) {
        refuse("concurrency: expected 1 to " + std::to_string(kMaxConcurrency) + ", got " +
               std::to_string(options.concurrency));
    }
    if (options.batch < 1) refuse("batch: expected at least 1, got " + std::to_string(options.batch));
    const auto check_time = [&](const char* name, nanoseconds time, nanoseconds least) {
        if (time < least || time > kMaxTime) {
            refuse(std::string(name) + ": expected " + (least.count() > 0 ? "more than 0" : "0") +
                   " to 365 days, got " + std::to_string(static_cast<double>(time.count()) * 1e-9) + " s");
        }
    };
    check_time("warm_up", options.warm_up, nanoseconds(0));
    check_time("duration", options.duration, nanoseconds(1));
    check_time("drain_timeout", options.drain_timeout, nanoseconds(0));
    check_time("progress_interval", options.progress_interval, nanoseconds(0));
    if (options.load == InferBench::Load::closed) return;
    if (!(options.rate > 0) || !std::isfinite(options.rate)) {
        refuse("rate: an open loop needs a number of arrivals a second above 0, got " + std::to_string(options.rate));
    }
    const double seconds = static_cast<double>(std::max(options.duration, options.warm_up).count()) * 1e-9;
    if (options.rate * seconds > kMaxArrivals) {
        refuse("rate: " + std::to_string(options.rate) + "/s for " + std::to_string(seconds) +
               " s are more than 1e9 arrivals; lower the rate or shorten the duration");
    }
}

/// One load generator at work.
class Run {
public:
    Run(Model& model, const std::vector<Tensor>& inputs, const InferBench::Options& options)
        : model_(model), inputs_(inputs), options_(options), answers_(make_ref<Answers>(options.concurrency)) {
        for (Slot& slot : answers_->slots()) put_free(slot);
    }
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;
    ~Run() {
        for (Slot& slot : answers_->slots()) {
            if (!slot.future.valid()) continue;
            try {
                slot.future.cancel();
            } catch (...) {
                log_current_exception("InferBench, cancelling a request");
            }
            slot.future = {};
        }
    }

    Answers& answers() noexcept { return *answers_; }

    /// Makes requests for `duration`, no more than `max_requests`, and waits for the answers.
    InferBench::Report load(InferBench::Phase phase, nanoseconds duration, std::uint64_t max_requests) {
        InferBench::Report report;
        report_ = &report;
        const auto begin = last_answer_ = Clock::now();
        auto end = begin + duration;  // of making requests
        auto give_up = end + options_.drain_timeout;
        auto next_progress = begin;
        Schedule schedule(options_, begin);
        std::uint64_t made = 0;
        bool making = true;
        for (;;) {
            collect();
            const auto now = Clock::now();
            // However short the time, a closed loop measures something.
            const bool over = now >= end && (open() || made != 0);
            if (making && (over || answers_->stopped() || made == max_requests)) {
                making = false;
                end = std::min(end, now);
                give_up = now + options_.drain_timeout;
            }
            if (options_.on_progress && now >= next_progress) {
                const bool draining = !making && phase == InferBench::Phase::measure;
                options_.on_progress({draining ? InferBench::Phase::drain : phase, now - (draining ? end : begin),
                                      draining ? options_.drain_timeout : duration, report.requests, report.failures});
                next_progress = now + options_.progress_interval;
            }
            // What an open loop's schedule had due before the end is still sent, and counts.
            const auto due = schedule.next(now);
            const bool more = made < max_requests && (open() ? due < end : making);
            if (!making && (now >= give_up || (outstanding_ == 0 && !more && !refused_))) break;

            if (free_ != nullptr && refused_) {
                issue(*std::exchange(refused_, std::nullopt), making ? end : give_up);
            } else if (free_ != nullptr && more && due <= now) {
                ++made;
                schedule.advance();
                issue(due, making ? end : give_up);
            } else {
                auto until = making ? end : give_up;
                if (options_.on_progress) until = std::min(until, next_progress);
                if (free_ != nullptr && more) until = std::min(until, due);
                answers_->wait(until, making, options_.on_signal);
            }
        }
        const auto now = Clock::now();
        for (const Slot& slot : answers_->slots()) {
            if (slot.future.valid()) unfinished(slot.due, now);
        }
        if (refused_) unfinished(*refused_, now);
        for (; open() && made < max_requests && schedule.next(now) < end; schedule.advance(), ++made) {
            unfinished(schedule.next(now), now);
        }
        report.elapsed = (report.unfinished != 0 ? now : std::max(last_answer_, end)) - begin;
        const double seconds = static_cast<double>(report.elapsed.count()) * 1e-9;
        report.requests_per_second = seconds > 0 ? static_cast<double>(report.requests) / seconds : 0;
        report.inferences_per_second = report.requests_per_second * static_cast<double>(options_.batch);
        return report;
    }

private:
    bool open() const noexcept { return options_.load != InferBench::Load::closed; }

    void put_free(Slot& slot) noexcept {
        slot.next = free_;
        free_ = &slot;
    }

    void issue(Clock::time_point due, Clock::time_point until) {
        Slot& slot = *free_;
        slot.due = due;
        // An open loop's callers are turned away by a full queue, as a service turns them away. A closed loop's caller waits for
        // room, in pieces, so that progress and stop are served.
        const auto now = Clock::now();
        const nanoseconds room = open() ? nanoseconds(0) : std::clamp<nanoseconds>(until - now, nanoseconds(0), kPiece);
        try {
            if (open()) report_->issue_delay.record(count(now - due));
            slot.future = model_.infer(inputs_, WaitOptions(room, options_.on_signal));
        } catch (const Overloaded& refusal) {
            if (open()) {
                ++report_->overloaded;
                failed(refusal.what());
            } else {
                refused_ = due;
            }
            return;
        } catch (const EngineError& error) {
            failed(error.what());
            return;
        } catch (const CudaError& error) {
            failed(error.what());
            return;
        } catch (const OutOfMemory& error) {
            failed(error.what());
            return;
        }  // anything else is the caller's mistake, or came from on_signal
        free_ = slot.next;
        ++outstanding_;
        slot.future.on_ready([answers = answers_, &slot] {
            slot.answered = Clock::now();
            answers->push(slot);
        });
    }

    void collect() {
        for (Slot* slot = answers_->take(); slot != nullptr;) {
            Slot* const next = slot->next;
            if (const std::exception_ptr error = slot->future.error()) {
                failed(report_->first_error.empty() ? message_of(error) : std::string());
            } else {
                ++report_->requests;
                report_->latency.record(count(slot->answered - slot->due));
            }
            last_answer_ = std::max(last_answer_, slot->answered);
            slot->future = {};
            put_free(*slot);
            --outstanding_;
            slot = next;
        }
    }

    void failed(std::string message) {
        ++report_->failures;
        if (report_->first_error.empty()) report_->first_error = std::move(message);
    }

    void unfinished(Clock::time_point due, Clock::time_point now) noexcept {
        ++report_->unfinished;
        report_->latency.record(count(now - due));
    }

    static std::uint64_t count(nanoseconds time) noexcept {
        return static_cast<std::uint64_t>(std::max(time, nanoseconds(0)).count());
    }

    static constexpr nanoseconds kPiece = std::chrono::milliseconds(100);

    Model& model_;
    const std::vector<Tensor>& inputs_;
    const InferBench::Options& options_;
    const Ref<Answers> answers_;
    Slot* free_ = nullptr;
    std::size_t outstanding_ = 0;
    std::optional<Clock::time_point> refused_;  // closed loop: a request that the queue had no room for yet
    Clock::time_point last_answer_;
    InferBench::Report* report_ = nullptr;
};

}  // namespace

InferBench::InferBench(std::shared_ptr<Model> model, std::vector<Tensor> inputs)
    : model_(std::move(model)), inputs_(std::move(inputs)) {
    if (!model_) throw InvalidArgument("InferBench: there is no model");
    check_inputs(model_->spec(), inputs_);
}

InferBench::Report InferBench::run(const Options& options, const std::stop_token& stop) const {
    check(options);
    const ExactTimers exact_timers;
    Run run(*model_, inputs_, options);
    const std::stop_callback stopping(stop, [&answers = run.answers()] { answers.stop(); });
    constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
    if (options.warm_up.count() > 0) {
        const Report warm_up = run.load(Phase::warm_up, options.warm_up, kUnlimited);
        if (warm_up.unfinished != 0) {
            throw Timeout("model '" + model_->spec().name + "': " + std::to_string(warm_up.unfinished) +
                          " requests of the warm-up were not answered within the drain timeout; allow more time, or "
                          "find out what is stuck");
        }
    }
    const ModelStats stats_before = model_->stats();
    const nanoseconds cpu_before = process_cpu_time();
    Report report =
        run.load(Phase::measure, options.duration, options.max_requests != 0 ? options.max_requests : kUnlimited);
    report.cpu = process_cpu_time() - cpu_before;
    report.stats = model_->stats();
    report.stats -= stats_before;
    return report;
}

}  // namespace trtlab::core
