#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "trtlab/core/histogram.hpp"
#include "trtlab/core/model.hpp"
#include "trtlab/core/model_stats.hpp"
#include "trtlab/core/tensor.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// Puts a model under load and says how long its answers took, how many came, and where the time went.
///
/// Closed loop: a fixed number of requests is outstanding, the next one goes out when one is answered: what does the
/// model sustain? Open loop: requests arrive at a rate, whether or not earlier ones were answered: how long do callers
/// wait who know nothing of each other? Their latency counts from the moment at which they were due, so that a model
/// that stalls is charged for everybody who would have come meanwhile ("coordinated omission", Gil Tene, "How NOT to
/// Measure Latency", 2013).
///
/// Owns: a share of the model and of the inputs. The same inputs go with every request.
/// Threads: `run` may be called from several threads at once; each is one load generator.
/// Cost: one thread however many requests are outstanding; after warm-up nothing is allocated for a request.
class [[gnu::visibility("default")]] InferBench {
public:
    enum class Load {
        closed,    ///< `concurrency` requests outstanding
        constant,  ///< arrivals every 1 / `rate` seconds
        poisson,   ///< arrivals at random, on average `rate` a second: callers who are independent of each other
    };

    enum class Phase { warm_up, measure, drain };

    struct Progress {
        Phase phase = Phase::warm_up;
        std::chrono::nanoseconds elapsed{0};  ///< in this phase
        std::chrono::nanoseconds planned{0};  ///< for this phase; of `drain`, the most
        std::uint64_t answered = 0;           ///< while warming up: then; later: since
        std::uint64_t failed = 0;
    };

    struct Options {
        Load load = Load::closed;
        /// Closed loop: requests outstanding. Open loop: the most that may be; arrivals beyond wait, and their wait counts.
        std::size_t concurrency = 1;
        double rate = 0;                                              ///< arrivals a second, open loop only
        std::chrono::nanoseconds warm_up = std::chrono::seconds(1);   ///< load without counting; 0: none
        std::chrono::nanoseconds duration = std::chrono::seconds(5);  ///< for how long requests are made
        /// How long answers are waited for after that.
        std::chrono::nanoseconds drain_timeout = std::chrono::seconds(30);
        std::uint64_t max_requests = 0;  ///< measures no more than so many requests; 0: no such limit
        std::int64_t batch = 1;          ///< inferences in one request, for `Report::inferences_per_second`
        std::uint64_t seed = 1;          ///< of the Poisson arrivals

        /// Called on the running thread, at most every `progress_interval`. What it throws ends the run, and leaves `run`.
        std::function<void(const Progress&)> on_progress = {};
        std::chrono::nanoseconds progress_interval = std::chrono::milliseconds(100);
        SignalHook on_signal = nullptr;  ///< called when a signal interrupts a wait; may throw to end the run
    };

    struct Report {
        std::uint64_t requests = 0;    ///< answered
        std::uint64_t failures = 0;    ///< ended with an error, or refused
        std::uint64_t overloaded = 0;  ///< of these, refused because the model's queue was full
        /// Due or made, but not answered when `drain_timeout` was over. Their time until then is in `latency`: a lower
        /// bound is nearer to the truth than leaving them out.
        std::uint64_t unfinished = 0;
        std::string first_error = {};         ///< the message of the first failure
        std::chrono::nanoseconds elapsed{0};  ///< from the first request to the last answer
        double requests_per_second = 0;       ///< answered
        double inferences_per_second = 0;     ///< the same times the batch
        /// In ns, of what was answered or is unfinished. From `infer` (closed loop) or from the scheduled arrival (open
        /// loop) to the future being ready.
        Histogram latency = {};
        /// In ns, open loop: from the scheduled arrival to the call of `infer`. If it is not small, the load generator or
        /// `concurrency` was the limit.
        Histogram issue_delay = {};
        /// What the model counted during the measurement; includes the requests of others, if there were any.
        ModelStats stats = {};
        std::chrono::nanoseconds cpu{0};  ///< of the whole process, user and system, all threads
    };

    /// Throws InvalidArgument unless `inputs` are what the model's spec asks for.
    InferBench(std::shared_ptr<Model> model, std::vector<Tensor> inputs);

    /// Blocks for warm-up, duration, and until what is outstanding is answered, at most `drain_timeout` (also after the
    /// warm-up). A request for `stop` ends warm-up and measurement early; the report is of what was measured.
    ///
    /// Throws InvalidArgument (options; or the model refused the inputs), Closed, Timeout (what the warm-up asked was not
    /// answered within `drain_timeout`), and what the callbacks throw. Then, as after a measurement whose drain timed out,
    /// requests that have not begun are cancelled and the others left to themselves. Every other error is a failed
    /// request in the report.
    Report run(const Options& options, const std::stop_token& stop = {}) const;

private:
    const std::shared_ptr<Model> model_;
    const std::vector<Tensor> inputs_;
};

}  // namespace trtlab::core
