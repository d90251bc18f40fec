#include "trtlab/core/pipeline.hpp"

#include <string>

#include "trtlab/core/error.hpp"

namespace trtlab::core {

// --- the request, in the order of its way -----------------------------------------------------------------------

void PipelineRequest::staged(std::exception_ptr error) noexcept {
    // The last request may take the pipeline with it.
    const std::shared_ptr<ExecutionBudget> budget = pipeline_->budget;
    budget->staged(*this, std::move(error));
}

bool PipelineRequest::start() noexcept {
    if (!try_start()) return false;
    times.launched = RequestTimes::Clock::now();
    return true;
}

void PipelineRequest::computed() noexcept {
    holds_token_ = false;
    ExecutionBudget& budget = *pipeline_->budget;
    if (budget.give_back_execution()) budget.pump();
}

void PipelineRequest::complete(std::exception_ptr error) noexcept {
    const bool started = running();
    // Token and buffer go back before the answer is published, so that who reacts to the answer finds them free.
    ExecutionBudget& budget = *pipeline_->budget;
    const bool more = holds_token_ ? budget.give_back_both() : budget.give_back_buffer();
    {
        const Gate::Completion completing(pipeline_->gate);
        drop_inputs();
        if (error) {
            pipeline_->stats.failed();
            set_exception(std::move(error));
        } else if (started) {
            pipeline_->stats.completed(times);
            set_value(std::move(answer));
        } else {
            pipeline_->stats.cancelled();
        }
    }
    if (more) budget.pump();
    leave();
}

void PipelineRequest::check_open() const {
    if (pipeline_->gate.is_shut()) pipeline_->throw_closed();
}

void PipelineRequest::discard() noexcept {
    pipeline_->stats.cancelled();
    leave();
}

void PipelineRequest::abandon(std::exception_ptr error) noexcept {
    {
        const Gate::Completion completing(pipeline_->gate);
        drop_inputs();
        pipeline_->stats.failed();
        set_exception(std::move(error));
    }
    leave();
}

void PipelineRequest::drop_inputs() noexcept {
    inputs.clear();
    release_scratch();
}

/// Out of the budget: the pipeline's share of the request, and the request's of the pipeline, end.
void PipelineRequest::leave() noexcept {
    // What is dropped here, inputs or an answer that nobody wants, may own the model: its end must not wait for this.
    const Gate::Completion completing(pipeline_->gate);
    drop_inputs();
    const std::shared_ptr<Pipeline> last = std::move(pipeline_);
    last->gate.leave();
    release();
}

void PipelineRequest::recycle() noexcept {
    reset();
    holds_token_ = true;
    times = {};
    if (value_) answer = std::move(*value_);  // for its capacity
    value_.reset();
    answer.clear();
    drop_inputs();
}

// --- the pipeline -----------------------------------------------------------------------------------------------

Pipeline::Pipeline(std::shared_ptr<const ModelSpec> spec, std::shared_ptr<ExecutionBudget> budget_,
                   std::chrono::nanoseconds queue_timeout_, std::size_t max_idle,
                   std::function<PipelineRequest*()> make_request)
    : shared_spec(std::move(spec)),
      budget(std::move(budget_)),
      queue_timeout(queue_timeout_),
      requests_(make_ref<Recycler<PipelineRequest>>(max_idle, std::move(make_request))) {}

Pipeline::~Pipeline() = default;

void Pipeline::throw_closed() const {
    throw Closed("model '" + spec().name + "' is closed: it takes no more requests; load it again");
}

// --- the model --------------------------------------------------------------------------------------------------

PipelineModel::~PipelineModel() { end(); }

bool PipelineModel::end() noexcept {
    if (pipeline_->fork.forked()) {
        // What was under way stayed in the parent, and its locks may be held for ever: nothing can be ended here.
        new std::shared_ptr<Pipeline>(pipeline_);
        return false;
    }
    pipeline_->gate.shut();
    try {
        pipeline_->budget->refuse(
            this, std::make_exception_ptr(Closed("model '" + pipeline_->spec().name + "' was destroyed")),
            Pending::cancel);
    } catch (...) {
        log_current_exception("the destructor of a model");  // no memory for the message; what waits will run instead
    }
    if (pipeline_->gate.completing_on_this_thread()) return false;
    (void)pipeline_->gate.wait_empty();
    return true;
}

void PipelineModel::check_process() const {
    if (pipeline_->fork.forked()) {
        throw Closed("model '" + pipeline_->spec().name +
                     "' stayed in the parent process, where its threads are: load it after the fork");
    }
}

Future<Tensors> PipelineModel::infer(std::span<const Tensor> inputs, const std::optional<WaitOptions>& queue_wait) {
    Pipeline& pipeline = *pipeline_;
    check_process();
    pipeline.check_inputs(inputs);
    if (!pipeline.gate.enter()) pipeline.throw_closed();
    Ref<PipelineRequest> request;
    try {
        request = pipeline.requests_->take();
        request->inputs.assign(inputs.begin(), inputs.end());
    } catch (...) {
        pipeline.gate.leave();
        throw;
    }
    request->times.asked = RequestTimes::Clock::now();
    request->answer.assign_spec(pipeline.shared_spec);
    request->pipeline_ = pipeline_;
    request->add_ref();  // the pipeline's, until `leave`
    std::exception_ptr interrupted;
    try {
        interrupted = pipeline.budget->admit(*request, this, pipeline.spec().name,
                                             queue_wait.value_or(WaitOptions(pipeline.queue_timeout)));
    } catch (...) {
        request->leave();
        throw;
    }
    if (interrupted) {
        request->cancel();
        std::rethrow_exception(interrupted);
    }
    return Future<Tensors>(std::move(request));
}

void PipelineModel::close(Pending pending) {
    Pipeline& pipeline = *pipeline_;
    check_process();
    if (pipeline.gate.completing_on_this_thread()) {
        throw InvalidArgument("model '" + pipeline.spec().name +
                              "': close() was called by its own function or by a callback of one of its own futures, "
                              "and would wait for itself");
    }
    pipeline.gate.shut();
    pipeline.budget->refuse(
        this,
        std::make_exception_ptr(Closed("model '" + pipeline.spec().name + "' was closed before this request ran")),
        pending);
    (void)pipeline.gate.wait_empty();
}

}  // namespace trtlab::core
