#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "objects.hpp"

namespace fake_nvinfer {
namespace {

void check_driver(const Runtime& runtime) {
    if (!the_control().no_driver) return;
    runtime.error("[checkMacros.cpp::catchCudaError::229] Error Code 1: Cuda Runtime");
    throw std::runtime_error(
        "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at "
        "/_src/common/dispatch/cudaResources.cpp:25 (cudaError 35: CUDA driver version is insufficient "
        "for CUDA runtime version))");
}

void log_what_is_asked_for(const Runtime& runtime) {
    int severity = 0, times = 0;
    const std::string line = the_control().line(severity, times);
    for (int i = 0; i < times && !line.empty(); ++i) runtime.log(severity, line);
    if (const std::string other = the_control().other_thread_line(); !other.empty()) {
        std::thread([&] { runtime.error(other); }).join();
    }
}

Api* deserialize(Runtime* self, const void* blob, std::size_t size) {
    try {
        if (blob == nullptr) throw std::runtime_error("Parameter check failed, condition: (blob) != nullptr");
        Plan plan = parse({static_cast<const char*>(blob), size});
        check_driver(*self);
        log_what_is_asked_for(*self);
        if (const std::string why = the_control().take_deserialize_error(); !why.empty()) throw std::runtime_error(why);
        if (plan.requires_version != 0 && plan.requires_version != self->tables.version()) {
            throw std::runtime_error(
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion stdVersionRead "
                "== "
                "kSERIALIZATION_VERSION failed.Version tag does not match.)");
        }
        Engine* engine = make_engine(*self, std::move(plan));
        return engine != nullptr ? &engine->api : nullptr;
    } catch (const std::exception& error) {
        self->error(error.what());
        return nullptr;
    }
}

std::int32_t validity(Runtime* self, const void* blob, std::int64_t size, std::uint64_t* diagnostics) {
    constexpr std::uint64_t kVersionMismatch = 1, kMalformed = 32;
    *diagnostics = 0;
    try {
        const Plan plan = parse({static_cast<const char*>(blob), static_cast<std::size_t>(size)});
        if (plan.requires_version != 0 && plan.requires_version != self->tables.version())
            *diagnostics = kVersionMismatch;
    } catch (const std::exception& error) {
        self->error(error.what());
        *diagnostics = kMalformed;
    }
    return *diagnostics == 0 ? 0 : 2;
}

bool set_max_threads(Runtime* self, std::int32_t count) {
    if (count < 1) {
        self->error(
            "IRuntime::setMaxThreads: Error Code 3: API Usage Error (Parameter check failed, condition: maxThreads > "
            "0)");
        return false;
    }
    self->max_threads = count;
    the_control().max_threads = count;
    return true;
}

void destroy(Runtime* self) {
    if (self->engines != 0) the_control().violation("a runtime is destroyed before its engines");
    --the_control().runtimes;
    delete self;
}
void destroy_api(Api* api) { destroy(of<Runtime>(api)); }
void not_this_one(Api*) { the_control().violation("a destructor that leaves the memory was called"); }

}  // namespace

void* const kRuntimeTable[2] = {reinterpret_cast<void*>(&not_this_one), reinterpret_cast<void*>(&destroy_api)};

void* Runtime::allocate(std::size_t size) const {
    if (allocator == nullptr) return std::malloc(size);
    return tables.call<void*, std::uint64_t, std::uint64_t, std::uint32_t>("IGpuAllocator", "allocate", allocator, size,
                                                                           256, 0);
}

void Runtime::deallocate(void* memory) const {
    if (allocator == nullptr) {
        std::free(memory);
    } else if (!tables.call<bool, void*>("IGpuAllocator", "deallocate", allocator, memory)) {
        the_control().violation("the application does not know memory that it gave");
    }
}

void add_runtime_methods(Tables& tables) {
    constexpr Class kIt = Class::runtime;
    tables.set(kIt, "deserializeCudaEngine", &deserialize);
    tables.set(kIt, "setGpuAllocator", +[](Runtime* self, void* allocator) { self->allocator = allocator; });
    tables.set(kIt, "setMaxThreads", &set_max_threads);
    tables.set(kIt, "getMaxThreads", +[](Runtime* self) -> std::int32_t { return self->max_threads; });
    tables.set(
        kIt, "setEngineHostCodeAllowed", +[](Runtime* self, bool allowed) {
            self->host_code_allowed = allowed;
            the_control().host_code_allowed = allowed;
        });
    tables.set(kIt, "getEngineHeaderSize", +[](Runtime*) -> std::int64_t { return 64; });
    tables.set(kIt, "getEngineValidity", &validity);
}

}  // namespace fake_nvinfer

extern "C" {

[[gnu::visibility("default")]] std::int32_t getInferLibVersion() { return fake_nvinfer::the_control().version; }

[[gnu::visibility("default")]] void* createInferRuntime_INTERNAL(void* logger, std::int32_t) {
    using namespace fake_nvinfer;
    // What the real ones make of a null pointer.
    void* const failed = reinterpret_cast<void*>(0x228);
    if (logger == nullptr) return failed;
    auto* runtime = new Runtime(the_control().version);
    runtime->logger = logger;
    if (the_control().no_driver && !runtime->tables.rtx()) {
        runtime->error(
            "createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: 35 In "
            "checkCudaInstallation at /_src/common/cuda.cpp:7)");
        delete runtime;
        return failed;
    }
    add_runtime_methods(runtime->tables);
    add_engine_methods(runtime->tables);
    add_context_methods(runtime->tables);
    bind(*runtime, runtime->tables, Class::runtime, kRuntimeTable);
    ++the_control().runtimes;
    return &runtime->api;
}
}
