#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "device_resources.hpp"
#include "graph_cache.hpp"
#include "shape_plan.hpp"
#include "trtlab/tensorrt/engine.hpp"
#include "trtlab/tensorrt/execution_context.hpp"

namespace trtlab::tensorrt {

/// What TensorRT writes on the host is a shape: 64 elements of 8 bytes are more than any has.
inline constexpr std::size_t kMostHostOutputBytes = 512;

/// Puts the computation of one model into streams: a context for every token and profile, made when it is first needed, and
/// the graphs captured from it.
/// Threads: `launch` and `plan` by who holds the token given; the rest from any thread.
class Launcher {
public:
    struct Options {
        bool graphs = true;
        std::size_t max_graphs = 128;
    };
    Launcher(std::shared_ptr<Engine> engine, std::shared_ptr<DeviceResources> resources, const Options& options);

    const Engine& engine() const noexcept { return *engine_; }

    /// What follows from the inputs' shapes, if that was worked out before.
    std::shared_ptr<const ShapePlan> find_plan(std::span<const core::Tensor> inputs,
                                               std::span<const std::int64_t> values) const {
        return plans_.find(inputs, values);
    }
    /// The same, worked out with the token's context if it was not. `addresses`: of the inputs; those on the host are read.
    std::shared_ptr<const ShapePlan> plan(const Token& token, std::span<const core::Tensor> inputs,
                                          std::span<const std::int64_t> values, std::span<void* const> addresses,
                                          const cuda::StreamView& stream);

    /// Where an execution reads and writes.
    struct Binding {
        std::shared_ptr<const ShapePlan> plan;
        std::span<void* const>
            addresses;  ///< of all tensors, in the engine's order; of the scratch memory; and `fetch_to`
        std::span<OutputMemory* const>
            output_memory;  ///< of the outputs whose size only the computation tells, or empty
        /// Copied behind the computation, and by the graph if there is one: a small answer on its way to the host.
        const void* fetch_from = nullptr;
        std::size_t fetch_bytes = 0;
    };
    /// Whether launches are worth a graph at all. Inputs are then best at addresses that come again, an IO buffer's: copying
    /// there takes microseconds, launching without a graph hundreds.
    bool makes_graphs() const noexcept { return options_.graphs && !host_outputs_ && !engine_->data_dependent(); }
    /// Puts an execution into `stream`, by replaying a graph if there is one. Throws EngineError, CudaError, OutOfMemory: the
    /// stream may then hold a part of it.
    void launch(const Token& token, const Binding& binding, core::BufferView activations,
                const cuda::StreamView& stream);

    /// A context of every profile for every token. Blocks.
    void make_contexts();
    /// Compiles whatever the engine compiles late, on the contexts of all tokens: runs on zeros in memory of its own. Blocks.
    /// Before there are requests.
    void warm_up(std::span<const core::Tensor> inputs);

    struct Counts {
        std::uint64_t hits = 0, misses = 0, captures = 0, refused = 0, graphs = 0, contexts = 0;
    };
    Counts counts() const noexcept;

private:
    /// A context with what is set in it: nothing is set twice.
    struct Lane {
        Lane(std::unique_ptr<ExecutionContext> context_, std::size_t most_graphs, std::atomic<std::uint64_t>& dropped)
            : context(std::move(context_)), graphs(most_graphs, dropped) {}
        std::unique_ptr<ExecutionContext> context;
        GraphCache graphs;
        std::shared_ptr<const ShapePlan> shapes;  ///< that are set
        bool ran = false;                         ///< with these shapes
        bool allocates = false;                   ///< outputs have a memory that they ask
        std::vector<void*> addresses;             ///< that are set
    };
    Lane& lane(std::size_t token, int profile, const cuda::StreamView& stream);
    void put(Lane& lane, const Binding& binding, const cuda::StreamView& stream);
    void set_shapes(Lane& lane, const std::shared_ptr<const ShapePlan>& plan, std::span<void* const> addresses);
    void bind(Lane& lane, const Binding& binding, core::BufferView activations);
    void capture(GraphCache::Entry& entry, Lane& lane, const Binding& binding, const cuda::StreamView& stream);
    void run_on_zeros(std::size_t token, std::span<const core::Tensor> inputs, const cuda::StreamView& stream);
    const std::shared_ptr<Engine> engine_;
    const std::shared_ptr<DeviceResources> resources_;
    const Options options_;
    const bool host_outputs_;  ///< TensorRT writes some on the host while it enqueues: a graph would leave that out
    std::vector<std::vector<std::unique_ptr<Lane>>> lanes_;  // [token][profile]; an entry belongs to the token's holder
    ShapePlans plans_;
    std::atomic<std::uint64_t> hits_{0}, misses_{0}, captures_{0}, refused_{0}, dropped_{0},
        contexts_{0};  // for reports
};

}  // namespace trtlab::tensorrt
