#include "request.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "trtlab/core/error.hpp"
#include "trtlab/cuda/fence.hpp"
#include "trtlab/cuda/memory.hpp"
#include "trtlab/cuda/nvtx.hpp"

namespace trtlab::tensorrt {

using Clock = core::RequestTimes::Clock;
using core::DeviceType;

namespace {

// Inputs from here on are not copied by the thread that sees answers come, if it is that which stages: it would be kept from
// the others for longer than handing the copy over takes.
constexpr std::size_t kMuch = std::size_t{256} << 10;

// From here on it pays to ask CUDA whether memory that nobody called pinned is: a call into its runtime against a copy by the CPU
// (602 KB in 20 us, Xeon of an H100 machine, 2026-11-24).
constexpr std::size_t kWorthAsking = std::size_t{64} << 10;

// Outputs up to here are copied to the host by the graph that computes them, and by the CPU to where they stay: a copy of 4 KB of
// its own took 3 us of the launching thread and 8 until it was there (H100, driver 580, 2026-11-24).
constexpr std::size_t kSmall = std::size_t{64} << 10;

// Outputs from here on take so long to be copied that the token goes back before, for another event and another look.
constexpr std::size_t kLong = std::size_t{512} << 10;

// Of the time that an execution usually takes, after which its event is looked at for the first time. Far enough below all of it
// that an execution which happens to be alone on the GPU is not kept waiting, and late enough to spare most of the looks.
constexpr int kLookAfterPercent = 60;
// What was done so shortly after the first look was done at the first look.
constexpr std::chrono::microseconds kLook{10};

// A caller spins for an answer that is expected within this time, rather than being woken.
constexpr std::chrono::milliseconds kSpinAtMost{5};

bool aligned(const void* address) noexcept {
    return reinterpret_cast<std::uintptr_t>(address) % core::MemoryResource::kAlignment == 0;
}

/// Whether the GPU can read the tensor where it is. One without elements may have no address.
bool bindable(const core::TensorView& input) noexcept {
    const DeviceType type = input.device().type;
    return (type == DeviceType::cuda || type == DeviceType::cuda_managed) && input.contiguous() &&
           aligned(input.data()) && input.size_bytes() != 0;
}

}  // namespace

Runner::Request::Request(const Impl& impl) : addresses_(impl.engine->tensors().size() + 2) {}

// --- an IO buffer is there ----------------------------------------------------------------------------------------

core::Staging Runner::Request::stage() {
    times.stage_begin = Clock::now();
    Impl& impl = this->impl();
    impl.check_device();
    io_ = &impl.resources->take_buffer();
    if (impl.resources->completions.on_this_thread() && copies_much()) {
        core::ThreadPool::Task task = [this] {
            std::exception_ptr error;
            try {
                bring_inputs();
            } catch (...) {
                error = std::current_exception();
                let_go();
            }
            staged(std::move(error));
        };
        if (impl.resources->stagers.try_post(task)) return core::Staging::deferred;
    }
    try {
        bring_inputs();
    } catch (...) {
        let_go();
        throw;
    }
    return core::Staging::done;
}

bool Runner::Request::copies_much() const noexcept {
    std::size_t bytes = 0;
    for (const core::Tensor& input : inputs) {
        if (input.device().type == DeviceType::cpu) bytes += input.size_bytes();
    }
    return bytes >= kMuch;
}

/// Puts copies of the inputs that are not read in place into the stream.
void Runner::Request::bring_inputs() {
    const cuda::NvtxRange range("stage");
    Impl& impl = this->impl();
    const cuda::DeviceGuard current(impl.resources->device);
    const std::vector<TensorInfo>& tensors = impl.engine->tensors();
    IoBuffer& io = *io_;
    io.time(IoBuffer::kInputsBegin, impl.timing);

    read_shape_values(*impl.engine, inputs, values_);
    plan_ = impl.launcher.find_plan(inputs, values_);
    staged_.clear();
    std::size_t host_bytes = 0;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        const core::Tensor& input = inputs[i];
        staged_.add(read_in_place(input) || tensors[i].on_host ? 0 : input.size_bytes());
        if (tensors[i].on_host) host_bytes += core::MemoryResource::kAlignment + input.size_bytes();
    }
    grow(io.inputs, staged_.size_bytes, impl.resources->device_memory, io.device_bytes);
    // Room for the outputs that are on the host, too: each is as small as a shape.
    grow(io.host, host_bytes + tensors.size() * kMostHostOutputBytes, impl.resources->host_memory, io.host_bytes);

    std::size_t host_offset = 0;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        if (tensors[i].on_host) {
            addresses_[i] = static_cast<std::byte*>(io.host.data()) + host_offset;
            inputs[i].copy_to(addresses_[i]);
            host_offset +=
                (inputs[i].size_bytes() / core::MemoryResource::kAlignment + 1) * core::MemoryResource::kAlignment;
        } else {
            place_input(i, staged_.offsets[i]);
        }
    }
    io.time(IoBuffer::kInputsEnd, impl.timing);
    times.stage_end = Clock::now();
}

/// Where there are graphs, inputs on the GPU are copied, too: a copy there takes microseconds, and a launch at addresses that have
/// no graph hundreds.
bool Runner::Request::read_in_place(const core::TensorView& input) const noexcept {
    return bindable(input) && !impl().launcher.makes_graphs();
}

void Runner::Request::place_input(std::size_t index, std::size_t offset) {
    Impl& impl = this->impl();
    const core::Tensor& input = inputs[index];
    IoBuffer& io = *io_;
    if (input.fence()) {
        const auto* fence = dynamic_cast<const cuda::EventFence*>(input.fence().get());
        if (fence == nullptr) {
            throw core::InvalidArgument("model '" + impl.spec().name + "', input '" + impl.spec().inputs[index].name +
                                        "': its fence is not CUDA's; wait for the tensor before you send it");
        }
        io.stream.wait(fence->event());
    }
    if (read_in_place(input)) {
        addresses_[index] = input.data();
        impl.in_place.fetch_add(1, std::memory_order_relaxed);  // for reports
        return;
    }
    std::byte* const destination = static_cast<std::byte*>(io.inputs.data()) + offset;
    addresses_[index] = destination;
    if (input.size_bytes() == 0) return;
    impl.copied.fetch_add(1, std::memory_order_relaxed);  // for reports
    const bool pinned =
        input.device().type == DeviceType::cuda_host ||
        (input.device().type == DeviceType::cpu && input.size_bytes() >= kWorthAsking &&
         cuda::device_of(*impl.resources->device.library(), input.data()).type == DeviceType::cuda_host);
    if (input.contiguous() && (pinned || input.device().type != DeviceType::cpu)) {
        begin_reading(input, destination);
        return;
    }
    if (!input.device().host_accessible()) {
        throw core::InvalidArgument("model '" + impl.spec().name + "', input '" + impl.spec().inputs[index].name +
                                    "': a tensor in GPU memory must be contiguous, got shape " +
                                    input.shape().to_string() + " with strides of " +
                                    input.strides_bytes().to_string() + " bytes; make it contiguous");
    }
    if (input.fence()) {
        throw core::InvalidArgument(
            "model '" + impl.spec().name + "', input '" + impl.spec().inputs[index].name +
            "': it has a fence, which only the GPU waits for, and is copied by the host, shape " +
            input.shape().to_string() + " with strides of " + input.strides_bytes().to_string() +
            " bytes; wait for the tensor before you send it, or make it contiguous");
    }
    // Grown to all that this request stages, so that a later input does not move an earlier one.
    grow(io.pinned, staged_.size_bytes, impl.resources->pinned_memory, io.pinned_bytes);
    std::byte* const on_the_way = static_cast<std::byte*>(io.pinned.data()) + offset;
    input.copy_to(on_the_way);
    io.stream.copy_unchecked(destination, on_the_way, input.size_bytes());
}

/// Has the GPU copy from the caller's memory. From then on the request can't be cancelled: the caller could take the memory
/// away.
void Runner::Request::begin_reading(const core::Tensor& input, std::byte* destination) {
    if (!running() && !start()) return;  // cancelled: nobody computes with it
    io_->stream.copy_unchecked(destination, input.data(), input.size_bytes());
}

// --- an execution token is there ----------------------------------------------------------------------------------

void Runner::Request::launch() {
    if (running()) {
        times.launched = Clock::now();
    } else if (!start()) {
        wind_up();
        return;
    }
    token_ = &impl().resources->take_token(*io_);
    try {
        compute();
    } catch (const core::EngineError& error) {
        let_go();
        // TensorRT says what it could not do, and not that it is the device that is lost.
        if (!impl().lost.load(std::memory_order_relaxed)) throw;  // stored by this thread, if it matters here
        throw core::CudaError(error.what() + std::string("; ") + impl().resources->device.to_string() +
                                  " is lost: this process can use it no more",
                              0, true);
    } catch (...) {
        let_go();
        throw;
    }
}

/// The end of a request that was cancelled: when its stream has done. That may wait for somebody's fence, which the thread
/// that launches must not.
void Runner::Request::wind_up() noexcept {
    computed();
    try {
        io_->done.record(io_->stream);
    } catch (const core::CudaError& error) {
        impl().note(error);
        let_go();
        complete(nullptr);
        return;
    }
    impl().resources->completions.watch(io_->done, *this);
}

/// Puts computation and copies of outputs into the stream, and has itself called when they are done: from then on the request
/// is the completing thread's.
void Runner::Request::compute() {
    const cuda::NvtxRange range("launch");
    const auto begin = Clock::now();
    Impl& impl = this->impl();
    const cuda::DeviceGuard current(impl.resources->device);
    const std::vector<TensorInfo>& tensors = impl.engine->tensors();
    IoBuffer& io = *io_;
    if (!plan_) plan_ = impl.launcher.plan(*token_, inputs, values_, addresses_, io.stream);

    grow(io.outputs, plan_->output_layout.size_bytes, impl.resources->device_memory, io.device_bytes);
    std::size_t host_offset = io.host.size_bytes();
    for (std::size_t i = 0; i < plan_->outputs.size(); ++i) {
        void*& address = addresses_[impl.input_count + i];
        if (tensors[impl.input_count + i].on_host) {
            host_offset -= kMostHostOutputBytes;
            address = static_cast<std::byte*>(io.host.data()) + host_offset;
        } else {
            address = static_cast<std::byte*>(io.outputs.data()) + plan_->output_layout.offsets[i];
        }
    }
    std::span<OutputMemory* const> output_memory;
    if (plan_->computed_shapes) {
        dynamic_ = &impl.dynamic_outputs(io);
        for (const auto& output : dynamic_->outputs) output->forget();
        output_memory = dynamic_->memory;
    }
    const core::BufferView activations = token_->reserve(plan_->activation_bytes, impl.resources->device_memory);
    addresses_[tensors.size()] = activations.data;
    const std::size_t output_bytes = plan_->output_layout.size_bytes;
    // A timed request's copies are measured apart.
    fetched_with_launch_ = dynamic_ == nullptr && !impl.outputs_on_device && output_bytes <= kSmall && !impl.timing;
    if (fetched_with_launch_) grow(io.answer, output_bytes, impl.resources->pinned_memory, io.answer_bytes);
    addresses_.back() = fetched_with_launch_ ? io.answer.data() : nullptr;

    io.time(IoBuffer::kComputeBegin, impl.timing);
    impl.launcher.launch(*token_,
                         {plan_, addresses_, output_memory, io.outputs.data(), fetched_with_launch_ ? output_bytes : 0},
                         activations, io.stream);
    io.time(IoBuffer::kComputeEnd, impl.timing);
    times.enqueue = Clock::now() - begin;

    const std::chrono::nanoseconds usual(plan_->usual_ns.load(std::memory_order_relaxed));  // a hint
    if (impl.resources->may_spin && usual.count() > 0 && 2 * usual < kSpinAtMost && impl.resources->executing() == 1) {
        expect_within(2 * usual);
    }
    first_look_ = times.launched + usual * kLookAfterPercent / 100;
    outputs_asked_ = dynamic_ == nullptr && output_bytes < kLong;
    if (outputs_asked_) {
        fetched_with_launch_ ? io.done.record(io.stream) : fetch_outputs();
        impl.resources->completions.watch(io.done, *this, first_look_);
        return;
    }
    io.computed.record(io.stream);
    impl.resources->completions.watch(io.computed, *this, first_look_);
}

// --- the GPU has done ---------------------------------------------------------------------------------------------

void Runner::Request::reached(int status) noexcept {
    if (done()) {  // cancelled before it was launched
        give_back();
        complete(nullptr);
        return;
    }
    if (status != 0) {
        const std::exception_ptr error = impl().failure(status, "the execution of a request");
        let_go();  // what failed may not have been the last of it
        finish(error);
        return;
    }
    if (token_ != nullptr) return_token();
    if (outputs_asked_) {
        finish(nullptr);
        return;
    }
    try {
        const cuda::DeviceGuard current(impl().resources->device);
        fetch_outputs();
    } catch (...) {
        const std::exception_ptr error = std::current_exception();
        let_go();
        finish(error);
        return;
    }
    outputs_asked_ = true;
    impl().resources->completions.watch(io_->done, *this);
}

/// Whoever waits for the token is launched before this answer is put together: the GPU shall not wait for that.
void Runner::Request::return_token() noexcept {
    Impl& impl = this->impl();
    times.executed = Clock::now();
    // A moving average over some eight requests; who loses a race has lost one sample. What was done at the first look may have
    // been done long before.
    const std::int64_t usual = plan_->usual_ns.load(std::memory_order_relaxed);
    const std::int64_t took = std::chrono::nanoseconds(times.executed - times.launched).count();
    const bool overslept = usual != 0 && times.executed - first_look_ < kLook;
    plan_->usual_ns.store(usual == 0  ? took
                          : overslept ? usual / 2
                                      : usual + (took - usual) / 8,
                          std::memory_order_relaxed);
    impl.resources->give_back(*std::exchange(token_, nullptr));
    computed();
}

/// Puts copies of the outputs into the stream.
void Runner::Request::fetch_outputs() {
    const cuda::NvtxRange range("fetch");
    Impl& impl = this->impl();
    IoBuffer& io = *io_;
    answer_ = impl.answers->take();
    const std::vector<TensorInfo>& tensors = impl.engine->tensors();
    if (dynamic_ == nullptr) {
        const std::size_t size_bytes = plan_->output_layout.size_bytes;
        std::byte* const block = answer_->reserve(size_bytes);
        if (size_bytes != 0) io.stream.copy_unchecked(block, io.outputs.data(), size_bytes);
    } else {
        fetched_.clear();
        for (std::size_t i = 0; i < dynamic_->outputs.size(); ++i) {
            const DynamicOutput& output = *dynamic_->outputs[i];
            const core::Shape& shape = output.known() ? output.shape() : plan_->outputs[i];
            fetched_.add(tensors[impl.input_count + i].on_host
                             ? 0
                             : core::TensorView(nullptr, tensors[impl.input_count + i].dtype, shape).size_bytes());
        }
        std::byte* const block = answer_->reserve(fetched_.size_bytes);
        for (std::size_t i = 0; i < dynamic_->outputs.size(); ++i) {
            if (tensors[impl.input_count + i].on_host) continue;
            const DynamicOutput& output = *dynamic_->outputs[i];
            const core::Shape& shape = output.known() ? output.shape() : plan_->outputs[i];
            const core::TensorView view(block + fetched_.offsets[i], tensors[impl.input_count + i].dtype, shape);
            if (view.size_bytes() != 0) io.stream.copy_unchecked(view.data(), output.data(), view.size_bytes());
        }
    }
    io.time(IoBuffer::kOutputsEnd, impl.timing);
    io.done.record(io.stream);
}

void Runner::Request::finish(std::exception_ptr error) noexcept {
    try {
        if (!error) assemble();
    } catch (...) {
        error = std::current_exception();
        answer.clear();
    }
    give_back();
    times.finished = Clock::now();
    complete(std::move(error));
}

/// The answer's tensors, out of what the GPU has left.
void Runner::Request::assemble() {
    Impl& impl = this->impl();
    const core::Device where =
        impl.outputs_on_device ? impl.resources->device.core_device() : core::Device{DeviceType::cuda_host, 0};
    if (fetched_with_launch_) answer_ = impl.answers->take();
    std::byte* const block = answer_->reserve(fetched_with_launch_ ? plan_->output_layout.size_bytes : 0);
    if (fetched_with_launch_ && plan_->output_layout.size_bytes != 0) {
        std::memcpy(block, io_->answer.data(), plan_->output_layout.size_bytes);
    }
    const Layout& layout = dynamic_ != nullptr ? fetched_ : plan_->output_layout;
    for (std::size_t i = 0; i < plan_->outputs.size(); ++i) {
        const TensorInfo& tensor = impl.engine->tensors()[impl.input_count + i];
        const bool computed_shape = dynamic_ != nullptr && dynamic_->outputs[i]->known();
        const core::Shape& shape = computed_shape ? dynamic_->outputs[i]->shape() : plan_->outputs[i];
        if (tensor.on_host) {
            answer.push_back(core::Tensor::copy_of({addresses_[impl.input_count + i], tensor.dtype, shape}));
            continue;
        }
        if (dynamic_ != nullptr && !computed_shape) {
            throw core::EngineError("model '" + impl.spec().name + "', output '" + tensor.name +
                                    "': TensorRT did not tell its shape");
        }
        const core::TensorView view(block + layout.offsets[i], tensor.dtype, shape, where);
        answer.push_back(core::Tensor(view, answer_));
    }
    if (impl.timing) {
        times.device_timed = true;
        times.h2d = io_->between(IoBuffer::kInputsBegin, IoBuffer::kInputsEnd);
        times.compute = io_->between(IoBuffer::kComputeBegin, IoBuffer::kComputeEnd);
        times.d2h = io_->between(IoBuffer::kComputeEnd, IoBuffer::kOutputsEnd);
    }
}

void Runner::Request::let_go() noexcept {
    if (io_ == nullptr) return;
    Impl& impl = this->impl();
    try {
        io_->stream.synchronize();
    } catch (const core::CudaError& error) {
        impl.note(error);
        if (!error.device_lost()) core::log_current_exception("model '" + impl.spec().name + "', giving up a request");
    }
    give_back();
}

void Runner::Request::give_back() noexcept {
    DeviceResources& resources = *impl().resources;
    answer_ = {};
    plan_.reset();
    dynamic_ = nullptr;
    if (token_ != nullptr) resources.give_back(*std::exchange(token_, nullptr));
    if (io_ != nullptr) resources.give_back(*std::exchange(io_, nullptr));
}

}  // namespace trtlab::tensorrt
