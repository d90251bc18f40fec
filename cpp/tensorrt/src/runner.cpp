#include "trtlab/tensorrt/runner.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "request.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/cuda/memory.hpp"

namespace trtlab::tensorrt {
namespace {

// Kept for reuse beyond what can be in flight: requests and answers that callers hold while they look at them.
constexpr std::size_t kIdle = 64;
constexpr std::size_t kLeastRounds = 3;  // of a warm-up: memory grows, graphs are captured, and are seen to be there
constexpr std::size_t kIdleBytes = std::size_t{256} << 20;

std::shared_ptr<const core::ModelSpec> spec_of(const Engine& engine, const std::string& name) {
    core::ModelSpec spec = engine.model_spec(name);
    spec.cuda_devices = {engine.runtime()->device().ordinal()};
    spec.validate();
    return std::make_shared<const core::ModelSpec>(std::move(spec));
}

std::size_t count_inputs(const Engine& engine) noexcept {
    return static_cast<std::size_t>(std::count_if(engine.tensors().begin(), engine.tensors().end(),
                                                  [](const TensorInfo& tensor) { return tensor.input; }));
}

/// The shapes that a model is warmed up with where nobody says: the static ones, or the optimum of each profile.
std::vector<std::vector<core::Shape>> usual_shapes(const Engine& engine, std::size_t inputs) {
    std::vector<std::vector<core::Shape>> sets;
    for (int profile = 0; profile < engine.profile_count(); ++profile) {
        std::vector<core::Shape> shapes;
        for (std::size_t i = 0; i < inputs; ++i) {
            shapes.push_back(engine.tensors()[i].profiles[static_cast<std::size_t>(profile)].opt);
        }
        if (std::find(sets.begin(), sets.end(), shapes) == sets.end()) sets.push_back(std::move(shapes));
    }
    return sets;
}

std::vector<core::Shape> in_order(const core::ModelSpec& spec, const Runner::Shapes& named) {
    std::vector<core::Shape> shapes(spec.inputs.size());
    std::vector<bool> given(spec.inputs.size());
    for (const auto& [name, shape] : named) {
        const std::size_t index = spec.input_index(name);
        if (std::any_of(shape.begin(), shape.end(), [](std::int64_t extent) { return extent < 0; })) {
            throw core::InvalidArgument("model '" + spec.name + "', shapes to warm up: input '" + name +
                                        "': expected " + spec.inputs[index].to_string() + ", got " + shape.to_string());
        }
        shapes[index] = shape;
        given[index] = true;
    }
    for (std::size_t i = 0; i < given.size(); ++i) {
        if (given[i]) continue;
        if (spec.inputs[i].dynamic()) {
            throw core::InvalidArgument("model '" + spec.name + "', shapes to warm up: input '" + spec.inputs[i].name +
                                        "' is missing: expected " + spec.inputs[i].to_string());
        }
        shapes[i] = spec.inputs[i].static_shape();
    }
    return shapes;
}

std::vector<core::Tensor> zeros(const core::ModelSpec& spec, const std::vector<core::Shape>& shapes) {
    std::vector<core::Tensor> tensors;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        core::Tensor tensor = core::Tensor::allocate(spec.inputs[i].dtype, shapes[i]);
        std::fill_n(tensor.data_as<std::byte>(), tensor.size_bytes(), std::byte{0});
        tensors.push_back(std::move(tensor));
    }
    return tensors;
}

}  // namespace

// --- what the requests share --------------------------------------------------------------------------------------

Runner::Impl::Impl(std::shared_ptr<Engine> engine_, std::shared_ptr<core::ExecutionBudget> budget_,
                   std::shared_ptr<DeviceResources> resources_, const Options& options)
    : Pipeline(spec_of(*engine_, options.name), budget_, options.queue_timeout, kIdle + resources_->buffers(),
               [this] { return new Request(*this); }),
      engine(std::move(engine_)),
      resources(std::move(resources_)),
      outputs_on_device(options.outputs == Outputs::device),
      timing(options.timing),
      input_count(count_inputs(*engine)),
      answer_bytes(std::make_shared<std::atomic<std::size_t>>(0)),
      launcher(engine, resources, {options.graphs, options.max_graphs}),
      answers(core::make_ref<core::Recycler<AnswerMemory>>(
          kIdle + resources->buffers(),
          [memory = outputs_on_device ? resources->device_memory : resources->pinned_memory, held = answer_bytes] {
              return new AnswerMemory(memory, held);
          },
          kIdleBytes)),
      dynamic(resources->buffers()) {}

void Runner::Impl::check_inputs(std::span<const core::Tensor> inputs) const {
    if (inputs.size() == input_count) {
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            const TensorInfo& tensor = engine->tensors()[i];
            if (tensor.on_host && inputs[i].fence()) {
                throw core::InvalidArgument("model '" + spec().name + "', input '" + tensor.name +
                                            "': its values decide about shapes, so they are read before the GPU could "
                                            "wait for its fence; wait for the tensor before you send it");
            }
            if (tensor.on_host && !inputs[i].device().host_accessible()) {
                throw core::InvalidArgument(
                    "model '" + spec().name + "', input '" + tensor.name +
                    "': its values decide about shapes, so TensorRT reads it in host memory; got "
                    "memory of " +
                    inputs[i].device().to_string() + ": copy it there first");
            }
        }
        const bool right_types =
            std::equal(inputs.begin(), inputs.end(), spec().inputs.begin(),
                       [](const core::Tensor& input, const core::TensorSpec& expected) {
                           return input.dtype() == expected.dtype && input.shape().rank() == expected.shape.size();
                       });
        if (right_types) check_profile(spec().name, *engine, inputs);
    }
    core::check_inputs(spec(), inputs);
}

void Runner::Impl::check_device() const {
    if (lost.load(std::memory_order_relaxed)) [[unlikely]] {  // whoever sees it late fails by CUDA's own word
        throw core::CudaError("model '" + spec().name + "': " + resources->device.to_string() +
                                  " was lost by an earlier failure, and this process can use it no more; start another",
                              0, true);
    }
}

std::exception_ptr Runner::Impl::failure(int status, const char* call) noexcept {
    try {
        resources->device.library()->check(status, ("model '" + spec().name + "': " + call).c_str(),
                                           resources->device.ordinal());
        return nullptr;
    } catch (const core::CudaError& error) {
        note(error);
        return std::current_exception();
    } catch (...) {
        return std::current_exception();
    }
}

void Runner::Impl::note(const core::CudaError& error) noexcept {
    if (error.device_lost()) lost.store(true, std::memory_order_relaxed);  // pairs with nothing: see check_device
}

DynamicOutputs& Runner::Impl::dynamic_outputs(const IoBuffer& buffer) {
    DynamicOutputs& made = dynamic[buffer.index];
    if (!made.outputs.empty()) return made;
    const std::vector<TensorInfo>& tensors = engine->tensors();
    made.memory.assign(tensors.size(), nullptr);
    for (std::size_t i = input_count; i < tensors.size(); ++i) {
        made.outputs.push_back(std::make_unique<DynamicOutput>(resources->device_memory, dynamic_bytes));
        if (!tensors[i].on_host) made.memory[i] = made.outputs.back().get();
    }
    return made;
}

// --- the model ----------------------------------------------------------------------------------------------------

std::shared_ptr<Runner> Runner::load(const std::shared_ptr<const Library>& library, const cuda::Device& device,
                                     const std::string& path, const Options& options) {
    return make(library, device, options,
                [&](Runtime& runtime, const Runtime::DeserializeOptions& how) { return runtime.load(path, how); });
}

std::shared_ptr<Runner> Runner::load_from_memory(const std::shared_ptr<const Library>& library,
                                                 const cuda::Device& device, std::span<const std::byte> plan,
                                                 const Options& options) {
    return make(library, device, options, [&](Runtime& runtime, const Runtime::DeserializeOptions& how) {
        return runtime.deserialize(plan, how);
    });
}

std::shared_ptr<Runner> Runner::make(
    const std::shared_ptr<const Library>& library, const cuda::Device& device, const Options& options,
    const std::function<std::shared_ptr<Engine>(Runtime&, const Runtime::DeserializeOptions&)>& deserialize) {
    if (!library) {
        throw core::InvalidArgument("model '" + options.name +
                                    "': the TensorRT library is null; open one with Library::open");
    }
    const std::shared_ptr<Runtime> runtime =
        Runtime::create(library, device, {.host_code_allowed = options.host_code_allowed});
    Runtime::DeserializeOptions how{.name = options.name};
    if (options.weights == Weights::managed) {
        how.weights = std::make_shared<cuda::ManagedMemory>(device, cuda::ManagedMemory::Advice::prefer_device);
    }
    const std::shared_ptr<Engine> engine = deserialize(*runtime, how);
    if (options.weight_streaming_budget) engine->set_weight_streaming_budget(*options.weight_streaming_budget);
    return serve(engine, options);
}

std::shared_ptr<Runner> Runner::serve(std::shared_ptr<Engine> engine, const Options& options) {
    if (options.name.empty()) throw core::InvalidArgument("Runner::Options::name is empty: a model needs a name");
    if (!engine) throw core::InvalidArgument("model '" + options.name + "': the engine is null");
    if (options.max_graphs == 0 && options.graphs) {
        throw core::InvalidArgument("model '" + options.name +
                                    "': max_graphs is 0; set graphs to false to run without");
    }
    const cuda::Device device = engine->runtime()->device();
    auto budget = options.budget;
    if (!budget) budget = std::make_shared<core::ExecutionBudget>(core::ExecutionBudget::Options{.max_executions = 2});
    auto resources = DeviceResources::of(*budget, device);
    auto impl = std::make_shared<Impl>(std::move(engine), std::move(budget), std::move(resources), options);

    std::vector<std::vector<core::Shape>> shapes;
    for (const Shapes& named : options.warm_up) shapes.push_back(in_order(impl->spec(), named));
    // Zeros as the values that decide about shapes would be no shapes that anybody asks for.
    const bool by_values = std::any_of(impl->engine->tensors().begin(), impl->engine->tensors().end(),
                                       [](const TensorInfo& tensor) { return tensor.shape_input; });
    if (options.skip_warm_up || by_values) {
        shapes.clear();
    } else if (shapes.empty()) {
        shapes = usual_shapes(*impl->engine, impl->input_count);
    }
    std::vector<std::vector<core::Tensor>> inputs;
    for (const auto& set : shapes) {
        inputs.push_back(zeros(impl->spec(), set));
        impl->check_inputs(inputs.back());
    }
    {
        const cuda::DeviceGuard current(device);
        if (!options.skip_warm_up) impl->launcher.make_contexts();
        for (const auto& set : inputs) impl->launcher.warm_up(set);
    }
    std::shared_ptr<Runner> runner(new Runner(std::move(impl)));
    // What is left to do is done by requests: memory grows to their size, and each pair of token and buffer captures its graph.
    // Round by round, since graphs are good only once memory has its size for the largest shapes; and until a round has met no
    // new pair, but not for long, since which pairs meet is a matter of who is done first.
    const Impl& shared = runner->pipeline_impl();
    const std::size_t most = options.graphs ? kLeastRounds * shared.resources->tokens() : 1;
    std::uint64_t captures = 0;
    for (std::size_t round = 0; round < most; ++round) {
        for (const auto& set : inputs) {
            std::vector<core::Future<core::Tensors>> answers;
            for (std::size_t i = 0; i < 2 * shared.resources->buffers(); ++i) {
                answers.push_back(runner->infer(set, core::WaitOptions{}));
            }
            for (const auto& answer : answers) (void)answer.get();
        }
        if (round + 1 >= kLeastRounds && shared.launcher.counts().captures == captures) break;
        captures = shared.launcher.counts().captures;
    }
    runner->pipeline().stats.reset();
    return runner;
}

Runner::Runner(std::shared_ptr<Impl> impl) : PipelineModel(std::move(impl)) {}

// The engine's parts are the pipeline's, which outlives what is under way.
Runner::~Runner() = default;

Runner::Impl& Runner::pipeline_impl() const noexcept { return static_cast<Impl&>(pipeline()); }
const std::shared_ptr<Engine>& Runner::engine() const noexcept { return pipeline_impl().engine; }
const std::shared_ptr<core::ExecutionBudget>& Runner::budget() const noexcept { return pipeline().budget; }

std::vector<std::pair<std::string, std::uint64_t>> Runner::counters() const {
    const Impl& impl = pipeline_impl();
    const Launcher::Counts counts = impl.launcher.counts();
    return {{"graph_hits", counts.hits},
            {"graph_misses", counts.misses},
            {"graph_captures", counts.captures},
            {"graphs_refused", counts.refused},
            {"graphs", counts.graphs},
            {"contexts", counts.contexts},
            {"inputs_in_place", impl.in_place.load(std::memory_order_relaxed)},
            {"inputs_copied", impl.copied.load(std::memory_order_relaxed)},
            {"device_lost", impl.lost.load(std::memory_order_relaxed) ? 1u : 0u}};
}

std::vector<core::MemoryUse> Runner::memory() const {
    const Impl& impl = pipeline_impl();
    const core::Device gpu = impl.resources->device.core_device();
    std::vector<core::MemoryUse> uses;
    const std::vector<core::BufferView> weights = impl.engine->weights();
    std::size_t weights_bytes = 0;
    for (const core::BufferView& block : weights) weights_bytes += block.size_bytes;
    uses.push_back({impl.spec().name, "weights", weights.empty() ? gpu : weights.front().device, weights_bytes});
    uses.push_back({impl.spec().name, "contexts", gpu, impl.engine->runtime()->other_bytes()});
    uses.push_back(
        {impl.spec().name, "outputs of computed shape", gpu, impl.dynamic_bytes.load(std::memory_order_relaxed)});
    uses.push_back({impl.spec().name, "outputs",
                    impl.outputs_on_device ? gpu : core::Device{core::DeviceType::cuda_host, 0},
                    impl.answer_bytes->load(std::memory_order_relaxed)});
    return uses;
}

void Runner::prefetch() { move_weights(&cuda::ManagedMemory::prefetch_to_device); }
void Runner::evict() { move_weights(&cuda::ManagedMemory::prefetch_to_host); }

void Runner::move_weights(void (*move)(const core::BufferView&, const cuda::StreamView&)) {
    check_process();
    const Impl& impl = pipeline_impl();
    const std::vector<core::BufferView> weights = impl.engine->weights();
    if (weights.empty() || weights.front().device.type != core::DeviceType::cuda_managed) {
        PipelineModel::prefetch();  // which refuses
        return;
    }
    const cuda::DeviceGuard current(impl.resources->device);
    const cuda::Stream stream(impl.resources->device);
    for (const core::BufferView& block : weights) move(block, stream);
    stream.synchronize();
}

}  // namespace trtlab::tensorrt
