#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/memory.hpp"
#include "trtlab/core/tensor.hpp"
#include "trtlab/cuda/stream.hpp"
#include "trtlab/tensorrt/engine.hpp"

namespace trtlab::tensorrt {

/// Memory for an output whose size TensorRT knows only while it computes.
class [[gnu::visibility("default")]] OutputMemory {
public:
    virtual ~OutputMemory();
    /// At least `size_bytes` bytes on the device, aligned to 256, for work in `stream`. Null if there are none: the enqueue
    /// then fails. Called by TensorRT, from `enqueue` and from threads of its own.
    virtual void* reserve(std::string_view tensor, std::size_t size_bytes, std::size_t alignment,
                          cuda::StreamHandle stream) noexcept = 0;
    /// The shape that came out.
    virtual void shape_known(std::string_view tensor, const core::Shape& shape) noexcept = 0;
};

/// How long a layer took.
struct LayerTime {
    std::string layer;
    float milliseconds = 0;
};

/// One execution at a time of an engine: shapes, addresses, scratch memory.
///
/// Tensors are named by their position in `Engine::tensors()`: nothing is looked up by name on the way to the GPU.
/// Errors: EngineError with TensorRT's log lines of the failing call, and the names of engine and tensor.
/// Threads: one at a time.
class [[gnu::visibility("default")]] ExecutionContext {
public:
    ExecutionContext(const ExecutionContext&) = delete;
    ExecutionContext& operator=(const ExecutionContext&) = delete;
    ~ExecutionContext();

    const std::shared_ptr<Engine>& engine() const noexcept;

    int profile() const;
    /// Switches to another profile; what is in `stream` may still use the old one.
    void set_profile(int profile, const cuda::StreamView& stream);

    /// Throws InvalidArgument naming the tensor, the dimension, got and min/opt/max of the profile.
    void set_input_shape(std::size_t tensor, const core::Shape& shape);
    /// As it follows from the inputs' shapes; -1 where the values decide.
    core::Shape shape(std::size_t tensor) const;
    /// Works the outputs' shapes out. Throws EngineError naming inputs that are still to be set.
    void infer_shapes();

    void set_address(std::size_t tensor, void* address);
    /// Null takes it away.
    void set_output_memory(std::size_t tensor, OutputMemory* memory);
    /// Bytes at the most that the output takes for the shapes set.
    std::size_t max_output_bytes(std::size_t tensor) const;

    /// Scratch memory that the shapes set need.
    std::size_t activation_bytes();
    /// Must stay until what is enqueued is done. Throws InvalidArgument if it is not aligned to 256 bytes.
    void set_activation_memory(const core::BufferView& memory);

    /// Recorded when the inputs may be written again. Null: none.
    void set_input_consumed_event(const cuda::Event* event);
    void set_aux_streams(std::span<const cuda::StreamView> streams);

    /// Puts the computation into `stream`. Returns when the host's part is done. Throws EngineError, OutOfMemory (an output
    /// whose memory could not be had).
    void enqueue(const cuda::StreamView& stream);
    /// Whether `enqueue` into the stream can be captured; true where TensorRT can't tell.
    bool capturable(const cuda::StreamView& stream) const;
    /// Records `enqueue` as a graph, and what `behind` puts into the stream after it, such as copies of outputs. Everything that
    /// is set is fixed in it. Throws EngineError, CudaError, and what `behind` throws: the stream is then as it was before.
    cuda::Graph capture(const cuda::StreamView& stream, const std::function<void()>& behind = {});

    /// Runs once with TensorRT's profiler: how long each layer took. Blocks. Throws EngineError.
    std::vector<LayerTime> profile_layers(const cuda::StreamView& stream);

    struct State;  ///< private to the layer

private:
    friend class Engine;
    explicit ExecutionContext(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace trtlab::tensorrt
