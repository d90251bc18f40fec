#include <algorithm>
#include <cstring>

#include "objects.hpp"

namespace fake_nvinfer {
namespace {

Dims to_dims(const Extents& shape) {
    Dims dims;
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    return dims;
}

bool refuse(const Context* self, const std::string& why) {
    self->runtime().error(
        "IExecutionContext: Error Code 3: API Usage Error (Parameter check failed, condition: " + why + ")");
    return false;
}

bool dynamic(const Extents& shape) {
    return std::any_of(shape.begin(), shape.end(), [](auto e) { return e < 0; });
}

bool set_input_shape(Context* self, const char* name, const Dims* dims) {
    const PlanTensor* tensor = self->engine->plan.find(name);
    if (tensor == nullptr || !tensor->input) return refuse(self, "no input " + std::string(name));
    const Extents shape(dims->d, dims->d + dims->nbDims);
    if (shape.size() != tensor->shape.size()) return refuse(self, "rank of " + std::string(name));
    for (std::size_t i = 0; i < shape.size(); ++i) {
        if (tensor->shape[i] >= 0 && tensor->shape[i] != shape[i])
            return refuse(self, "static extent of " + std::string(name));
        if (tensor->shape[i] >= 0) continue;
        if (self->profile < 0) return refuse(self, "profile is set");
        const auto& [min, opt, max] = tensor->profiles.at(static_cast<std::size_t>(self->profile));
        if (shape[i] < min[i] || shape[i] > max[i])
            return refuse(self, "satisfyProfile Runtime dimension of " + std::string(name));
    }
    Bound& bound = self->tensors[name];
    bound.shape = shape;
    bound.shape_set = true;
    return true;
}

Dims tensor_shape(Context* self, const char* name) {
    const PlanTensor* tensor = self->engine->plan.find(name);
    Extents shape;
    if (tensor == nullptr || !self->shape_of(*tensor, shape)) return {-1, {}};
    return to_dims(shape);
}

std::int32_t infer_shapes(Context* self, std::int32_t most, const char** names) {
    std::int32_t missing = 0;
    for (const PlanTensor& tensor : self->engine->plan.tensors) {
        const Bound& bound = self->tensors[tensor.name];
        if (!tensor.input || (bound.shape_set && (!tensor.on_host || bound.address != nullptr))) continue;
        if (missing < most) names[missing] = tensor.name.c_str();
        ++missing;
    }
    return missing;
}

bool set_profile(Context* self, std::int32_t profile, void*) {
    if (profile < 0 || profile >= self->engine->plan.profiles()) return refuse(self, "profileIndex");
    self->profile = profile;
    for (const PlanTensor& tensor : self->engine->plan.tensors) {
        if (tensor.input && dynamic(tensor.shape)) self->tensors[tensor.name].shape_set = false;
    }
    return true;
}

std::int64_t max_output_size(Context* self, const char* name) {
    const PlanTensor* tensor = self->engine->plan.find(name);
    Extents shape;
    if (tensor == nullptr || tensor->input || !self->inputs_set()) return -1;
    if (tensor->operation == "nonzero") {
        return static_cast<std::int64_t>(8 * elements_of(self->tensors[tensor->operands[0]].shape));
    }
    if (!self->shape_of(*tensor, shape)) return -1;
    return static_cast<std::int64_t>(elements_of(shape) * size_of_type(tensor->type));
}

void set_device_memory(Context* self, void* memory, std::int64_t size) {
    if (self->strategy != 2) the_control().violation("memory is given to a context that has its own");
    if (reinterpret_cast<std::uintptr_t>(memory) % 256 != 0) {
        refuse(self, "memory is aligned to 256");
        return;
    }
    self->scratch = memory;
    self->scratch_size = static_cast<std::size_t>(size);
}

void destroy(Context* self) {
    if (self->own_memory != nullptr) self->runtime().deallocate(self->own_memory);
    --self->engine->contexts;
    --the_control().contexts;
    delete self;
}
void not_this_one(Api*) { the_control().violation("a destructor that leaves the memory was called"); }

}  // namespace

void* const kContextTable[2] = {reinterpret_cast<void*>(&not_this_one),
                                reinterpret_cast<void*>(+[](Api* api) { destroy(of<Context>(api)); })};

bool Context::inputs_set() const {
    for (const PlanTensor& tensor : engine->plan.tensors) {
        const auto bound = tensors.find(tensor.name);
        if (tensor.input && (bound == tensors.end() || !bound->second.shape_set)) return false;
    }
    return true;
}

bool Context::shape_of(const PlanTensor& tensor, Extents& shape) const {
    const auto bound_shape = [&](const std::string& name) { return tensors.at(name).shape; };
    if (tensor.input) {
        shape = tensors.at(tensor.name).shape_set ? bound_shape(tensor.name) : tensor.shape;
        return true;
    }
    if (!inputs_set() || tensor.operation == "nonzero") {
        shape = tensor.shape;
        return true;
    }
    if (tensor.operation != "fill") {
        shape = bound_shape(tensor.operands[0]);
        return true;
    }
    const Bound& values = tensors.at(tensor.operands[1]);
    if (values.address == nullptr) {
        shape = tensor.shape;
        return true;
    }
    const std::size_t rank = elements_of(values.shape);
    for (std::size_t i = 0; i < rank; ++i) {
        const bool narrow = engine->plan.find(tensor.operands[1])->type == 3;
        shape.push_back(narrow ? static_cast<const std::int32_t*>(values.address)[i]
                               : static_cast<const std::int64_t*>(values.address)[i]);
    }
    return true;
}

std::size_t Context::scratch_needed() const {
    for (const PlanTensor& tensor : engine->plan.tensors) {
        if (tensor.input)
            return (elements_of(tensors.at(tensor.name).shape) * engine->plan.activation + 255) / 256 * 256;
    }
    return 0;
}

Context* make_context(Engine& engine, std::int32_t strategy) {
    if (const std::string why = the_control().take_context_error(); !why.empty()) {
        engine.runtime->error(why);
        return nullptr;
    }
    auto* context = new Context;
    context->engine = &engine;
    context->strategy = strategy;
    if (const int size = the_control().context_bytes; size > 0) {
        context->own_memory = engine.runtime->allocate(static_cast<std::size_t>(size));
        if (context->own_memory == nullptr) {
            engine.runtime->error(
                "ICudaEngine::createExecutionContext: Error Code 2: OutOfMemory (Requested size was " +
                std::to_string(size) + " bytes.)");
            delete context;
            return nullptr;
        }
    }
    context->profile = the_control().profile_for_first_context_only && engine.contexts_made > 0 ? -1 : 0;
    for (const PlanTensor& tensor : engine.plan.tensors) {
        Bound& bound = context->tensors[tensor.name];
        if (!tensor.input || dynamic(tensor.shape)) continue;
        bound.shape = tensor.shape;
        bound.shape_set = true;
    }
    ++engine.contexts_made;
    ++engine.contexts;
    ++the_control().contexts;
    bind(*context, engine.runtime->tables, Class::context, kContextTable);
    return context;
}

void add_context_methods(Tables& tables) {
    constexpr Class kIt = Class::context;
    tables.set(kIt, "setProfiler", +[](Context* self, void* profiler) { self->profiler = profiler; });
    tables.set(
        kIt, "setDeviceMemory",
        +[](Context* self, void* memory) { set_device_memory(self, memory, std::int64_t{1} << 40); });
    tables.set(kIt, "getOptimizationProfile", +[](Context* self) -> std::int32_t { return self->profile; });
    tables.set(kIt, "setOptimizationProfileAsync", &set_profile);
    tables.set(kIt, "setEnqueueEmitsProfile", +[](Context* self, bool emits) { self->emits_profile = emits; });
    tables.set(kIt, "setInputShape", &set_input_shape);
    tables.set(kIt, "getTensorShape", &tensor_shape);
    tables.set(
        kIt, "setTensorAddress", +[](Context* self, const char* name, void* address) {
            if (self->engine->plan.find(name) == nullptr) return refuse(self, "no tensor " + std::string(name));
            self->tensors[name].address = address;
            return true;
        });
    tables.set(kIt, "inferShapes", &infer_shapes);
    tables.set(
        kIt, "setInputConsumedEvent", +[](Context* self, void* event) {
            self->consumed = event;
            return true;
        });
    tables.set(
        kIt, "setOutputAllocator", +[](Context* self, const char* name, void* allocator) {
            const PlanTensor* tensor = self->engine->plan.find(name);
            if (tensor == nullptr || tensor->input) return refuse(self, "no output " + std::string(name));
            self->tensors[name].output_allocator = allocator;
            return true;
        });
    tables.set(kIt, "getMaxOutputSize", &max_output_size);
    tables.set(kIt, "enqueueV3", +[](Context* self, void* stream) { return enqueue(*self, stream); });
    tables.set(
        kIt, "setAuxStreams", +[](Context* self, void** streams, std::int32_t count) {
            if (count > self->engine->plan.aux_streams) {
                refuse(self, "nbStreams <= " + std::to_string(self->engine->plan.aux_streams));
                return;
            }
            self->aux_streams.assign(streams, streams + count);
        });
    tables.set(
        kIt, "updateDeviceMemorySizeForShapes", +[](Context* self) -> std::size_t {
            if (self->inputs_set()) return self->scratch_needed();
            refuse(self, "allInputDimensionsSpecified");
            return 0;
        });
    tables.set(kIt, "setDeviceMemoryV2", &set_device_memory);
    tables.set(kIt, "isStreamCapturable", +[](Context*, void*) -> bool { return the_control().stream_capturable; });
}

}  // namespace fake_nvinfer
