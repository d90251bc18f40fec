#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "abi.hpp"
#include "runtime_state.hpp"
#include "trtlab/tensorrt/engine.hpp"

namespace trtlab::tensorrt {

struct Engine::State {
    State() = default;
    ~State();
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    Runtime::State& runtime_state() const noexcept { return *runtime->state(); }
    const Library::Abi& abi() const noexcept { return runtime_state().abi(); }
    /// "engine 'resnet' of TensorRT-RTX 1.4.0 on cuda:0"
    std::string what() const { return "engine '" + name + "' of " + runtime_state().where(); }
    /// Why a call that failed may have no words: an adopted engine's go to the logger of whoever made it.
    std::string hint() const { return owned ? "" : " (it was adopted: its own logger has the reason)"; }

    std::shared_ptr<Runtime> runtime;
    std::shared_ptr<void> owner;  ///< of an adopted engine
    abi::ICudaEngine* handle = nullptr;
    abi::Handle<abi::ICudaEngine> owned;  ///< null if adopted
    /// TensorRT-RTX's compiled kernels, shared by contexts; made with the first.
    abi::Handle<abi::IRuntimeCache> kernels;
    std::shared_ptr<Weights> weights;

    std::string name;
    std::vector<TensorInfo> tensors;
    int profiles = 0;
    int layers = 0;
    int aux_streams = 0;
    bool refittable = false;
    std::atomic<int> contexts = 0;

    /// Only a context can tell of some engines whether an output's shape depends on data; the first one does.
    enum class DataDependent { no, yes, unknown };
    std::atomic<DataDependent> data_dependent = DataDependent::no;
};

/// Asks the engine everything that is asked once. `handle` and `runtime` are set. Throws EngineError.
void read(Engine::State& engine);

core::Shape to_shape(const abi::Dims& dims);
abi::Dims to_dims(const core::Shape& shape);

}  // namespace trtlab::tensorrt
