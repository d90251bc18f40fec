#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "trtlab/core/pipeline.hpp"

namespace trtlab::core {

/// A C++ function as a `Model`: glue, a baseline, a fake engine in tests.
///
/// Threads: the function runs on worker threads of the model's own, up to `concurrency` at a time, and must be
/// thread-safe if that is above 1.
/// Errors: what the function throws reaches the future. Outputs that do not fit the declared spec become EngineError.
class [[gnu::visibility("default")]] FunctionModel final : public PipelineModel {
public:
    /// Takes inputs in the order of the spec, returns outputs in the order of the spec.
    using Function = std::function<std::vector<Tensor>(std::span<const Tensor> inputs)>;

    struct Options {
        std::size_t concurrency = 1;   ///< calls at the same time
        std::size_t max_queue = 1024;  ///< requests waiting
        std::chrono::nanoseconds queue_timeout = kQueueTimeout;
    };

    FunctionModel(ModelSpec spec, Function function, const Options& options);
    FunctionModel(ModelSpec spec, Function function) : FunctionModel(std::move(spec), std::move(function), Options{}) {}
    ~FunctionModel() override;

private:
    struct Impl;
    struct Request;
    static std::shared_ptr<Pipeline> make(ModelSpec spec, Function function, const Options& options);
};

}  // namespace trtlab::core
