#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/memory.hpp"
#include "trtlab/core/spec.hpp"
#include "trtlab/core/tensor.hpp"
#include "trtlab/tensorrt/runtime.hpp"

namespace trtlab::tensorrt {

class ExecutionContext;

/// The shapes that one optimization profile takes of one input.
struct ProfileShape {
    core::Shape min, opt, max;
};

/// What an engine says of one of its inputs or outputs.
struct TensorInfo {
    std::string name;
    bool input = false;
    core::DType dtype = core::DType::float32;  ///< valid if `type_known`
    bool type_known = true;                    ///< false: a type that trtlab has no dtype for (int4, fp4, e8m0)
    int type_number = 0;                       ///< TensorRT's number of the type
    core::Shape shape;                         ///< -1 for what is dynamic
    bool linear = true;                        ///< row-major, and nothing vectorised
    std::string format;                        ///< in TensorRT's words: "Row major linear FP32"
    bool on_host = false;                      ///< TensorRT reads or writes it in host memory (shape tensors)
    bool shape_input = false;                  ///< its values decide about shapes: they are needed before the launch
    std::vector<ProfileShape> profiles;        ///< of an input: one for each profile
};

/// A network that was compiled for a GPU: weights, and what can be asked about it. Executes through contexts.
///
/// Owns: TensorRT's engine, and a share of the runtime.
/// Threads: all members may be called from any thread.
class [[gnu::visibility("default")]] Engine : public std::enable_shared_from_this<Engine> {
public:
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;
    ~Engine();

    const std::string& name() const noexcept;  ///< as given to `deserialize`, or the engine's own
    const std::shared_ptr<Runtime>& runtime() const noexcept;
    const std::vector<TensorInfo>& tensors() const noexcept;  ///< inputs first, in TensorRT's order
    /// Throws NotFound, listing the names there are.
    const TensorInfo& tensor(std::string_view name) const;
    int profile_count() const noexcept;
    int layer_count() const noexcept;
    int aux_streams() const noexcept;
    bool refittable() const noexcept;
    /// What the weights occupy: what TensorRT allocated while it deserialized. 0 for an adopted engine.
    std::size_t weights_bytes() const noexcept;
    /// Where they are, block by block; for prefetching those in managed memory.
    std::vector<core::BufferView> weights() const;
    /// Scratch memory that any shape of the profile needs at the most; of profile -1: of any profile.
    std::size_t activation_bytes(int profile = -1) const;
    /// Whether shapes of an output are known only once it is computed. Where shapes are dynamic TensorRT can tell only when
    /// there is a context: false before the first.
    bool data_dependent() const noexcept;

    /// Weights that may be streamed from the host; 0 if the engine was not built for it.
    std::size_t streamable_weights_bytes() const;
    /// How much of them may lie on the GPU; set it before there are contexts. Throws InvalidArgument (not built for it, or
    /// contexts exist), EngineError.
    void set_weight_streaming_budget(std::size_t size_bytes);
    std::size_t weight_streaming_budget() const;
    /// What TensorRT would choose for the memory that is free now.
    std::size_t automatic_weight_streaming_budget() const;

    /// Layers, formats, tactics as JSON, as far as the plan was built to tell. Throws EngineError.
    std::string describe() const;
    /// The plan again. Throws EngineError.
    std::vector<std::byte> serialize() const;

    /// The spec of a model: dtypes, and for every input the extents that some profile takes. `max_batch_size` is that of the
    /// leading axis if it is dynamic in all inputs. Throws InvalidArgument, naming the tensor, for what can't be served: an
    /// element type without a dtype, a format that is not linear, a rank above core::kMaxRank.
    core::ModelSpec model_spec(const std::string& model_name) const;

    struct ContextOptions {
        /// Shares compiled kernels among the contexts of an engine (TensorRT-RTX, which compiles when a context is made);
        /// ignored elsewhere.
        bool share_kernels = true;
    };
    /// A context whose scratch memory its user brings (`set_activation_memory`). TensorRT-RTX compiles for the GPU here: up to
    /// seconds. Calls are made one after another. Throws EngineError, OutOfMemory.
    std::unique_ptr<ExecutionContext> create_context(const ContextOptions& options);
    std::unique_ptr<ExecutionContext> create_context();

    struct State;  ///< private to the layer
    const std::shared_ptr<State>& state() const noexcept { return state_; }

private:
    friend class Runtime;
    explicit Engine(std::shared_ptr<State> state);
    std::shared_ptr<State> state_;
};

}  // namespace trtlab::tensorrt
