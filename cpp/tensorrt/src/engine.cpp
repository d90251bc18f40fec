#include "trtlab/tensorrt/engine.hpp"

#include <algorithm>
#include <limits>

#include "context_state.hpp"
#include "engine_state.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/tensorrt/execution_context.hpp"

namespace trtlab::tensorrt {
namespace {

using abi::VCudaEngine;
using abi::VEngineInspector;
using abi::VHostMemory;

std::size_t bytes(std::int64_t size) { return size > 0 ? static_cast<std::size_t>(size) : 0; }

}  // namespace

Engine::State::~State() {
    destroy(kernels, runtime_state().device);
    destroy(owned, runtime_state().device);
}

Engine::Engine(std::shared_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;

const std::string& Engine::name() const noexcept { return state_->name; }
const std::shared_ptr<Runtime>& Engine::runtime() const noexcept { return state_->runtime; }
const std::vector<TensorInfo>& Engine::tensors() const noexcept { return state_->tensors; }
int Engine::profile_count() const noexcept { return state_->profiles; }
int Engine::layer_count() const noexcept { return state_->layers; }
int Engine::aux_streams() const noexcept { return state_->aux_streams; }
bool Engine::refittable() const noexcept { return state_->refittable; }
bool Engine::data_dependent() const noexcept { return state_->data_dependent == State::DataDependent::yes; }

const TensorInfo& Engine::tensor(std::string_view name) const {
    std::string names;
    for (const TensorInfo& tensor : state_->tensors) {
        if (tensor.name == name) return tensor;
        names += (names.empty() ? "'" : ", '") + tensor.name + "'";
    }
    throw core::NotFound(state_->what() + " has no tensor '" + std::string(name) + "'; it has " + names);
}

std::size_t Engine::weights_bytes() const noexcept {
    const Allocator* allocator = state_->runtime_state().allocator.get();
    return state_->weights && allocator != nullptr ? allocator->size_of(*state_->weights) : 0;
}

std::vector<core::BufferView> Engine::weights() const {
    const Allocator* allocator = state_->runtime_state().allocator.get();
    if (!state_->weights || allocator == nullptr) return {};
    return allocator->blocks_of(*state_->weights);
}

std::size_t Engine::activation_bytes(int profile) const {
    const Library::Abi& abi = state_->abi();
    if (profile < -1 || profile >= state_->profiles) {
        throw core::InvalidArgument(state_->what() + ": expected a profile from 0 to " +
                                    std::to_string(state_->profiles - 1) + ", or -1 for any, got " +
                                    std::to_string(profile));
    }
    // The later form counts what weight streaming needs, too; 10.0 has the earlier one only.
    if (profile < 0) {
        return abi.has(VCudaEngine::getDeviceMemorySizeV2)
                   ? bytes(abi.call(VCudaEngine::getDeviceMemorySizeV2, state_->handle))
                   : abi.call(VCudaEngine::getDeviceMemorySize, state_->handle);
    }
    return abi.has(VCudaEngine::getDeviceMemorySizeForProfileV2)
               ? bytes(abi.call(VCudaEngine::getDeviceMemorySizeForProfileV2, state_->handle, profile))
               : abi.call(VCudaEngine::getDeviceMemorySizeForProfile, state_->handle, profile);
}

std::size_t Engine::streamable_weights_bytes() const {
    return bytes(state_->abi().call(VCudaEngine::getStreamableWeightsSize, state_->handle));
}

void Engine::set_weight_streaming_budget(std::size_t size_bytes) {
    const std::string what =
        state_->what() + ": its weight streaming budget can't be set to " + std::to_string(size_bytes) + " bytes";
    if (streamable_weights_bytes() == 0) {
        throw core::InvalidArgument(what +
                                    ": it was not built for weight streaming (BuilderFlag::kWEIGHT_STREAMING, and a "
                                    "strongly typed network)");
    }
    if (const int contexts = state_->contexts; contexts != 0) {
        throw core::InvalidArgument(what + ": it has " + std::to_string(contexts) +
                                    " contexts; set it before there are any");
    }
    if (size_bytes > static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max())) {
        throw core::InvalidArgument(what + ": that is more than there can be");
    }
    Runtime::State& runtime = state_->runtime_state();
    const std::lock_guard lock(runtime.one_at_a_time);
    const CurrentDevice current(runtime.device);
    Call call(runtime.log, Call::Reach::everywhere, state_->weights);
    if (!runtime.abi().call(VCudaEngine::setWeightStreamingBudgetV2, state_->handle,
                            static_cast<std::int64_t>(size_bytes))) {
        call.fail(what + state_->hint());
    }
}

std::size_t Engine::weight_streaming_budget() const {
    return bytes(state_->abi().call(VCudaEngine::getWeightStreamingBudgetV2, state_->handle));
}

std::size_t Engine::automatic_weight_streaming_budget() const {
    const CurrentDevice current(state_->runtime_state().device);
    return bytes(state_->abi().call(VCudaEngine::getWeightStreamingAutomaticBudget, state_->handle));
}

std::string Engine::describe() const {
    Runtime::State& runtime = state_->runtime_state();
    const Library::Abi& abi = runtime.abi();
    const CurrentDevice current(runtime.device);
    Call call(runtime.log);
    const abi::Handle<abi::IEngineInspector> inspector(abi.call(VCudaEngine::createEngineInspector, state_->handle));
    const char* text = inspector == nullptr ? nullptr
                                            : abi.call(VEngineInspector::getEngineInformation, inspector.get(),
                                                       abi::LayerInformationFormat::kJSON);
    if (text == nullptr) call.fail(state_->what() + " can't be described" + state_->hint());
    return text;
}

std::vector<std::byte> Engine::serialize() const {
    Runtime::State& runtime = state_->runtime_state();
    const Library::Abi& abi = runtime.abi();
    const CurrentDevice current(runtime.device);
    Call call(runtime.log);
    const abi::Handle<abi::IHostMemory> memory(abi.call(VCudaEngine::serialize, state_->handle));
    if (!memory) call.fail(state_->what() + " can't be serialized" + state_->hint());
    const auto* const data = static_cast<const std::byte*>(abi.call(VHostMemory::data, memory.get()));
    return {data, data + abi.call(VHostMemory::size, memory.get())};
}

core::ModelSpec Engine::model_spec(const std::string& model_name) const {
    core::ModelSpec spec;
    spec.name = model_name;
    spec.platform = state_->runtime_state().library->flavour() == Flavour::rtx ? "tensorrt_rtx" : "tensorrt";
    bool batched = true;
    std::int64_t batch = core::Dimension::kUnbounded;
    for (const TensorInfo& tensor : state_->tensors) {
        const std::string what =
            "model '" + model_name + "': " + (tensor.input ? "input '" : "output '") + tensor.name + "'";
        if (!tensor.type_known) {
            throw core::InvalidArgument(what +
                                        " has an element type that trtlab can't carry: expected one with whole bytes, "
                                        "got TensorRT's type number " +
                                        std::to_string(tensor.type_number) + " (" + tensor.format +
                                        "); add a cast to the network");
        }
        if (!tensor.linear) {
            throw core::InvalidArgument(what + " has a format that trtlab can't carry: expected a linear one, got \"" +
                                        tensor.format + "\"; build the engine with linear inputs and outputs");
        }
        core::TensorSpec one{.name = tensor.name, .dtype = tensor.dtype};
        for (std::size_t axis = 0; axis < tensor.shape.rank(); ++axis) {
            core::Dimension extent = tensor.shape[axis] < 0 ? core::Dimension() : core::Dimension(tensor.shape[axis]);
            if (tensor.shape[axis] < 0 && !tensor.profiles.empty()) {
                extent = {tensor.profiles[0].min[axis], tensor.profiles[0].max[axis]};
                for (const ProfileShape& profile : tensor.profiles) {
                    extent.min = std::min(extent.min, profile.min[axis]);
                    extent.max = std::max(extent.max, profile.max[axis]);
                }
            }
            one.shape.push_back(extent);
        }
        if (tensor.input) {
            const bool leads = tensor.shape.rank() > 0 && tensor.shape[0] < 0;
            batched = batched && leads;
            if (leads) batch = std::min(batch, one.shape[0].max);
            spec.inputs.push_back(std::move(one));
        } else {
            spec.outputs.push_back(std::move(one));
        }
    }
    if (batched && !spec.inputs.empty() && batch != core::Dimension::kUnbounded) spec.max_batch_size = batch;
    spec.validate();
    return spec;
}

}  // namespace trtlab::tensorrt
