#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "plan.hpp"
#include "tables.hpp"

namespace fake_nvinfer {

struct Runtime : Base {
    explicit Runtime(int version) : tables(version) {}
    Tables tables;
    void* logger = nullptr;
    void* allocator = nullptr;
    int max_threads = 4;
    bool host_code_allowed = false;
    std::atomic<int> engines{0};

    void log(int severity, const std::string& line) const {
        tables.call<void, std::int32_t, const char*>("ILogger", "log", logger, severity, line.c_str());
    }
    void error(const std::string& line) const { log(1, "[fake.cpp::run::42] " + line); }
    /// Through the application's allocator if there is one.
    void* allocate(std::size_t size) const;
    void deallocate(void* memory) const;
};

struct Block {
    void* memory;
    std::size_t size;
};

struct Engine : Base {
    Runtime* runtime = nullptr;
    Plan plan;
    std::vector<Block> weights;
    std::int64_t streaming_budget = 0;
    std::atomic<int> contexts{0};
    int contexts_made = 0;
};

struct Bound {
    Extents shape;
    bool shape_set = false;
    void* address = nullptr;
    void* output_allocator = nullptr;
};

struct Config : Base {
    Engine* engine = nullptr;
    std::int32_t strategy = 0;
    Api* cache = nullptr;
};

struct Cache : Base {};

struct Context : Base {
    Engine* engine = nullptr;
    int profile = 0;
    std::int32_t strategy = 0;
    std::map<std::string, Bound> tensors;
    void* scratch = nullptr;
    std::size_t scratch_size = 0;
    void* profiler = nullptr;
    bool emits_profile = true;
    void* consumed = nullptr;
    void* own_memory = nullptr;
    std::vector<void*> aux_streams;

    const Runtime& runtime() const { return *engine->runtime; }
    bool inputs_set() const;
    /// Of an output whose inputs are set; -1 where data decides. False if a shape input can't be read.
    bool shape_of(const PlanTensor& tensor, Extents& shape) const;
    std::size_t scratch_needed() const;
};

struct HostMemory : Base {
    std::string bytes;
};

struct Inspector : Base {
    std::string text;
};

Engine* make_engine(Runtime& runtime, Plan plan);
Context* make_context(Engine& engine, std::int32_t strategy);
bool enqueue(Context& context, void* stream);

void add_runtime_methods(Tables& tables);
void add_engine_methods(Tables& tables);
void add_context_methods(Tables& tables);

/// The object's own table, whose second entry destroys it.
extern void* const kRuntimeTable[2];
extern void* const kEngineTable[2];
extern void* const kContextTable[2];

template <class Of>
Of* of(Api* api) {
    return static_cast<Of*>(static_cast<Base*>(api->object));
}
template <class Of>
void bind(Of& object, Tables& tables, Class one, void* const* own_table) {
    object.table = tables.of(one);
    object.api = {own_table, static_cast<Base*>(&object)};
}

/// Functions of the fake CUDA runtime. Throws std::runtime_error without it.
struct Cudart {
    int (*enqueue)(void* stream, void (*run)(void*), void* argument, void (*destroy)(void*)) = nullptr;
    std::size_t (*room_at)(const void* address) = nullptr;
    int (*capturing)(void* stream, int* status) = nullptr;
    int (*record)(void* event, void* stream) = nullptr;
    int (*synchronize)(void* stream) = nullptr;
};
Cudart cudart();

}  // namespace fake_nvinfer
