#include "trtlab/openvino/runner.hpp"

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "binding.hpp"
#include "compiled_model.hpp"
#include "lanes.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::openvino {

using core::Tensor;

namespace {

// Kept for reuse beyond what can be in flight: requests and outputs that callers hold while they look at them.
constexpr std::size_t kIdle = 64;
constexpr std::size_t kIdleBytes = std::size_t{64} << 20;  // of one output

}  // namespace

struct Runner::Impl final : core::Pipeline {
    Impl(std::shared_ptr<const CompiledModel> model_, std::shared_ptr<core::ExecutionBudget> budget_,
         const Options& options);

    const std::shared_ptr<const CompiledModel> model;
    const core::Ref<core::Recycler<StagedInputs>> staged;
    std::vector<core::Ref<core::Recycler<OutputMemory>>> outputs;
    Lanes lanes;  // last: ended before anything that its tasks use goes away
};

/// The way of a request, top to bottom: admitted by `infer`, then `stage`, `launch`, `run`.
struct Runner::Request final : core::PipelineRequest, LaneTask {
    explicit Request(std::size_t count) : addresses(count) {}

    Impl& impl() const noexcept { return static_cast<Impl&>(pipeline()); }

    core::Staging stage() override {
        times.stage_begin = core::RequestTimes::Clock::now();
        const core::ModelSpec& spec = impl().spec();
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            if (readable_in_place(inputs[i])) {
                addresses[i] = inputs[i].data();
            } else {
                if (!staged) staged = impl().staged->take();
                addresses[i] = staged->copy(i, inputs[i]);
            }
            check_range(spec, spec.inputs[i], inputs[i], addresses[i]);
        }
        times.stage_end = core::RequestTimes::Clock::now();
        return core::Staging::done;
    }

    void launch() override { impl().lanes.submit(*this); }

    void run(LaneTools& tools) noexcept override {
        std::exception_ptr error;
        if (start()) {
            try {
                compute(tools);
            } catch (...) {
                error = std::current_exception();
            }
        }
        for (core::Ref<OutputMemory>& output : tools.outputs) output = {};
        tools.finish();
        complete(std::move(error));
    }

    /// Inputs to outputs, on a lane.
    void compute(LaneTools& tools) {
        const CompiledModel& model = *impl().model;
        const Api& api = model.api();
        // OpenVINO keeps variables in the infer request, and its C API can't reset them.
        if (model.stateful) tools.request = model.make_request();
        ov_infer_request_t* request = tools.request.get();
        // Outputs before inputs: where an input is an output too, OpenVINO 2026.4 bound in the other order leaves the
        // output unwritten, or writes into the input.
        for (std::size_t i = 0; i < tools.outputs.size(); ++i) {
            tools.outputs[i] = impl().outputs[i]->take();
            const ov_status_e status =
                api.infer_request_set_output_tensor_by_index(request, i, tools.outputs[i]->tensor());
            if (status != ov_status_e::OK) [[unlikely]] {
                api.throw_error(status, "model '" + model.spec->name + "', output '" + model.spec->outputs[i].name +
                                            "': OpenVINO refuses memory for it");
            }
        }
        for (std::size_t i = 0; i < inputs.size(); ++i) bind_input(model, request, i, inputs[i], addresses[i]);
        const ov_status_e status = api.infer_request_infer(request);
        if (status != ov_status_e::OK) [[unlikely]] {
            api.throw_error(status, "model '" + model.spec->name + "': inference failed");
        }
        times.executed = core::RequestTimes::Clock::now();
        for (const core::Ref<OutputMemory>& output : tools.outputs) answer.push_back(output->read());
        times.finished = core::RequestTimes::Clock::now();
    }

    void release_scratch() noexcept override { staged = {}; }

    std::vector<void*> addresses;  ///< of the inputs, or of their copies
    core::Ref<StagedInputs> staged;
};

Runner::Impl::Impl(std::shared_ptr<const CompiledModel> model_, std::shared_ptr<core::ExecutionBudget> budget_,
                   const Options& options)
    : Pipeline(model_->spec, budget_, options.queue_timeout, kIdle + budget_->options().max_buffers,
               [count = model_->spec->inputs.size()] { return new Request(count); }),
      model(std::move(model_)),
      staged(core::make_ref<core::Recycler<StagedInputs>>(
          budget->options().max_buffers, [count = model->spec->inputs.size()] { return new StagedInputs(count); })),
      lanes(model, budget->options().max_executions) {
    for (std::size_t i = 0; i < model->spec->outputs.size(); ++i) {
        outputs.push_back(core::make_ref<core::Recycler<OutputMemory>>(
            kIdle + budget->options().max_buffers,
            [library = model->library, spec = model->spec, i] { return new OutputMemory(library, spec, i); },
            kIdleBytes));
    }
}

namespace {

Properties settings(const Runner::Options& options, std::size_t streams) {
    const std::size_t cpus = core::usable_cpus();
    Properties properties;
    if (options.device == "CPU") {
        properties["NUM_STREAMS"] = std::to_string(streams);
        // OpenVINO knows of the affinity mask, and not of a container's quota. Where there is neither, the choice is its own:
        // it counts cores rather than their hyper-threads.
        if (options.threads != 0) {
            properties["INFERENCE_NUM_THREADS"] = std::to_string(options.threads);
        } else if (cpus < std::thread::hardware_concurrency()) {
            properties["INFERENCE_NUM_THREADS"] = std::to_string(std::max(cpus, streams));
        }
        // Several models in one process would be pinned to the same cores.
        properties["ENABLE_CPU_PINNING"] = "NO";
    }
    if (!options.precision.empty()) properties["INFERENCE_PRECISION_HINT"] = options.precision;
    for (const auto& [key, value] : options.properties) properties[key] = value;
    return properties;
}

}  // namespace

std::shared_ptr<Runner> Runner::make(const std::shared_ptr<Library>& library, const ModelSource& source,
                                     const Options& options) {
    if (!library)
        throw core::InvalidArgument("model '" + options.name +
                                    "': the OpenVINO library is null; open one with Library::open");
    if (options.name.empty()) throw core::InvalidArgument("Runner::Options::name is empty: a model needs a name");
    const std::size_t cpus = core::usable_cpus();
    std::size_t streams = options.streams;
    if (streams == 0)
        streams =
            options.budget ? std::min(cpus, options.budget->options().max_executions) : core::default_executions(cpus);
    auto budget = options.budget;
    if (!budget) {
        budget = std::make_shared<core::ExecutionBudget>(
            core::ExecutionBudget::Options{.max_executions = streams, .max_queue = options.max_queue});
    }
    auto model = compile(library, source, options.name, options.device, settings(options, streams));
    return std::shared_ptr<Runner>(new Runner(std::make_shared<Impl>(std::move(model), std::move(budget), options)));
}

std::shared_ptr<Runner> Runner::load(const std::shared_ptr<Library>& library, const std::string& path,
                                     const Options& options) {
    if (path.empty()) throw core::InvalidArgument("model '" + options.name + "': the path is empty");
    return make(library, {.path = path, .bytes = {}, .weights = {}}, options);
}

std::shared_ptr<Runner> Runner::load_from_memory(const std::shared_ptr<Library>& library,
                                                 std::span<const std::byte> model, const Options& options,
                                                 std::span<const std::byte> weights) {
    return make(library, {.path = {}, .bytes = model, .weights = weights}, options);
}

Runner::Runner(std::shared_ptr<Impl> impl) : PipelineModel(std::move(impl)) {}

const std::shared_ptr<core::ExecutionBudget>& Runner::budget() const noexcept { return pipeline().budget; }

std::string Runner::property(const std::string& key) const {
    check_process();
    return static_cast<Impl&>(pipeline()).model->property(key);
}

}  // namespace trtlab::openvino
