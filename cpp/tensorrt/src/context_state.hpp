#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "abi.hpp"
#include "engine_state.hpp"
#include "output_allocator.hpp"
#include "trtlab/tensorrt/execution_context.hpp"

namespace trtlab::tensorrt {

struct ExecutionContext::State {
    State(std::shared_ptr<Engine> engine_, abi::Handle<abi::IRuntimeConfig> config_,
          abi::Handle<abi::IExecutionContext> handle_);
    ~State();
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    /// One of the engine's tensors as this context has it.
    struct Tensor {
        const char* name = nullptr;  ///< the engine's, terminated, as TensorRT wants it
        bool dynamic = false;        ///< an input whose shape must be set
        bool shape_set = false;
        bool address_needed = false;  ///< its address is one that this layer has set for itself
        core::Shape shape;            ///< valid if `shape_set`
        std::unique_ptr<OutputAllocator> output;
    };

    Engine::State& its_engine() const noexcept { return *engine->state(); }
    Runtime::State& runtime() const noexcept { return its_engine().runtime_state(); }
    std::string what() const { return its_engine().what(); }
    /// Throws InvalidArgument if there is no such tensor.
    const TensorInfo& info(std::size_t tensor) const;
    /// "engine 'e' of ...: input 'x'"
    std::string what(std::size_t tensor) const;
    void forget_shapes() noexcept;
    /// Throws EngineError, naming the inputs that are still to be set.
    void check_inputs() const {
        if (unset != 0) [[unlikely]]
            throw_unset();
    }
    [[noreturn]] void throw_unset() const;
    void check_stream(const cuda::StreamView& stream) const;
    /// Finds out with the shapes that the profile is optimised for whether an output's shape depends on data.
    void probe_data_dependence();

    template <class Method, class... Arguments>
    auto ask(const Method& method, Arguments&&... arguments) const {
        return abi->call(method, handle.get(), std::forward<Arguments>(arguments)...);
    }

    const std::shared_ptr<Engine> engine;
    const Library::Abi* const abi;
    abi::Handle<abi::IRuntimeConfig> config;
    abi::Handle<abi::IExecutionContext> handle;
    std::vector<Tensor> tensors;
    std::size_t unset = 0;  ///< shapes and addresses without which nothing can be enqueued
    int profile = 0;
    /// Of scratch memory, where TensorRT is not told (10.0) and can't check it itself.
    std::optional<std::size_t> checked_scratch_bytes;
    std::vector<std::vector<std::int64_t>> probe_values;  ///< what TensorRT may still point to
    Profiler profiler;
};

}  // namespace trtlab::tensorrt
