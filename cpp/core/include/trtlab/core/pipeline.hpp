#pragma once

#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "trtlab/core/budget.hpp"
#include "trtlab/core/future.hpp"
#include "trtlab/core/gate.hpp"
#include "trtlab/core/model.hpp"
#include "trtlab/core/recycler.hpp"

namespace trtlab::core {

class Pipeline;

/// One request on its way through a `Pipeline`: the future's state, its place in the budget's queues, its inputs and its
/// answer, in one recycled object. An engine derives its own, with what it needs between the stages.
///
/// The engine's part: `stage` (see also `staged`) and `launch`, which see to it that once per request, on whatever thread, the work is done as
/// `if (start()) ...`, and ended by `complete`. In between the engine fills `answer` and notes the times.
class [[gnu::visibility("default")]] PipelineRequest : public Recycled<PipelineRequest, FutureState<Tensors>>,
                                                       public Job {
public:
    /// Drops what the last use left behind. For the recycler.
    void recycle() noexcept;

protected:
    PipelineRequest() = default;

    /// The engine's part of `recycle`, also called as soon as a request has ended: release what was only needed to compute.
    virtual void release_scratch() noexcept {}

    /// The request executes from now on. False if it was cancelled: do nothing, and `complete`.
    [[nodiscard]] bool start() noexcept;

    /// The end of a staging that `stage` deferred, on whatever thread: the request may be launched now, or, with an
    /// `error`, fails. It may be answered and gone before this returns.
    void staged(std::exception_ptr error = {}) noexcept;

    /// The engine is done with the token, although the answer is not there yet: lets the next request launch, on this
    /// thread. At most once, after `start` (whatever it said), and over before `complete` begins.
    void computed() noexcept;

    /// Gives token and buffer back, publishes `answer` or `error`, lets the next request go, and lets go of the pipeline.
    /// The last thing that the engine does with the request.
    void complete(std::exception_ptr error) noexcept;

    Pipeline& pipeline() const noexcept { return *pipeline_; }

    std::vector<Tensor> inputs;
    Tensors answer;
    RequestTimes times;

private:
    friend class PipelineModel;
    bool wanted() const noexcept final { return !done(); }
    void check_open() const final;
    void discard() noexcept final;
    void abandon(std::exception_ptr error) noexcept final;
    void drop_inputs() noexcept;
    void leave() noexcept;

    std::shared_ptr<Pipeline> pipeline_;
    bool holds_token_ = true;
};

/// What the requests of one model share, and outlives the model while they are under way. An engine derives its own.
class [[gnu::visibility("default")]] Pipeline {
public:
    /// `make_request` makes an engine's request; up to `max_idle` that are not in use are kept.
    Pipeline(std::shared_ptr<const ModelSpec> spec, std::shared_ptr<ExecutionBudget> budget,
             std::chrono::nanoseconds queue_timeout, std::size_t max_idle,
             std::function<PipelineRequest*()> make_request);
    Pipeline(const Pipeline&) = delete;
    Pipeline& operator=(const Pipeline&) = delete;
    virtual ~Pipeline();

    const ModelSpec& spec() const noexcept { return *shared_spec; }

    /// Throws InvalidArgument unless `inputs` can be computed: what the spec says, as a rule.
    virtual void check_inputs(std::span<const Tensor> inputs) const { core::check_inputs(spec(), inputs); }

    const std::shared_ptr<const ModelSpec> shared_spec;
    const std::shared_ptr<ExecutionBudget> budget;
    const std::chrono::nanoseconds queue_timeout;
    const ForkGuard fork;
    Gate gate;  ///< counts the requests under way
    StatsRecorder stats;

private:
    friend class PipelineModel;
    friend class PipelineRequest;
    [[noreturn]] void throw_closed() const;
    const Ref<Recycler<PipelineRequest>> requests_;
};

/// A model whose requests go through a `Pipeline`: what all engines have in common. The way in (check, admit), the way
/// out (see `PipelineRequest::complete`), closing, and being destroyed busy, by one of its own callbacks, or in a
/// forked child.
class [[gnu::visibility("default")]] PipelineModel : public Model {
public:
    /// Cancels what waits and lets what executes finish. Called by a callback of one of its own futures, it does not
    /// wait: what is under way keeps the pipeline alive, and ends it.
    ~PipelineModel() override;

    const std::shared_ptr<const ModelSpec>& shared_spec() const noexcept final { return pipeline_->shared_spec; }
    using Model::infer;
    Future<Tensors> infer(std::span<const Tensor> inputs, const std::optional<WaitOptions>& queue_wait = {}) final;
    void close(Pending pending = Pending::drain) final;
    bool closed() const noexcept final { return pipeline_->gate.is_shut(); }
    /// Requests that were accepted and have not ended.
    std::size_t under_way() const noexcept { return pipeline_->gate.inside(); }
    std::chrono::nanoseconds queue_timeout() const noexcept final { return pipeline_->queue_timeout; }
    ModelStats stats() const noexcept final { return pipeline_->stats.read(); }

protected:
    explicit PipelineModel(std::shared_ptr<Pipeline> pipeline) : pipeline_(std::move(pipeline)) {}

    /// What the destructor does, for engines that must do it before their own parts go. True if nothing is under way any
    /// more.
    bool end() noexcept;

    Pipeline& pipeline() const noexcept { return *pipeline_; }
    /// Throws Closed in a forked child.
    void check_process() const;

private:
    const std::shared_ptr<Pipeline> pipeline_;
};

}  // namespace trtlab::core
