#include "launcher.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "trtlab/core/error.hpp"

namespace trtlab::tensorrt {
namespace {

bool known(const core::Shape& shape) noexcept {
    return std::all_of(shape.begin(), shape.end(), [](std::int64_t extent) { return extent >= 0; });
}

void count(std::atomic<std::uint64_t>& counter) noexcept { counter.fetch_add(1, std::memory_order_relaxed); }

/// The copy behind the computation, if there is one.
void fetch(const Launcher::Binding& binding, const cuda::StreamView& stream) {
    if (binding.fetch_bytes == 0) return;
    stream.copy_unchecked(binding.addresses.back(), binding.fetch_from, binding.fetch_bytes);
}

}  // namespace

Launcher::Launcher(std::shared_ptr<Engine> engine, std::shared_ptr<DeviceResources> resources, const Options& options)
    : engine_(std::move(engine)),
      resources_(std::move(resources)),
      options_(options),
      host_outputs_(std::any_of(engine_->tensors().begin(), engine_->tensors().end(),
                                [](const TensorInfo& tensor) { return !tensor.input && tensor.on_host; })),
      lanes_(resources_->tokens()) {
    for (auto& profiles : lanes_) profiles.resize(static_cast<std::size_t>(engine_->profile_count()));
}

Launcher::Lane& Launcher::lane(std::size_t token, int profile, const cuda::StreamView& stream) {
    std::unique_ptr<Lane>& lane = lanes_[token][static_cast<std::size_t>(profile)];
    if (!lane) {
        std::unique_ptr<ExecutionContext> context = engine_->create_context();
        if (context->profile() != profile) context->set_profile(profile, stream);
        const std::size_t lanes = lanes_.size() * lanes_[token].size();
        lane =
            std::make_unique<Lane>(std::move(context), std::max<std::size_t>(1, options_.max_graphs / lanes), dropped_);
        lane->addresses.resize(engine_->tensors().size() + 1);
        count(contexts_);
    }
    return *lane;
}

std::shared_ptr<const ShapePlan> Launcher::plan(const Token& token, std::span<const core::Tensor> inputs,
                                                std::span<const std::int64_t> values, std::span<void* const> addresses,
                                                const cuda::StreamView& stream) {
    if (auto found = plans_.find(inputs, values)) return found;
    const auto made = std::make_shared<ShapePlan>();
    made->profile = choose_profile(*engine_, inputs);
    for (const core::Tensor& input : inputs) made->inputs.push_back(input.shape());
    made->values.assign(values.begin(), values.end());

    Lane& lane = this->lane(token.index, made->profile, stream);
    ExecutionContext& context = *lane.context;
    lane.shapes.reset();
    const std::vector<TensorInfo>& tensors = engine_->tensors();
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        context.set_input_shape(i, inputs[i].shape());
        if (tensors[i].on_host) {
            context.set_address(i, addresses[i]);
            lane.addresses[i] = addresses[i];
        }
    }
    context.infer_shapes();
    for (std::size_t i = inputs.size(); i < tensors.size(); ++i) {
        const core::Shape shape = context.shape(i);
        std::size_t bytes = 0;
        if (known(shape)) bytes = std::max(context.max_output_bytes(i), shape.elements() * size_of(tensors[i].dtype));
        if (tensors[i].on_host && bytes > kMostHostOutputBytes) {
            throw core::InvalidArgument(
                "model '" + engine_->name() + "', output '" + tensors[i].name + "': " + std::to_string(bytes) +
                " bytes in host memory; expected a shape tensor of at most " + std::to_string(kMostHostOutputBytes));
        }
        made->computed_shapes = made->computed_shapes || !known(shape);
        made->outputs.push_back(shape);
        made->output_bytes.push_back(bytes);
        made->output_layout.add(tensors[i].on_host ? 0 : bytes);
    }
    made->activation_bytes = context.activation_bytes();
    lane.shapes = plans_.add(made);
    lane.ran = false;
    lane.addresses.back() = nullptr;
    return lane.shapes;
}

void Launcher::set_shapes(Lane& lane, const std::shared_ptr<const ShapePlan>& plan, std::span<void* const> addresses) {
    if (lane.shapes == plan) return;
    lane.shapes.reset();
    const std::vector<TensorInfo>& tensors = engine_->tensors();
    for (std::size_t i = 0; i < plan->inputs.size(); ++i) {
        lane.context->set_input_shape(i, plan->inputs[i]);
        if (tensors[i].shape_input) {
            // Its values are read when shapes are worked out.
            lane.context->set_address(i, addresses[i]);
            lane.addresses[i] = addresses[i];
        }
    }
    lane.context->infer_shapes();
    (void)lane.context->activation_bytes();  // from now on the scratch memory is checked against these shapes
    lane.addresses.back() = nullptr;         // and has to be set again
    lane.shapes = plan;
    lane.ran = false;
}

void Launcher::bind(Lane& lane, const Binding& binding, core::BufferView activations) {
    const std::size_t tensors = lane.addresses.size() - 1;
    if (lane.allocates && binding.output_memory.empty()) {
        for (std::size_t i = binding.plan->inputs.size(); i < tensors; ++i) lane.context->set_output_memory(i, nullptr);
        lane.allocates = false;
    }
    for (std::size_t i = 0; i < tensors; ++i) {
        if (!binding.output_memory.empty() && binding.output_memory[i] != nullptr) {
            lane.context->set_output_memory(i, binding.output_memory[i]);
            lane.allocates = true;
            continue;
        }
        if (lane.addresses[i] == binding.addresses[i]) continue;
        lane.context->set_address(i, binding.addresses[i]);
        lane.addresses[i] = binding.addresses[i];
    }
    if (lane.addresses.back() != activations.data) {
        lane.context->set_activation_memory(activations);
        lane.addresses.back() = activations.data;
    }
}

void Launcher::launch(const Token& token, const Binding& binding, core::BufferView activations,
                      const cuda::StreamView& stream) {
    Lane& lane = this->lane(token.index, binding.plan->profile, stream);
    GraphCache::Entry* entry = nullptr;
    if (makes_graphs() && binding.output_memory.empty()) {
        entry = &lane.graphs.find(binding.plan, binding.addresses);
        if (entry->graph) {
            entry->graph->launch(stream);
            count(hits_);
            return;
        }
    }
    count(misses_);
    set_shapes(lane, binding.plan, binding.addresses);
    bind(lane, binding, activations);
    const bool again = entry != nullptr && !entry->refused && (entry->seen || lane.ran);
    // TensorRT wants one run with the shapes before they are captured: where others were set meanwhile, this one.
    const bool enqueues = !again || !lane.ran;
    if (enqueues) put(lane, binding, stream);
    if (again) {
        capture(*entry, lane, binding, stream);
        if (!enqueues) entry->graph ? entry->graph->launch(stream) : put(lane, binding, stream);
    }
    if (entry != nullptr) entry->seen = true;
}

/// Computation and copies, one by one.
void Launcher::put(Lane& lane, const Binding& binding, const cuda::StreamView& stream) {
    lane.context->enqueue(stream);
    lane.ran = true;
    fetch(binding, stream);
}

/// Leaves the entry without a graph, and remembers that, if there can be none.
void Launcher::capture(GraphCache::Entry& entry, Lane& lane, const Binding& binding, const cuda::StreamView& stream) {
    try {
        entry.graph.emplace(lane.context->capture(stream, [&] { fetch(binding, stream); }));
        count(captures_);
    } catch (const core::Error& error) {
        entry.refused = true;
        count(refused_);
        core::log("model '" + engine_->name() + "' runs without a CUDA graph for these shapes: " + error.what());
    }
}

void Launcher::make_contexts() {
    const cuda::Stream stream(resources_->device);
    for (std::size_t token = 0; token < lanes_.size(); ++token) {
        for (int profile = 0; profile < engine_->profile_count(); ++profile) (void)lane(token, profile, stream);
    }
    stream.synchronize();
}

void Launcher::warm_up(std::span<const core::Tensor> inputs) {
    const cuda::Stream stream(resources_->device);
    for (std::size_t token = 0; token < lanes_.size(); ++token) run_on_zeros(token, inputs, stream);
}

void Launcher::run_on_zeros(std::size_t token, std::span<const core::Tensor> inputs, const cuda::StreamView& stream) {
    const std::vector<TensorInfo>& tensors = engine_->tensors();
    std::vector<std::int64_t> values;
    read_shape_values(*engine_, inputs, values);
    std::vector<core::Buffer> memory;
    std::vector<void*> addresses(tensors.size() + 1);
    const auto allocate = [&](std::size_t tensor, std::size_t size_bytes) {
        memory.emplace_back(tensors[tensor].on_host ? resources_->host_memory : resources_->device_memory, size_bytes);
        addresses[tensor] = memory.back().data();
    };
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        allocate(i, std::max<std::size_t>(inputs[i].size_bytes(), 1));
        if (tensors[i].on_host) {
            inputs[i].copy_to(addresses[i]);
        } else {
            stream.fill(memory.back().view(), 0);
        }
    }
    const Token borrowed(token);  // its context, not its memory: other models may be using that
    const std::shared_ptr<const ShapePlan> plan = this->plan(borrowed, inputs, values, addresses, stream);
    if (plan->computed_shapes) return;  // the context exists; its outputs have a memory of their own in a request only
    for (std::size_t i = 0; i < plan->outputs.size(); ++i) {
        allocate(inputs.size() + i, std::max<std::size_t>(plan->output_bytes[i], 1));
    }
    const core::Buffer activations(resources_->device_memory, plan->activation_bytes);
    Lane& lane = this->lane(token, plan->profile, stream);
    set_shapes(lane, plan, addresses);
    const Binding binding{plan, addresses, {}};
    bind(lane, binding, activations.view());
    put(lane, binding, stream);
    stream.synchronize();
    std::fill(lane.addresses.begin(), lane.addresses.end(), nullptr);  // that memory goes away
}

Launcher::Counts Launcher::counts() const noexcept {
    const auto read = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
    const std::uint64_t captures = read(captures_);
    return {read(hits_),    read(misses_), captures, read(refused_), captures - std::min(captures, read(dropped_)),
            read(contexts_)};
}

}  // namespace trtlab::tensorrt
