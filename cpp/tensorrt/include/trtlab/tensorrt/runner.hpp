#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "trtlab/core/budget.hpp"
#include "trtlab/core/pipeline.hpp"
#include "trtlab/cuda/device.hpp"
#include "trtlab/cuda/stream.hpp"
#include "trtlab/tensorrt/engine.hpp"
#include "trtlab/tensorrt/library.hpp"
#include "trtlab/tensorrt/runtime.hpp"

namespace trtlab::tensorrt {

/// A TensorRT engine on one GPU as a `Model`: staging, streams, contexts, graphs and completion are its business.
///
/// A request takes an IO buffer (a stream with memory on both sides), has its inputs copied to the GPU, takes an execution
/// token (scratch memory, and a context of every model), is computed, and has its outputs copied to where the answer wants
/// them. Copies of one request overlap the computation of others, since each is in the stream of its own buffer. Nobody waits
/// for a request but one thread a device, which polls events.
///
/// Inputs: host memory (copied through pinned memory unless it is pinned), or memory of this GPU, which must be contiguous: it
/// is copied on the GPU, or, without graphs, read in place if it is aligned to 256 bytes. The GPU waits for their fences; an
/// input that the host makes dense, or whose values decide about shapes, may have none. Outputs: host memory, or memory of this
/// GPU (`Options::outputs`), that their tensors own and that is used again when the last of them is gone.
/// Shapes: each request's shapes pick the profile whose optimum is nearest; shapes that no profile takes are refused at once.
/// Graphs: what is launched a second time with the same shapes and addresses is captured and from then on replayed.
/// Cancelling: until the request is launched, or the GPU begins to copy from the caller's own (pinned or device) memory.
/// Threads: all members may be called from any thread. Destroying a busy runner cancels what waits and lets what
/// executes finish.
/// Errors: TensorRT's words reach the future as EngineError, CUDA's as CudaError. A device that CUDA declares lost fails the
/// requests under way and every later one, and nothing else.
/// Cost: no heap allocation of ours per request after warm-up.
class [[gnu::visibility("default")]] Runner final : public core::PipelineModel {
public:
    /// The shape of each input, by name.
    using Shapes = std::map<std::string, core::Shape>;

    enum class Weights {
        device,   ///< in the GPU's memory
        managed,  ///< in managed memory: more models than fit; `prefetch` and `evict` move them
    };
    enum class Outputs { host, device };

    struct Options {
        std::string name = {};  ///< of the model in its spec and in messages; required
        std::shared_ptr<core::ExecutionBudget> budget =
            {};  ///< of this device; null: one of its own, with 2 executions
        std::chrono::nanoseconds queue_timeout = core::kQueueTimeout;
        Outputs outputs = Outputs::host;
        bool graphs = true;
        /// Kept, of all shapes and tokens together, but one for each token and profile in any case; the least recently used
        /// goes first.
        std::size_t max_graphs = 128;
        /// Shapes that are run on every context before the model is ready: TensorRT-RTX compiles for a shape when it first
        /// sees it. Empty: the static shapes, or the optimum of every profile.
        std::vector<Shapes> warm_up = {};
        bool skip_warm_up = false;
        Weights weights = Weights::device;
        /// Bytes of weights that stay on the GPU, of an engine built for weight streaming.
        std::optional<std::size_t> weight_streaming_budget = {};
        /// Have the device time copies and computation (`ModelStats::h2d`, ...): costs some microseconds a request.
        bool timing = false;
        /// Whether plans may run code of their own on the host; see `Runtime::Options`.
        bool host_code_allowed = false;
    };

    /// Loads a plan. Blocks until the model is warm: milliseconds to minutes. Throws NotFound, InvalidArgument (not a plan; no
    /// name; shapes to warm up that no profile takes; tensors that can't be served), EngineError, OutOfMemory, CudaError.
    static std::shared_ptr<Runner> load(const std::shared_ptr<const Library>& library, const cuda::Device& device,
                                        const std::string& path, const Options& options);
    /// The same from memory, which is not needed any more when this returns.
    static std::shared_ptr<Runner> load_from_memory(const std::shared_ptr<const Library>& library,
                                                    const cuda::Device& device, std::span<const std::byte> plan,
                                                    const Options& options);
    /// Serves an engine that exists; its weights and its profiles are as they are.
    static std::shared_ptr<Runner> serve(std::shared_ptr<Engine> engine, const Options& options);

    ~Runner() override;

    const std::shared_ptr<Engine>& engine() const noexcept;
    const std::shared_ptr<core::ExecutionBudget>& budget() const noexcept;

    /// "graph_hits", "graph_misses" (launches without a graph), "graph_captures", "graphs_refused" (captures that failed),
    /// "graphs" (kept now), "contexts", "inputs_in_place", "inputs_copied", "device_lost".
    std::vector<std::pair<std::string, std::uint64_t>> counters() const override;
    std::vector<core::MemoryUse> memory() const override;
    void prefetch() override;
    void evict() override;

private:
    struct Impl;
    struct Request;
    static std::shared_ptr<Runner> make(
        const std::shared_ptr<const Library>& library, const cuda::Device& device, const Options& options,
        const std::function<std::shared_ptr<Engine>(Runtime&, const Runtime::DeserializeOptions&)>& deserialize);
    explicit Runner(std::shared_ptr<Impl> impl);
    Impl& pipeline_impl() const noexcept;
    void move_weights(void (*move)(const core::BufferView&, const cuda::StreamView&));
};

}  // namespace trtlab::tensorrt
