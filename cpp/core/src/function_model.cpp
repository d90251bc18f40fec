#include "trtlab/core/function_model.hpp"

#include "trtlab/core/error.hpp"
#include "trtlab/core/pipeline.hpp"
#include "trtlab/core/thread_pool.hpp"

namespace trtlab::core {

struct FunctionModel::Impl final : Pipeline {
    Impl(std::shared_ptr<const ModelSpec> spec, Function function_, const Options& options);

    const Function function;
    ThreadPool workers;  // last: joined before anything that its tasks use goes away
};

struct FunctionModel::Request final : PipelineRequest {
    Impl& impl() const noexcept { return static_cast<Impl&>(pipeline()); }

    Staging stage() override {
        times.stage_begin = times.stage_end = RequestTimes::Clock::now();
        return Staging::done;
    }

    void launch() override {
        impl().workers.post([this] { run(); });  // the pipeline's reference keeps it alive
    }

    void run() noexcept {
        std::exception_ptr error;
        if (start()) {
            const Gate::Completion completing(impl().gate);  // the function, too, would wait for itself
            try {
                std::vector<Tensor> outputs = impl().function(inputs);
                times.executed = RequestTimes::Clock::now();
                check(outputs);
                answer = Tensors(impl().shared_spec, std::move(outputs));
                times.finished = RequestTimes::Clock::now();
            } catch (...) {
                error = std::current_exception();
            }
        }
        complete(std::move(error));
    }

    void check(const std::vector<Tensor>& outputs) const {
        const ModelSpec& spec = impl().spec();
        if (outputs.size() != spec.outputs.size()) {
            throw EngineError("model '" + spec.name + "': its function returned " + std::to_string(outputs.size()) +
                              " outputs, declared are " + std::to_string(spec.outputs.size()));
        }
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            try {
                check_tensor(spec, spec.outputs[i], outputs[i], "output");
            } catch (const InvalidArgument& mismatch) {
                throw EngineError(std::string(mismatch.what()) + " (returned by the model's function)");
            }
        }
    }
};

namespace {

constexpr std::size_t kMaxIdle = 64;

std::shared_ptr<const ModelSpec> checked(ModelSpec spec) {
    if (spec.platform.empty()) spec.platform = "function";
    spec.validate();
    return std::make_shared<const ModelSpec>(std::move(spec));
}

std::shared_ptr<ExecutionBudget> budget_for(const FunctionModel::Options& options) {
    return std::make_shared<ExecutionBudget>(ExecutionBudget::Options{
        .max_executions = options.concurrency, .max_buffers = options.concurrency, .max_queue = options.max_queue});
}

}  // namespace

FunctionModel::Impl::Impl(std::shared_ptr<const ModelSpec> spec, Function function_, const Options& options)
    : Pipeline(spec, budget_for(options), options.queue_timeout, kMaxIdle, [] { return new Request; }),
      function(std::move(function_)),
      workers({.threads = options.concurrency, .max_queue = options.concurrency, .name = spec->name}) {}

std::shared_ptr<Pipeline> FunctionModel::make(ModelSpec spec, Function function, const Options& options) {
    if (!function) throw InvalidArgument("model '" + spec.name + "': the function is empty");
    return std::make_shared<Impl>(checked(std::move(spec)), std::move(function), options);
}

FunctionModel::FunctionModel(ModelSpec spec, Function function, const Options& options)
    : PipelineModel(make(std::move(spec), std::move(function), options)) {}

FunctionModel::~FunctionModel() {
    // Joined, so that what the function captured is neither used nor dropped after this.
    if (end()) static_cast<Impl&>(pipeline()).workers.close();
}

}  // namespace trtlab::core
