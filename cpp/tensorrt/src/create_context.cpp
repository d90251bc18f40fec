#include <algorithm>

#include "context_state.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::tensorrt {
namespace {

using abi::VCudaEngine;
using abi::VExecutionContext;
using abi::VRuntimeConfig;

constexpr auto kUserManaged = abi::ExecutionContextAllocationStrategy::kUSER_MANAGED;

/// A context of TensorRT-RTX that uses the kernels which the engine's other contexts have compiled. Both null if it can't be
/// made; the configuration alone where the library has none.
struct Made {
    abi::Handle<abi::IRuntimeConfig> config;
    abi::Handle<abi::IExecutionContext> context;
};

Made make(Engine::State& engine, bool share_kernels) {
    const Library::Abi& abi = engine.abi();
    Made made;
    if (share_kernels && abi.has(VRuntimeConfig::createRuntimeCache)) {
        made.config.reset(abi.call(VCudaEngine::createRuntimeConfig, engine.handle));
    }
    if (!made.config) {
        made.context.reset(abi.call(VCudaEngine::createExecutionContext, engine.handle, kUserManaged));
        return made;
    }
    abi.call(VRuntimeConfig::setExecutionContextAllocationStrategy, made.config.get(), kUserManaged);
    if (!engine.kernels) engine.kernels.reset(abi.call(VRuntimeConfig::createRuntimeCache, made.config.get()));
    if (engine.kernels) abi.call(VRuntimeConfig::setRuntimeCache, made.config.get(), *engine.kernels);
    made.context.reset(
        abi.call(VCudaEngine::createExecutionContextWithRuntimeConfig, engine.handle, made.config.get()));
    return made;
}

}  // namespace

std::unique_ptr<ExecutionContext> Engine::create_context(const ContextOptions& options) {
    Runtime::State& runtime = state_->runtime_state();
    const std::lock_guard lock(runtime.one_at_a_time);
    const CurrentDevice current(runtime.device);
    Call call(runtime.log, Call::Reach::everywhere);
    Made made = make(*state_, options.share_kernels);
    if (!made.context) call.fail("an execution context of " + state_->what() + " could not be made" + state_->hint());
    auto context =
        std::make_unique<ExecutionContext::State>(shared_from_this(), std::move(made.config), std::move(made.context));
    // TensorRT gives profile 0 to the first context of an engine, and to others none.
    if (context->profile < 0 && state_->profiles > 0) {
        if (!context->ask(VExecutionContext::setOptimizationProfileAsync, 0, nullptr)) {
            call.fail("an execution context of " + state_->what() + " could not take profile 0" + state_->hint());
        }
        if (runtime.device) cuda::StreamView(*runtime.device, nullptr).synchronize();
        context->profile = 0;
    }
    if (state_->data_dependent == State::DataDependent::unknown) context->probe_data_dependence();
    return std::unique_ptr<ExecutionContext>(new ExecutionContext(std::move(context)));
}

std::unique_ptr<ExecutionContext> Engine::create_context() { return create_context(ContextOptions{}); }

ExecutionContext::State::State(std::shared_ptr<Engine> engine_, abi::Handle<abi::IRuntimeConfig> config_,
                               abi::Handle<abi::IExecutionContext> handle_)
    : engine(std::move(engine_)),
      abi(&engine->state()->abi()),
      config(std::move(config_)),
      handle(std::move(handle_)),
      tensors(engine->tensors().size()) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const TensorInfo& info = engine->tensors()[i];
        tensors[i].name = info.name.c_str();
        tensors[i].dynamic =
            info.input && std::any_of(info.shape.begin(), info.shape.end(), [](auto e) { return e < 0; });
        if (info.input && !tensors[i].dynamic) {
            tensors[i].shape = info.shape;
            tensors[i].shape_set = true;
        }
    }
    forget_shapes();
    profile = ask(VExecutionContext::getOptimizationProfile);
    ++its_engine().contexts;
}

ExecutionContext::State::~State() {
    destroy(handle, runtime().device);
    destroy(config, runtime().device);
    --its_engine().contexts;
}

void ExecutionContext::State::forget_shapes() noexcept {
    unset = 0;
    for (Tensor& tensor : tensors) {
        if (tensor.dynamic) {
            tensor.shape_set = false;
            ++unset;
        }
        if (tensor.address_needed) ++unset;
    }
}

void ExecutionContext::State::probe_data_dependence() {
    Call call(runtime().log);
    const auto& infos = engine->tensors();
    bool shapes_follow = true;
    for (std::size_t i = 0; i < tensors.size() && shapes_follow; ++i) {
        const TensorInfo& info = infos[i];
        if (!info.input) continue;
        if (tensors[i].dynamic) {
            shapes_follow = !info.profiles.empty() &&
                            ask(VExecutionContext::setInputShape, tensors[i].name, to_dims(info.profiles[0].opt));
        }
        if (!shapes_follow || !info.shape_input) continue;
        if (!info.on_host || !abi->has(VCudaEngine::getProfileTensorValuesV2) || info.profiles.empty()) {
            shapes_follow = false;
            break;
        }
        const std::int64_t* values = abi->call(VCudaEngine::getProfileTensorValuesV2, its_engine().handle,
                                               tensors[i].name, 0, abi::OptProfileSelector::kOPT);
        const std::size_t count = info.profiles[0].opt.elements();
        shapes_follow = values != nullptr && (info.dtype == core::DType::int64 || info.dtype == core::DType::int32);
        if (!shapes_follow) break;
        std::vector<std::int64_t>& kept = probe_values.emplace_back(values, values + count);
        if (info.dtype == core::DType::int32) {
            auto* narrow = static_cast<std::int32_t*>(static_cast<void*>(kept.data()));
            for (std::size_t k = 0; k < count; ++k) narrow[k] = static_cast<std::int32_t>(values[k]);
        }
        shapes_follow = ask(VExecutionContext::setTensorAddress, tensors[i].name, static_cast<void*>(kept.data()));
        if (!tensors[i].address_needed) ++unset;
        tensors[i].address_needed = true;
    }
    if (shapes_follow) {
        const char* missing = nullptr;
        shapes_follow = ask(VExecutionContext::inferShapes, 1, &missing) == 0;
    }
    if (shapes_follow) {
        bool depends = false;
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            if (infos[i].input) continue;
            const abi::Dims dims = ask(VExecutionContext::getTensorShape, tensors[i].name);
            depends =
                depends || dims.nbDims < 0 || std::any_of(dims.d, dims.d + dims.nbDims, [](auto e) { return e < 0; });
        }
        its_engine().data_dependent = depends ? Engine::State::DataDependent::yes : Engine::State::DataDependent::no;
    }
    // What could not be found out is found out with the first request; nobody has asked for this.
    call.forget();
}

}  // namespace trtlab::tensorrt
