#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <thread>

#include "objects.hpp"

namespace fake_nvinfer {
namespace {

constexpr int kFloat = 0, kInt8 = 2, kInt32 = 3, kUint8 = 5, kInt64 = 8;
constexpr unsigned char kSpoiled = 0xEE;

struct Operand {
    const std::byte* data = nullptr;
    std::size_t elements = 0;
};
struct Step {
    std::string operation;
    int type = 0;
    std::byte* output = nullptr;
    std::size_t elements = 0;
    std::vector<Operand> operands;
};

/// What is in the stream: everything as it was when it was enqueued.
struct Work {
    std::vector<Step> steps;
    const void* factor = nullptr;
    std::byte* scratch = nullptr;
    std::size_t scratch_size = 0;
    unsigned char mark = 0;
    std::size_t (*room_at)(const void*) = nullptr;
};

template <class T>
void compute(const Step& step, float factor) {
    auto* out = reinterpret_cast<T*>(step.output);
    const auto* a = reinterpret_cast<const T*>(step.operands[0].data);
    const auto* b = step.operands.size() > 1 ? reinterpret_cast<const T*>(step.operands[1].data) : nullptr;
    for (std::size_t i = 0; i < step.elements; ++i) {
        if (step.operation == "double") out[i] = static_cast<T>(a[i] * static_cast<T>(factor));
        if (step.operation == "add") out[i] = static_cast<T>(a[i] + b[i]);
        if (step.operation == "fill") out[i] = static_cast<T>(a[0] * static_cast<T>(factor));
    }
}

void run_step(const Step& step, float factor) {
    if (step.operation == "copy") {
        std::memcpy(step.output, step.operands[0].data, step.elements * size_of_type(step.type));
        return;
    }
    switch (step.type) {
        case kFloat:
            return compute<float>(step, factor);
        case kInt8:
            return compute<std::int8_t>(step, factor);
        case kUint8:
            return compute<std::uint8_t>(step, factor);
        case kInt32:
            return compute<std::int32_t>(step, factor);
        case kInt64:
            return compute<std::int64_t>(step, factor);
        default:
            the_control().violation(step.operation + " of a type that the fake can't compute");
    }
}

bool fits(const Work& work, const void* address, std::size_t size, const char* what) {
    if (size == 0 || work.room_at(address) >= size) return true;
    the_control().violation(std::string(what) + " lies not, or not wholly, in memory of the CUDA runtime");
    return false;
}

void run(void* argument) {
    const Work& work = *static_cast<Work*>(argument);
    if (!fits(work, work.scratch, work.scratch_size, "scratch memory")) return;
    std::fill_n(reinterpret_cast<unsigned char*>(work.scratch), work.scratch_size, work.mark);
    float factor = 2;
    if (work.factor != nullptr) std::memcpy(&factor, work.factor, sizeof(factor));
    for (const Step& step : work.steps) {
        bool whole = fits(work, step.output, step.elements * size_of_type(step.type), "an output");
        for (const Operand& operand : step.operands) {
            whole = whole && fits(work, operand.data, operand.elements * size_of_type(step.type), "an input");
        }
        if (whole) run_step(step, factor);
    }
    std::this_thread::yield();
    const auto* scratch = reinterpret_cast<const unsigned char*>(work.scratch);
    if (!std::all_of(scratch, scratch + work.scratch_size, [&](unsigned char byte) { return byte == work.mark; })) {
        the_control().violation("scratch memory was used by two executions at a time");
        for (const Step& step : work.steps) std::memset(step.output, kSpoiled, step.elements * size_of_type(step.type));
    }
    ++the_control().executions;
}

bool refuse(const Context& context, const std::string& why) {
    context.runtime().error(
        "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (Parameter check failed, condition: " + why + ")");
    return false;
}

/// The indices of what is not zero: known only when everything before it in the stream is done.
bool nonzero(Context& context, const PlanTensor& tensor, void* stream, const Cudart& cuda) {
    if (cuda.synchronize(stream) != 0) return refuse(context, "the stream is well");
    const Bound& input = context.tensors[tensor.operands[0]];
    std::vector<std::int64_t> found;
    const auto* values = static_cast<const float*>(input.address);
    for (std::size_t i = 0; i < elements_of(input.shape); ++i) {
        if (values[i] != 0) found.push_back(static_cast<std::int64_t>(i));
    }
    Bound& output = context.tensors[tensor.name];
    const Tables& tables = context.runtime().tables;
    void* memory = output.address;
    const std::uint64_t size = std::max<std::size_t>(found.size() * sizeof(std::int64_t), 1);
    if (output.output_allocator != nullptr) {
        memory = tables.call<void*, const char*, void*, std::uint64_t, std::uint64_t, void*>(
            "IOutputAllocator", "reallocateOutputAsync", output.output_allocator, tensor.name.c_str(), memory, size,
            256, stream);
    }
    if (memory == nullptr) return refuse(context, "memory for output " + tensor.name);
    if (cuda.room_at(memory) < size) return refuse(context, "room for output " + tensor.name);
    if (!found.empty()) std::memcpy(memory, found.data(), found.size() * sizeof(std::int64_t));
    Dims dims;
    dims.nbDims = 1;
    dims.d[0] = static_cast<std::int64_t>(found.size());
    if (output.output_allocator != nullptr) {
        tables.call<void, const char*, const Dims*>("IOutputAllocator", "notifyShape", output.output_allocator,
                                                    tensor.name.c_str(), &dims);
    }
    return true;
}

/// Where an output goes; null, and a line in the log, if it can't be known.
void* output_address(Context& context, const PlanTensor& tensor, const Extents& shape, void* stream) {
    Bound& bound = context.tensors[tensor.name];
    if (bound.output_allocator == nullptr) return bound.address;
    const Tables& tables = context.runtime().tables;
    const std::uint64_t size = elements_of(shape) * size_of_type(tensor.type);
    void* memory = tables.call<void*, const char*, void*, std::uint64_t, std::uint64_t, void*>(
        "IOutputAllocator", "reallocateOutputAsync", bound.output_allocator, tensor.name.c_str(), bound.address, size,
        256, stream);
    Dims dims;
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    tables.call<void, const char*, const Dims*>("IOutputAllocator", "notifyShape", bound.output_allocator,
                                                tensor.name.c_str(), &dims);
    return memory;
}

bool prepare(Context& context, Work& work, void* stream, bool capturing, const Cudart& cuda) {
    if (!context.inputs_set()) return refuse(context, "allInputDimensionsSpecified()");
    for (const PlanTensor& tensor : context.engine->plan.tensors) {
        const Bound& bound = context.tensors[tensor.name];
        if (bound.address == nullptr && bound.output_allocator == nullptr) {
            return refuse(context, "Address is not set for " + std::string(tensor.input ? "input" : "output") +
                                       " tensor " + tensor.name + ". Call setTensorAddress before enqueue");
        }
    }
    work.scratch_size = context.scratch_needed();
    if (work.scratch_size > context.scratch_size) {
        return refuse(context, "device memory of " + std::to_string(context.scratch_size) + " bytes is given, and " +
                                   std::to_string(work.scratch_size) + " are needed");
    }
    work.scratch = static_cast<std::byte*>(context.scratch);
    for (const PlanTensor& tensor : context.engine->plan.tensors) {
        if (tensor.input) continue;
        if (tensor.operation == "nonzero") {
            if (capturing) return refuse(context, "the stream is not captured: a shape depends on data");
            if (!nonzero(context, tensor, stream, cuda)) return false;
            continue;
        }
        Extents shape;
        context.shape_of(tensor, shape);
        if (std::any_of(shape.begin(), shape.end(), [](auto e) { return e < 0; }))
            return refuse(context, "shape of " + tensor.name);
        if (tensor.on_host) {
            // A shape: worked out by the host, and therefore in no graph.
            std::memcpy(context.tensors[tensor.name].address, context.tensors[tensor.operands[0]].address,
                        elements_of(shape) * size_of_type(tensor.type));
            continue;
        }
        Step step{tensor.operation, tensor.type, nullptr, elements_of(shape), {}};
        step.output = static_cast<std::byte*>(output_address(context, tensor, shape, stream));
        if (step.output == nullptr) return refuse(context, "memory for output " + tensor.name);
        for (const std::string& operand : tensor.operands) {
            if (context.engine->plan.find(operand)->on_host) continue;
            const Bound& input = context.tensors[operand];
            step.operands.push_back({static_cast<const std::byte*>(input.address), elements_of(input.shape)});
        }
        work.steps.push_back(std::move(step));
    }
    return true;
}

}  // namespace

Cudart cudart() {
    const std::string chosen = the_control().cudart();
    void* handle = dlopen(chosen.empty() ? FAKE_NVINFER_CUDART : chosen.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) throw std::runtime_error(dlerror());
    Cudart cuda;
    const auto find = [&](auto& function, const char* name) {
        void* symbol = dlsym(handle, name);
        if (symbol == nullptr) throw std::runtime_error(std::string("the CUDA runtime has no ") + name);
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
    };
    find(cuda.enqueue, "fake_cuda_enqueue");
    find(cuda.room_at, "fake_cuda_room_at");
    find(cuda.capturing, "cudaStreamIsCapturing");
    find(cuda.record, "cudaEventRecord");
    find(cuda.synchronize, "cudaStreamSynchronize");
    return cuda;
}

bool enqueue(Context& context, void* stream) {
    Control& control = the_control();
    try {
        const Cudart cuda = cudart();
        int status = 0;
        const bool capturing = cuda.capturing(stream, &status) == 0 && status != 0;
        if (control.enqueues_until_failure >= 0 && control.enqueues_until_failure-- == 0) {
            return refuse(context, "this enqueue was meant to fail");
        }
        if (capturing && control.refuse_capture) return refuse(context, "the stream is not captured");
        auto work = std::make_unique<Work>();
        static std::atomic<unsigned char> mark{0};
        work->mark = static_cast<unsigned char>(++mark);
        work->room_at = cuda.room_at;
        const auto& weights = context.engine->weights;
        if (!weights.empty() && weights[0].size >= sizeof(float)) work->factor = weights[0].memory;
        if (!prepare(context, *work, stream, capturing, cuda)) return false;
        const Tables& tables = context.runtime().tables;
        if (const int size = control.enqueue_bytes; size > 0) {
            void* allocator = context.runtime().allocator;
            void* memory = tables.call<void*, std::uint64_t, std::uint64_t, std::uint32_t, void*>(
                "IGpuAllocator", "allocateAsync", allocator, static_cast<std::uint64_t>(size), 256, 0, stream);
            if (memory == nullptr) return refuse(context, "temporary memory");
            tables.call<bool, void*, void*>("IGpuAllocator", "deallocateAsync", allocator, memory, stream);
        }
        if (cuda.enqueue(stream, &run, work.release(), [](void* argument) { delete static_cast<Work*>(argument); }) !=
            0) {
            return refuse(context, "the stream takes work");
        }
        if (context.consumed != nullptr) cuda.record(context.consumed, stream);
        if (context.profiler != nullptr && context.emits_profile) {
            for (const std::string& layer : context.engine->plan.layers) {
                tables.call<void, const char*, float>("IProfiler", "reportLayerTime", context.profiler, layer.c_str(),
                                                      0.25F);
            }
        }
        ++control.enqueues;
        if (capturing) ++control.captured;
        return true;
    } catch (const std::exception& error) {
        return refuse(context, error.what());
    }
}

}  // namespace fake_nvinfer
