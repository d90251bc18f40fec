#include "trtlab/tensorrt/runtime.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <vector>

#include "engine_state.hpp"
#include "runtime_state.hpp"
#include "trtlab/cuda/memory.hpp"
#include "trtlab/tensorrt/execution_context.hpp"

namespace trtlab::tensorrt {
namespace {

using abi::VRuntime;

/// createInferRuntime_INTERNAL adds an offset to its result without looking whether there is one.
constexpr std::uintptr_t kSmallestAddress = 65536;

/// What TensorRT-RTX finds wrong with a plan.
struct Diagnosis {
    bool malformed = false;
    std::string text;
};

Diagnosis diagnose(Runtime::State& state, std::span<const std::byte> plan) {
    using Bit = abi::EngineInvalidityDiagnostics;
    constexpr std::array<std::pair<Bit, std::string_view>, 7> kMeanings{{
        {Bit::VERSION_MISMATCH, "it was built with another version"},
        {Bit::UNSUPPORTED_CC, "it was not built for this GPU's compute capability"},
        {Bit::OLD_CUDA_DRIVER, "the CUDA driver is too old for it"},
        {Bit::OLD_CUDA_RUNTIME, "the CUDA runtime is too old for it"},
        {Bit::INSUFFICIENT_GPU_MEMORY, "the GPU has too little memory for it"},
        {Bit::MALFORMED_ENGINE, "it is no plan, or a damaged one"},
        {Bit::CUDA_ERROR, "CUDA failed"},
    }};
    Diagnosis diagnosis;
    const Library::Abi& abi = state.abi();
    if (!abi.has(VRuntime::getEngineValidity)) return diagnosis;
    if (const std::int64_t header = abi.call(VRuntime::getEngineHeaderSize, state.handle.get());
        static_cast<std::int64_t>(plan.size()) < header) {
        return {true, "it is no plan, or a damaged one: a header alone has " + std::to_string(header) + " bytes"};
    }
    Call call(state.log);
    std::uint64_t bits = 0;
    const auto validity = abi.call(VRuntime::getEngineValidity, state.handle.get(), plan.data(),
                                   static_cast<std::int64_t>(plan.size()), &bits);
    call.forget();  // deserialization has said the same
    if (validity != abi::EngineValidity::INVALID) return diagnosis;
    for (const auto& [bit, meaning] : kMeanings) {
        if ((bits & static_cast<std::uint64_t>(bit)) == 0) continue;
        diagnosis.text += (diagnosis.text.empty() ? "" : ", ") + std::string(meaning);
    }
    diagnosis.malformed = (bits & static_cast<std::uint64_t>(Bit::MALFORMED_ENGINE)) != 0;
    return diagnosis;
}

/// TensorRT calls a plan that it can't read a failed "Serialization assertion", and one of another version too; of one that is
/// too short for a header it says so in the reader's terms.
bool is_malformed(std::string_view words) {
    for (std::size_t begin = 0; begin < words.size();) {
        const std::size_t end = std::min(words.find('\n', begin), words.size());
        const std::string_view line = words.substr(begin, end - begin);
        const auto has = [&](std::string_view part) { return line.find(part) != line.npos; };
        if (has("magicTag") || has("minBufferSize") || (has("Serialization") && !has("ersion"))) return true;
        begin = end + 1;
    }
    return false;
}

}  // namespace

Runtime::State::State(std::shared_ptr<const Library> library_, std::optional<cuda::Device> device_,
                      const Options& options)
    : library(std::move(library_)), device(std::move(device_)), log(options.log_severity, options.log) {
    const CurrentDevice current(device);
    Call call(log);
    void* const made = abi().create_runtime(log.interface(library->generation()), library->version_number());
    if (reinterpret_cast<std::uintptr_t>(made) < kSmallestAddress) {
        call.fail("a runtime of " + where() + " (" + library->path() + ") could not be made");
    }
    handle.reset(static_cast<abi::IRuntime*>(made));
    if (options.max_threads != 0 && !abi().call(VRuntime::setMaxThreads, handle.get(), options.max_threads)) {
        call.refuse("a runtime of " + where() + " can't use max_threads=" + std::to_string(options.max_threads));
    }
    max_threads = abi().call(VRuntime::getMaxThreads, handle.get());
    abi().call(VRuntime::setEngineHostCodeAllowed, handle.get(), options.host_code_allowed);
    if (device) {
        auto memory = options.memory ? options.memory : std::make_shared<cuda::DeviceMemory>(*device);
        allocator = std::make_unique<Allocator>(std::move(memory), *device, log);
        abi().call(VRuntime::setGpuAllocator, handle.get(), static_cast<void*>(allocator.get()));
    }
}

Runtime::State::~State() { destroy(handle, device); }

std::shared_ptr<Runtime> Runtime::create(std::shared_ptr<const Library> library, const cuda::Device& device,
                                         const Options& options) {
    if (!library) throw core::InvalidArgument("a TensorRT runtime needs a library, got a null pointer");
    return std::shared_ptr<Runtime>(new Runtime(std::make_shared<State>(std::move(library), device, options)));
}

std::shared_ptr<Runtime> Runtime::create_without_device(std::shared_ptr<const Library> library,
                                                        const Options& options) {
    if (!library) throw core::InvalidArgument("a TensorRT runtime needs a library, got a null pointer");
    return std::shared_ptr<Runtime>(new Runtime(std::make_shared<State>(std::move(library), std::nullopt, options)));
}

Runtime::Runtime(std::shared_ptr<State> state) : state_(std::move(state)) {}
Runtime::~Runtime() = default;

const std::shared_ptr<const Library>& Runtime::library() const noexcept { return state_->library; }

const cuda::Device& Runtime::device() const {
    if (!state_->device) throw core::InvalidArgument("this TensorRT runtime was made without a device");
    return *state_->device;
}

int Runtime::max_threads() const noexcept { return state_->max_threads; }

std::size_t Runtime::other_bytes() const noexcept { return state_->allocator ? state_->allocator->other_bytes() : 0; }

std::shared_ptr<Engine> Runtime::deserialize(std::span<const std::byte> plan, const DeserializeOptions& options) {
    const std::string name = options.name.empty() ? "the plan" : "the plan '" + options.name + "'";
    if (plan.empty())
        throw core::InvalidArgument(name + " is empty: expected the bytes that TensorRT's builder has made");
    State& state = *state_;
    const std::lock_guard lock(state.one_at_a_time);
    const CurrentDevice current(state.device);
    auto weights = std::make_shared<Weights>();
    weights->memory = options.weights;

    auto engine = std::make_shared<Engine::State>();
    engine->runtime = shared_from_this();
    {
        Call call(state.log, Call::Reach::everywhere, weights);
        engine->handle =
            state.abi().call(VRuntime::deserializeCudaEngine, state.handle.get(), plan.data(), plan.size());
        if (engine->handle == nullptr) {
            const std::string words = call.words();
            const Diagnosis diagnosis = diagnose(state, plan);
            std::string what = name + " of " + std::to_string(plan.size()) + " bytes is refused by " + state.where();
            if (!diagnosis.text.empty()) what += ": " + diagnosis.text;
            diagnosis.malformed || is_malformed(words) ? call.refuse(what) : call.fail(what);
        }
        engine->owned.reset(engine->handle);
    }
    engine->weights = std::move(weights);
    engine->name = options.name;
    read(*engine);
    return std::shared_ptr<Engine>(new Engine(std::move(engine)));
}

std::shared_ptr<Engine> Runtime::load(const std::string& path, DeserializeOptions options) {
    namespace fs = std::filesystem;
    if (options.name.empty()) options.name = path;
    std::error_code error;
    if (!fs::exists(path, error)) {
        throw core::NotFound("the plan '" + path +
                             "' does not exist: expected a file that TensorRT's builder has made");
    }
    if (!fs::is_regular_file(path, error)) {
        throw core::InvalidArgument("the plan '" + path +
                                    "' is no file: expected one that TensorRT's builder has made");
    }
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw core::InvalidArgument("the plan '" + path + "' can't be opened: check its permissions");
    std::vector<std::byte> plan(static_cast<std::size_t>(file.tellg()));
    file.seekg(0);
    if (!file.read(static_cast<char*>(static_cast<void*>(plan.data())), static_cast<std::streamsize>(plan.size()))) {
        throw core::InvalidArgument("the plan '" + path + "' can't be read to its end, " + std::to_string(plan.size()) +
                                    " bytes: is it being written?");
    }
    return deserialize(plan, options);
}

std::shared_ptr<Engine> Runtime::adopt(void* engine, std::shared_ptr<void> owner, const std::string& name) {
    if (engine == nullptr) throw core::InvalidArgument("an ICudaEngine to adopt: expected one, got a null pointer");
    auto adopted = std::make_shared<Engine::State>();
    adopted->runtime = shared_from_this();
    adopted->owner = std::move(owner);
    adopted->handle = static_cast<abi::ICudaEngine*>(engine);
    state_->abi().check_made_here(adopted->handle, "ICudaEngine", *state_->library);
    adopted->name = name;
    const CurrentDevice current(state_->device);
    read(*adopted);
    return std::shared_ptr<Engine>(new Engine(std::move(adopted)));
}

}  // namespace trtlab::tensorrt
