#include "trtlab/core/function_model.hpp"

#include "trtlab/core/budget.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/gate.hpp"
#include "trtlab/core/thread_pool.hpp"

namespace trtlab::core {

struct FunctionModel::Impl {
    Impl(std::shared_ptr<const ModelSpec> spec_, Function function_, const Options& options_);

    const std::shared_ptr<const ModelSpec> spec;
    const Function function;
    const Options options;
    const Ref<Recycler<Request>> requests;
    StatsRecorder stats;
    ExecutionBudget budget;
    Gate gate;
    ThreadPool workers;  // last: joined before anything that its tasks use goes away
};

/// One call: future state, queue node and argument list in one recycled object.
struct FunctionModel::Request final : Recycled<Request, FutureState<Tensors>>, Job {
    void stage() override { times.stage_begin = times.stage_end = RequestTimes::Clock::now(); }
    void launch() override {
        impl->workers.post([request = Ref<Request>(this)] { request->run(); });
    }
    bool wanted() const noexcept override { return !done(); }
    void discard() noexcept override {
        impl->stats.cancelled();
        leave();
    }
    void abandon(std::exception_ptr error) noexcept override {
        impl->stats.failed();
        {
            const Gate::Completion completing(impl->gate);
            set_exception(std::move(error));
        }
        leave();
    }

    void run() noexcept {
        std::vector<Tensor> outputs;
        std::exception_ptr error;
        if (try_start()) {
            times.launched = RequestTimes::Clock::now();
            try {
                outputs = impl->function(inputs);
                times.executed = RequestTimes::Clock::now();
                check(outputs);
                times.finished = RequestTimes::Clock::now();
                impl->stats.completed(times);
            } catch (...) {
                error = std::current_exception();
                impl->stats.failed();
            }
        } else {
            impl->stats.cancelled();
        }
        const bool more = impl->budget.give_back_both();
        {
            const Gate::Completion completing(impl->gate);
            inputs.clear();
            if (error) {
                set_exception(std::move(error));
            } else {
                set_value(impl->spec, std::move(outputs));  // no effect if it was cancelled
            }
        }
        if (more) impl->budget.pump();
        leave();
    }

    void check(const std::vector<Tensor>& outputs) const {
        const ModelSpec& spec = *impl->spec;
        if (outputs.size() != spec.outputs.size()) {
            throw EngineError("model '" + spec.name + "': its function returned " + std::to_string(outputs.size()) + " outputs, declared are " +
                              std::to_string(spec.outputs.size()));
        }
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            try {
                check_tensor(spec, spec.outputs[i], outputs[i], "output");
            } catch (const InvalidArgument& mismatch) {
                throw EngineError(std::string(mismatch.what()) + " (returned by the model's function)");
            }
        }
    }

    /// Out of the budget: the pipeline's share of the request and of the model ends.
    void leave() noexcept {
        inputs.clear();
        const std::shared_ptr<Impl> last = std::move(impl);
        last->gate.leave();
        release();
    }

    void recycle() noexcept {
        reset();
        value_.reset();
        inputs.clear();
    }

    std::shared_ptr<Impl> impl;
    std::vector<Tensor> inputs;
    RequestTimes times;
};

FunctionModel::Impl::Impl(std::shared_ptr<const ModelSpec> spec_, Function function_, const Options& options_)
    : spec(std::move(spec_)),
      function(std::move(function_)),
      options(options_),
      requests(make_ref<Recycler<Request>>(std::size_t{64}, [] { return new Request; })),
      budget({.max_executions = options.concurrency, .max_buffers = options.concurrency, .max_queue = options.max_queue}),
      workers({.threads = options.concurrency, .max_queue = options.concurrency, .name = spec->name}) {}

namespace {

std::shared_ptr<const ModelSpec> checked(ModelSpec spec) {
    if (spec.platform.empty()) spec.platform = "function";
    spec.validate();
    return std::make_shared<const ModelSpec>(std::move(spec));
}

[[noreturn]] void throw_closed(const ModelSpec& spec) {
    throw Closed("model '" + spec.name + "' is closed: it takes no more requests; load it again");
}

}  // namespace

FunctionModel::FunctionModel(ModelSpec spec, Function function, const Options& options) {
    if (!function) throw InvalidArgument("model '" + spec.name + "': the function is empty");
    impl_ = std::make_shared<Impl>(checked(std::move(spec)), std::move(function), options);
}

FunctionModel::~FunctionModel() {
    if (impl_->gate.completing_on_this_thread()) {
        // Destroyed by a callback of one of its own futures: what is in flight keeps the rest alive, and ends it.
        impl_->gate.shut();
        impl_->budget.refuse(this, std::make_exception_ptr(Closed("model '" + impl_->spec->name + "' was destroyed")), Pending::cancel);
        return;
    }
    close(Pending::cancel);
}

const std::shared_ptr<const ModelSpec>& FunctionModel::shared_spec() const noexcept { return impl_->spec; }

Future<Tensors> FunctionModel::infer(std::span<const Tensor> inputs, const std::optional<WaitOptions>& queue_wait) {
    check_inputs(*impl_->spec, inputs);
    if (!impl_->gate.enter()) throw_closed(*impl_->spec);
    Ref<Request> request;
    try {
        request = impl_->requests->take();
        request->inputs.assign(inputs.begin(), inputs.end());
        request->impl = impl_;
        request->times.asked = RequestTimes::Clock::now();
        request->add_ref();
    } catch (...) {
        impl_->gate.leave();
        throw;
    }
    try {
        impl_->budget.admit(*request, this, impl_->spec->name, queue_wait.value_or(WaitOptions(impl_->options.queue_timeout)));
    } catch (...) {
        request->leave();
        throw;
    }
    return Future<Tensors>(std::move(request));
}

void FunctionModel::close(Pending pending) {
    if (impl_->gate.completing_on_this_thread()) {
        throw InvalidArgument("model '" + impl_->spec->name + "': close() was called from a callback of one of its own futures, and would wait for itself");
    }
    impl_->gate.shut();
    impl_->budget.refuse(this, std::make_exception_ptr(Closed("model '" + impl_->spec->name + "' was closed before this request ran")), pending);
    (void)impl_->gate.wait_empty();
}

ModelStats FunctionModel::stats() const noexcept { return impl_->stats.read(); }

bool FunctionModel::closed() const noexcept { return impl_->gate.is_shut(); }

}  // namespace trtlab::core
