#include "trtlab/tensorrt/execution_context.hpp"

#include <array>

#include "context_state.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::tensorrt {
namespace {

using abi::VExecutionContext;

std::string range_of(const ProfileShape& shape, std::size_t axis) {
    return std::to_string(shape.min[axis]) + " to " + std::to_string(shape.max[axis]) + " (best " +
           std::to_string(shape.opt[axis]) + ")";
}

}  // namespace

const TensorInfo& ExecutionContext::State::info(std::size_t tensor) const {
    if (tensor >= tensors.size()) {
        throw core::InvalidArgument(what() + ": expected a tensor below " + std::to_string(tensors.size()) + ", got " +
                                    std::to_string(tensor));
    }
    return engine->tensors()[tensor];
}

std::string ExecutionContext::State::what(std::size_t tensor) const {
    const TensorInfo& one = info(tensor);
    return what() + (one.input ? ": input '" : ": output '") + one.name + "'";
}

void ExecutionContext::State::throw_unset() const {
    std::string names;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const bool shape = tensors[i].dynamic && !tensors[i].shape_set;
        if (!shape && !tensors[i].address_needed) continue;
        names += (names.empty() ? "" : ", ") + std::string(shape ? "the shape of '" : "the address of '") +
                 tensors[i].name + "'";
    }
    throw core::EngineError(what() + ": still to be set: " + names);
}

void ExecutionContext::State::check_stream(const cuda::StreamView& stream) const {
    const auto& device = runtime().device;
    if (device && stream.device().ordinal() != device->ordinal()) [[unlikely]] {
        throw core::InvalidArgument(what() + ": expected a stream of " + device->to_string() + ", got one of " +
                                    stream.device().to_string());
    }
}

ExecutionContext::ExecutionContext(std::unique_ptr<State> state) : state_(std::move(state)) {}
ExecutionContext::~ExecutionContext() = default;

const std::shared_ptr<Engine>& ExecutionContext::engine() const noexcept { return state_->engine; }
int ExecutionContext::profile() const { return state_->profile; }

void ExecutionContext::set_profile(int profile, const cuda::StreamView& stream) {
    State& state = *state_;
    const int profiles = state.engine->profile_count();
    if (profile < 0 || profile >= profiles) {
        throw core::InvalidArgument(state.what() + ": expected a profile from 0 to " + std::to_string(profiles - 1) +
                                    ", got " + std::to_string(profile));
    }
    if (profile == state.profile) return;
    state.check_stream(stream);
    const CurrentDevice current(state.runtime().device);
    Call call(state.runtime().log);
    if (!state.ask(VExecutionContext::setOptimizationProfileAsync, profile, stream.handle())) {
        call.fail(state.what() + " can't switch to profile " + std::to_string(profile) + state.its_engine().hint());
    }
    state.profile = profile;
    state.forget_shapes();
}

void ExecutionContext::set_input_shape(std::size_t tensor, const core::Shape& shape) {
    State& state = *state_;
    const TensorInfo& info = state.info(tensor);
    State::Tensor& own = state.tensors[tensor];
    if (!info.input)
        throw core::InvalidArgument(state.what(tensor) + " is no input: its shape follows from the inputs'");
    if (own.shape_set && own.shape == shape) return;
    if (shape.rank() != info.shape.rank()) {
        throw core::InvalidArgument(state.what(tensor) + ": expected a shape of rank " +
                                    std::to_string(info.shape.rank()) + ", as in " + info.shape.to_string() + ", got " +
                                    shape.to_string());
    }
    for (std::size_t axis = 0; axis < shape.rank(); ++axis) {
        std::string expected;
        if (info.shape[axis] >= 0) {
            if (shape[axis] != info.shape[axis]) expected = std::to_string(info.shape[axis]);
        } else if (const auto at = static_cast<std::size_t>(state.profile); at < info.profiles.size()) {
            const ProfileShape& profile = info.profiles[at];
            if (shape[axis] < profile.min[axis] || shape[axis] > profile.max[axis]) {
                expected = range_of(profile, axis) + " in profile " + std::to_string(state.profile) + " of " +
                           std::to_string(info.profiles.size());
            }
        }
        if (!expected.empty()) {
            throw core::InvalidArgument(state.what(tensor) + ", axis " + std::to_string(axis) + ": expected " +
                                        expected + ", got " + std::to_string(shape[axis]) + " in " + shape.to_string());
        }
    }
    Call call(state.runtime().log);
    if (!state.ask(VExecutionContext::setInputShape, own.name, to_dims(shape))) {
        call.fail(state.what(tensor) + " can't have the shape " + shape.to_string() + state.its_engine().hint());
    }
    if (!own.shape_set) --state.unset;
    own.shape_set = true;
    own.shape = shape;
}

core::Shape ExecutionContext::shape(std::size_t tensor) const {
    const State& state = *state_;
    const TensorInfo& info = state.info(tensor);
    if (state.tensors[tensor].shape_set) return state.tensors[tensor].shape;
    if (state.unset != 0) return info.shape;
    Call call(state.runtime().log);
    const abi::Dims dims = state.ask(VExecutionContext::getTensorShape, state.tensors[tensor].name);
    if (dims.nbDims < 0 || dims.nbDims > abi::Dims::kMax) {
        call.fail(state.what(tensor) + " has no shape for the inputs' shapes that are set" + state.its_engine().hint());
    }
    return to_shape(dims);
}

void ExecutionContext::infer_shapes() {
    State& state = *state_;
    state.check_inputs();
    std::array<const char*, 8> missing{};
    Call call(state.runtime().log);
    const std::int32_t count =
        state.ask(VExecutionContext::inferShapes, static_cast<std::int32_t>(missing.size()), missing.data());
    if (count == 0) return;
    std::string names;
    for (std::int32_t i = 0; i < count && i < static_cast<std::int32_t>(missing.size()); ++i) {
        if (missing[i] != nullptr) names += (names.empty() ? "'" : ", '") + std::string(missing[i]) + "'";
    }
    call.fail(state.what() +
              (names.empty() ? ": the outputs' shapes can't be worked out" : ": still to be set: " + names) +
              state.its_engine().hint());
}

void ExecutionContext::set_address(std::size_t tensor, void* address) {
    State& state = *state_;
    state.info(tensor);
    State::Tensor& own = state.tensors[tensor];
    Call call(state.runtime().log);
    if (!state.ask(VExecutionContext::setTensorAddress, own.name, address)) {
        call.fail(state.what(tensor) + " can't have the address given" + state.its_engine().hint());
    }
    if (own.address_needed) {
        own.address_needed = false;
        --state.unset;
    }
}

void ExecutionContext::set_output_memory(std::size_t tensor, OutputMemory* memory) {
    State& state = *state_;
    const TensorInfo& info = state.info(tensor);
    if (info.input) throw core::InvalidArgument(state.what(tensor) + " is no output");
    State::Tensor& own = state.tensors[tensor];
    if (memory == nullptr && !own.output) return;
    if (!own.output) own.output = std::make_unique<OutputAllocator>(info.name, state.runtime().log);
    own.output->set_memory(memory);
    Call call(state.runtime().log);
    void* const interface = memory == nullptr ? nullptr : own.output->interface(state.abi->generation);
    if (!state.ask(VExecutionContext::setOutputAllocator, own.name, interface)) {
        call.fail(state.what(tensor) + " can't have memory of its own" + state.its_engine().hint());
    }
}

std::size_t ExecutionContext::max_output_bytes(std::size_t tensor) const {
    const State& state = *state_;
    if (state.info(tensor).input) throw core::InvalidArgument(state.what(tensor) + " is no output");
    state.check_inputs();
    Call call(state.runtime().log);
    const std::int64_t size = state.ask(VExecutionContext::getMaxOutputSize, state.tensors[tensor].name);
    if (size < 0) call.fail(state.what(tensor) + ": its size can't be told" + state.its_engine().hint());
    return static_cast<std::size_t>(size);
}

std::size_t ExecutionContext::activation_bytes() {
    State& state = *state_;
    state.check_inputs();
    const CurrentDevice current(state.runtime().device);
    Call call(state.runtime().log);
    const std::size_t size = state.ask(VExecutionContext::updateDeviceMemorySizeForShapes);
    if (size == 0 && call.has_errors()) {
        call.fail(state.what() + ": what scratch memory the shapes need can't be told" + state.its_engine().hint());
    }
    return size;
}

void ExecutionContext::set_activation_memory(const core::BufferView& memory) {
    State& state = *state_;
    constexpr std::size_t kAlignment = core::MemoryResource::kAlignment;
    if (reinterpret_cast<std::uintptr_t>(memory.data) % kAlignment != 0) {
        throw core::InvalidArgument(state.what() + ": expected scratch memory that is aligned to " +
                                    std::to_string(kAlignment) + " bytes, got an address that is " +
                                    std::to_string(reinterpret_cast<std::uintptr_t>(memory.data) % kAlignment) +
                                    " above that");
    }
    if (memory.size_bytes != 0 && memory.device.type == core::DeviceType::cpu) {
        throw core::InvalidArgument(state.what() + ": expected scratch memory on " + state.runtime().where() +
                                    ", got memory of the host");
    }
    Call call(state.runtime().log);
    if (state.abi->has(VExecutionContext::setDeviceMemoryV2)) {
        state.ask(VExecutionContext::setDeviceMemoryV2, memory.data, static_cast<std::int64_t>(memory.size_bytes));
    } else {
        state.ask(VExecutionContext::setDeviceMemory, memory.data);
        state.checked_scratch_bytes = memory.size_bytes;
    }
    if (call.has_errors()) {
        call.fail(state.what() + " does not take " + std::to_string(memory.size_bytes) + " bytes of scratch memory" +
                  state.its_engine().hint());
    }
}

void ExecutionContext::set_input_consumed_event(const cuda::Event* event) {
    State& state = *state_;
    Call call(state.runtime().log);
    if (!state.ask(VExecutionContext::setInputConsumedEvent, event != nullptr ? event->handle() : nullptr)) {
        call.fail(state.what() + " can't have the event for consumed inputs" + state.its_engine().hint());
    }
}

void ExecutionContext::set_aux_streams(std::span<const cuda::StreamView> streams) {
    State& state = *state_;
    std::vector<abi::Stream> handles;
    for (const cuda::StreamView& stream : streams) {
        state.check_stream(stream);
        handles.push_back(stream.handle());
    }
    Call call(state.runtime().log);
    state.ask(VExecutionContext::setAuxStreams, handles.data(), static_cast<std::int32_t>(handles.size()));
    if (call.has_errors()) {
        call.fail(state.what() + " does not take " + std::to_string(handles.size()) + " streams" +
                  state.its_engine().hint());
    }
}

void ExecutionContext::enqueue(const cuda::StreamView& stream) {
    State& state = *state_;
    state.check_inputs();
    state.check_stream(stream);
    for (State::Tensor& tensor : state.tensors) {
        if (tensor.output) tensor.output->set_stream(stream.handle());
    }
    if (state.checked_scratch_bytes) [[unlikely]] {
        if (const std::size_t needed = activation_bytes(); needed > *state.checked_scratch_bytes) {
            throw core::EngineError(state.what() + ": expected " + std::to_string(needed) +
                                    " bytes of scratch memory for the shapes set, got " +
                                    std::to_string(*state.checked_scratch_bytes) + " bytes");
        }
    }
    const CurrentDevice current(state.runtime().device);
    Call call(state.runtime().log);
    if (!state.ask(VExecutionContext::enqueueV3, stream.handle())) [[unlikely]] {
        call.fail(state.what() + " could not be enqueued" + state.its_engine().hint());
    }
}

bool ExecutionContext::capturable(const cuda::StreamView& stream) const {
    const State& state = *state_;
    if (!state.abi->has(VExecutionContext::isStreamCapturable)) return true;
    state.check_stream(stream);
    const CurrentDevice current(state.runtime().device);
    Call call(state.runtime().log);
    return state.ask(VExecutionContext::isStreamCapturable, stream.handle());
}

cuda::Graph ExecutionContext::capture(const cuda::StreamView& stream, const std::function<void()>& behind) {
    state_->check_inputs();
    stream.begin_capture();
    try {
        enqueue(stream);
        if (behind) behind();
    } catch (...) {
        stream.abandon_capture();
        throw;
    }
    return stream.end_capture();
}

std::vector<LayerTime> ExecutionContext::profile_layers(const cuda::StreamView& stream) {
    State& state = *state_;
    // TensorRT keeps the address, so the profiler lives as long as the context.
    struct Attached {
        explicit Attached(State& state_) : state(state_) {
            state.profiler.take();
            state.ask(VExecutionContext::setProfiler, state.profiler.interface(state.abi->generation));
            state.ask(VExecutionContext::setEnqueueEmitsProfile, true);
        }
        ~Attached() {
            Call call(state.runtime().log);
            state.ask(VExecutionContext::setProfiler, static_cast<void*>(nullptr));
        }
        State& state;
    };
    {
        const Attached attached(state);
        enqueue(stream);
        stream.synchronize();
    }
    return state.profiler.take();
}

}  // namespace trtlab::tensorrt
