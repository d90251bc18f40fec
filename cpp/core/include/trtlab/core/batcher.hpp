#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "trtlab/core/dispatcher.hpp"
#include "trtlab/core/model.hpp"

namespace trtlab::core {

/// What one request asks of a `Batcher`, beyond the answer.
struct RequestOptions {
    /// From now; after it an answer is of no use, and a request that has not been computed by then fails with Timeout. One
    /// that is being computed is answered, late. Default: the batcher's.
    std::optional<std::chrono::nanoseconds> deadline = {};
    std::uint32_t priority = 0;  ///< 0 comes first
    /// How to wait for room in a full queue. Default: `queue_timeout()`.
    std::optional<WaitOptions> queue_wait = {};
};

/// An axis along which requests may be filled up, so that those of different extents can be joined.
struct PaddedAxis {
    std::string input;     ///< its name
    std::size_t axis = 1;  ///< not 0, which is the batch
    std::vector<std::int64_t>
        buckets;       ///< a joined request has the smallest that it fits in; longer ones are not padded
    double value = 0;  ///< what it is filled with
    /// Outputs and their axes that are as long as this one: cut back to what the request had.
    std::vector<std::pair<std::string, std::size_t>> trimmed = {};
};

/// A model whose requests are joined into batches along the leading axis, and answered one by one.
///
/// A request goes straight through to the model while nothing is in flight. Those that come while it computes are joined
/// when it is done, as far as their other axes are equal or are padded into the same bucket; see `BatchQueue` for what goes
/// when, priorities and deadlines. A request that ends up alone is passed on as it is, without a copy or padding, and so
/// is one of more rows than `max_batch_size` that the model takes, one of no rows, and one with an input that is on a GPU
/// or has a fence. The rows of the others are copied into one tensor; their answers are views of the batch's outputs,
/// which share their memory.
///
/// When a batch of several fails, each of them is asked once more, alone, so that one bad request fails alone (`Batch::fail`
/// has the exceptions). An output whose leading axis is not the batch's rows can't be split: all fail with EngineError.
///
/// Owns: a share of the model. Destroying it lets go of the model; `close` closes it, whoever else holds it.
/// Threads: all members may be called from any thread. Joining and splitting are done on the thread that begins or ends
/// the batch; a thread of its own is made only if the model's queue turns out to be full, to wait there.
/// Cancelling: until its batch is begun. A request that was cancelled is not computed.
/// Cost: after warm-up, nothing is allocated for a request but what the model allocates.
class [[gnu::visibility("default")]] Batcher final : public Model {
public:
    struct Options {
        std::size_t max_batch_size = 0;  ///< rows; 0: the model's, or 8 where it says nothing
        /// How long a request is held for company while another batch executes and a slot is free.
        std::chrono::nanoseconds max_delay = std::chrono::milliseconds(2);
        bool hold_when_idle = false;  ///< hold them even while nothing executes
        /// Batches that the model is given at a time. 0: 2 if it is on a GPU, where the copies of one then overlap the
        /// computation of the other; else 1.
        std::size_t max_in_flight = 0;
        std::size_t max_queue = 1024;                                ///< requests waiting
        std::optional<std::chrono::nanoseconds> queue_timeout = {};  ///< default: the model's
        std::optional<std::chrono::nanoseconds> deadline = {};       ///< of requests that say nothing; default: none
        std::chrono::nanoseconds deadline_slack = {};                ///< by how much batches should be early
        std::size_t priorities = 1;
        std::chrono::nanoseconds priority_step = std::chrono::milliseconds(100);
        std::vector<PaddedAxis> padding = {};
        std::shared_ptr<TimerQueue> timers = {};  ///< null: one of its own, when first needed
    };

    /// Throws InvalidArgument unless every input has a leading axis that takes more than 1, and `options` fit the model.
    Batcher(std::shared_ptr<Model> model, const Options& options);
    explicit Batcher(std::shared_ptr<Model> model) : Batcher(std::move(model), Options{}) {}
    ~Batcher() override;

    /// The model's, but for `max_batch_size`.
    const std::shared_ptr<const ModelSpec>& shared_spec() const noexcept override;

    using Model::infer;
    /// Also throws InvalidArgument if the leading extents of the inputs differ.
    Future<Tensors> infer(std::span<const Tensor> inputs, const std::optional<WaitOptions>& queue_wait = {}) override;
    /// The same with a deadline and a priority. Also throws InvalidArgument if there is no such priority.
    Future<Tensors> submit(std::span<const Tensor> inputs, const RequestOptions& options);

    /// What waits is computed at once (`drain`), or fails with Closed; then the model is closed, too.
    void close(Pending pending = Pending::drain) override;
    bool closed() const noexcept override;
    std::chrono::nanoseconds queue_timeout() const noexcept override;

    /// Of the requests: queue is from `infer` until the model had the batch, input the joining, output the splitting.
    ModelStats stats() const noexcept override;
    /// "batches", "batched_requests", "batches_of_1", "batches_of_2", "batches_of_3_to_4", ... (rows), "expired",
    /// "isolated" (requests computed again because their batch failed), "overloaded"; and what the model counts.
    std::vector<std::pair<std::string, std::uint64_t>> counters() const override;
    /// What the model holds, and the buffers in which inputs are joined.
    std::vector<MemoryUse> memory() const override;
    void prefetch() override;
    void evict() override;

    const std::shared_ptr<Model>& model() const noexcept;
    /// As it is in force: with no 0 for "choose".
    const Options& options() const noexcept;
    /// Requests that wait, batches in flight.
    Dispatcher::Stats dispatch_stats() const { return dispatcher_.stats(); }

private:
    struct Request;
    struct Shared;
    const std::shared_ptr<Shared> shared_;  // with the batches under way, which may outlive this
    Dispatcher dispatcher_;
};

}  // namespace trtlab::core
