#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "objects.hpp"

namespace fake_nvinfer {
namespace {

Dims to_dims(const Extents& shape) {
    Dims dims;
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    return dims;
}

const PlanTensor& tensor(const Engine* self, const char* name) {
    const PlanTensor* found = self->plan.find(name);
    if (found != nullptr) return *found;
    static const PlanTensor none;
    self->runtime->error("Error Code 3: API Usage Error (Parameter check failed, condition: no tensor '" +
                         std::string(name) + "')");
    return none;
}

void destroy(Engine* self) {
    if (self->contexts != 0) the_control().violation("an engine is destroyed before its contexts");
    for (const Block& block : self->weights) self->runtime->deallocate(block.memory);
    --self->runtime->engines;
    --the_control().engines;
    delete self;
}
void not_this_one(Api*) { the_control().violation("a destructor that leaves the memory was called"); }

template <class Of>
void delete_api(Api* api) {
    delete of<Of>(api);
}

void* const kHostMemoryTable[2] = {reinterpret_cast<void*>(&not_this_one),
                                   reinterpret_cast<void*>(&delete_api<HostMemory>)};
void* const kConfigTable[2] = {reinterpret_cast<void*>(&not_this_one), reinterpret_cast<void*>(&delete_api<Config>)};
void* const kInspectorTable[2] = {reinterpret_cast<void*>(&not_this_one),
                                  reinterpret_cast<void*>(&delete_api<Inspector>)};
void delete_cache(Api* api) {
    --the_control().kernel_caches;
    delete of<Cache>(api);
}
void* const kCacheTable[2] = {reinterpret_cast<void*>(&not_this_one), reinterpret_cast<void*>(&delete_cache)};

template <class Of>
Of* make(Engine* self, Class one, void* const* table) {
    auto* made = new Of;
    bind(*made, self->runtime->tables, one, table);
    return made;
}

Api* create_context(Engine* self, std::int32_t strategy) {
    Context* context = make_context(*self, strategy);
    return context != nullptr ? &context->api : nullptr;
}

Api* create_context_with_config(Engine* self, Api* config) {
    Config* its = of<Config>(config);
    if (its->engine != self) the_control().violation("a runtime config of another engine was used");
    if (its->cache != nullptr) ++the_control().contexts_with_cache;
    return create_context(self, its->strategy);
}

std::int64_t activation(const Engine* self, int profile) {
    std::size_t most = 0;
    const auto inputs = self->plan.tensors;
    const auto first = std::find_if(inputs.begin(), inputs.end(), [](auto& t) { return t.input; });
    for (int p = 0; first != inputs.end() && p < self->plan.profiles(); ++p) {
        if (profile >= 0 && p != profile) continue;
        const auto at = static_cast<std::size_t>(p);
        const Extents& shape = at < first->profiles.size() ? first->profiles[at][2] : first->shape;
        most = std::max(most, (elements_of(shape) * self->plan.activation + 255) / 256 * 256);
    }
    return static_cast<std::int64_t>(most);
}

Dims profile_shape(Engine* self, const char* name, std::int32_t profile, std::int32_t select) {
    const PlanTensor& one = tensor(self, name);
    if (static_cast<std::size_t>(profile) >= one.profiles.size()) {
        self->runtime->error("Error Code 3: API Usage Error (no profile " + std::to_string(profile) + " of " + name +
                             ")");
        return {-1, {}};
    }
    return to_dims(one.profiles[static_cast<std::size_t>(profile)][static_cast<std::size_t>(select)]);
}

const std::int64_t* profile_values(Engine* self, const char* name, std::int32_t profile, std::int32_t select) {
    const PlanTensor& one = tensor(self, name);
    if (static_cast<std::size_t>(profile) >= one.values.size()) return nullptr;
    return one.values[static_cast<std::size_t>(profile)][static_cast<std::size_t>(select)].data();
}

Api* inspect(Engine* self) {
    auto* inspector = make<Inspector>(self, Class::inspector, kInspectorTable);
    inspector->text = "{\"Layers\": [";
    for (const std::string& layer : self->plan.layers) {
        inspector->text += (inspector->text.back() == '[' ? "\"" : ", \"") + layer + "\"";
    }
    inspector->text += "]}";
    return &inspector->api;
}

Api* serialize(Engine* self) {
    auto* memory = make<HostMemory>(self, Class::host_memory, kHostMemoryTable);
    memory->bytes = self->plan.text;
    return &memory->api;
}

bool set_budget(Engine* self, std::int64_t size) {
    if (size < 0 || size > self->plan.streamable) {
        self->runtime->error("ICudaEngine::setWeightStreamingBudgetV2: Error Code 3: API Usage Error (budget " +
                             std::to_string(size) + " is above " + std::to_string(self->plan.streamable) + ")");
        return false;
    }
    self->streaming_budget = size;
    return true;
}

bool set_cache(Config* self, Api* cache) {
    self->cache = cache;
    return true;
}

void add_parts(Tables& tables) {
    tables.set(Class::host_memory, "data", +[](HostMemory* self) -> void* { return self->bytes.data(); });
    tables.set(Class::host_memory, "size", +[](HostMemory* self) -> std::size_t { return self->bytes.size(); });
    tables.set(
        Class::config, "setExecutionContextAllocationStrategy",
        +[](Config* self, std::int32_t strategy) { self->strategy = strategy; });
    tables.set(
        Class::config, "createRuntimeCache", +[](Config* self) -> Api* {
            ++the_control().kernel_caches;
            return &make<Cache>(self->engine, Class::cache, kCacheTable)->api;
        });
    tables.set(Class::config, "setRuntimeCache", &set_cache);
    tables.set(
        Class::inspector, "getEngineInformation", +[](Inspector* self, std::int32_t format) -> const char* {
            return format == 1 ? self->text.c_str() : nullptr;
        });
}

}  // namespace

void* const kEngineTable[2] = {reinterpret_cast<void*>(&not_this_one),
                               reinterpret_cast<void*>(+[](Api* api) { destroy(of<Engine>(api)); })};

Engine* make_engine(Runtime& runtime, Plan plan) {
    auto* engine = new Engine;
    engine->runtime = &runtime;
    engine->plan = std::move(plan);
    engine->streaming_budget = engine->plan.streamable;
    ++runtime.engines;
    ++the_control().engines;
    // Asked for and given back, as TensorRT does while it deserializes: no part of the weights.
    if (void* passing = runtime.allocate(64)) runtime.deallocate(passing);
    for (const std::size_t size : engine->plan.weights) {
        void* memory = runtime.allocate(size);
        if (memory == nullptr) {
            runtime.error("IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory (Requested size was " +
                          std::to_string(size) + " bytes.)");
            destroy(engine);
            return nullptr;
        }
        engine->weights.push_back({memory, size});
    }
    if (!engine->weights.empty() && engine->weights[0].size >= sizeof(float)) {
        constexpr float kFactor = 2;
        std::memcpy(engine->weights[0].memory, &kFactor, sizeof(kFactor));
    }
    bind(*engine, runtime.tables, Class::engine, kEngineTable);
    return engine;
}

void add_engine_methods(Tables& tables) {
    constexpr Class kIt = Class::engine;
    tables.set(kIt, "getNbLayers", +[](Engine* self) { return static_cast<std::int32_t>(self->plan.layers.size()); });
    tables.set(kIt, "serialize", &serialize);
    tables.set(kIt, "createExecutionContext", &create_context);
    tables.set(
        kIt, "getDeviceMemorySize", +[](Engine* self) { return static_cast<std::size_t>(activation(self, -1)); });
    tables.set(kIt, "isRefittable", +[](Engine* self) { return self->plan.refittable; });
    tables.set(kIt, "getName", +[](Engine* self) { return self->plan.name.c_str(); });
    tables.set(kIt, "getNbOptimizationProfiles", +[](Engine* self) -> std::int32_t { return self->plan.profiles(); });
    tables.set(kIt, "createEngineInspector", &inspect);
    tables.set(
        kIt, "getTensorShape", +[](Engine* self, const char* name) { return to_dims(tensor(self, name).shape); });
    tables.set(
        kIt, "getTensorDataType",
        +[](Engine* self, const char* name) -> std::int32_t { return tensor(self, name).type; });
    tables.set(
        kIt, "getTensorLocation",
        +[](Engine* self, const char* name) -> std::int32_t { return tensor(self, name).on_host ? 1 : 0; });
    tables.set(kIt, "isShapeInferenceIO", +[](Engine* self, const char* name) { return tensor(self, name).on_host; });
    tables.set(
        kIt, "getTensorIOMode",
        +[](Engine* self, const char* name) -> std::int32_t { return tensor(self, name).input ? 1 : 2; });
    tables.set(kIt, "getProfileShape", &profile_shape);
    tables.set(
        kIt, "getNbIOTensors", +[](Engine* self) { return static_cast<std::int32_t>(self->plan.tensors.size()); });
    tables.set(
        kIt, "getIOTensorName", +[](Engine* self, std::int32_t index) -> const char* {
            return self->plan.tensors.at(static_cast<std::size_t>(index)).name.c_str();
        });
    tables.set(kIt, "getNbAuxStreams", +[](Engine* self) -> std::int32_t { return self->plan.aux_streams; });
    tables.set(
        kIt, "getTensorFormatV2", +[](Engine* self, const char* name, std::int32_t) -> std::int32_t {
            return tensor(self, name).vectorized ? 4 : 0;
        });
    tables.set(
        kIt, "getTensorFormatDescV2", +[](Engine* self, const char* name, std::int32_t) -> const char* {
            return tensor(self, name).vectorized ? "Channel major FP32 format where channel % 32 == 0"
                                                 : "Row major linear";
        });
    tables.set(
        kIt, "getTensorVectorizedDimV2", +[](Engine* self, const char* name, std::int32_t) -> std::int32_t {
            return tensor(self, name).vectorized ? 1 : -1;
        });
    tables.set(
        kIt, "getDeviceMemorySizeForProfile",
        +[](Engine* self, std::int32_t profile) { return static_cast<std::size_t>(activation(self, profile)); });
    tables.set(kIt, "getStreamableWeightsSize", +[](Engine* self) { return self->plan.streamable; });
    tables.set(kIt, "setWeightStreamingBudgetV2", &set_budget);
    tables.set(kIt, "getWeightStreamingBudgetV2", +[](Engine* self) { return self->streaming_budget; });
    tables.set(kIt, "getWeightStreamingAutomaticBudget", +[](Engine* self) { return self->plan.streamable / 2; });
    tables.set(kIt, "getDeviceMemorySizeV2", +[](Engine* self) { return activation(self, -1); });
    tables.set(
        kIt, "getDeviceMemorySizeForProfileV2",
        +[](Engine* self, std::int32_t profile) { return activation(self, profile); });
    tables.set(kIt, "getProfileTensorValuesV2", &profile_values);
    tables.set(kIt, "createExecutionContextWithRuntimeConfig", &create_context_with_config);
    tables.set(
        kIt, "createRuntimeConfig", +[](Engine* self) -> Api* {
            auto* config = make<Config>(self, Class::config, kConfigTable);
            config->engine = self;
            return &config->api;
        });
    add_parts(tables);
}

}  // namespace fake_nvinfer
