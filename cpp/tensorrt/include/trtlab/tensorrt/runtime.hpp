#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "trtlab/core/memory.hpp"
#include "trtlab/cuda/device.hpp"
#include "trtlab/tensorrt/library.hpp"

namespace trtlab::tensorrt {

class Engine;

/// As TensorRT numbers them.
enum class Severity : std::int32_t { internal_error, error, warning, info, verbose };

/// Receives TensorRT's log lines, from any thread, in the middle of the call that they are about. Must not throw, and must not
/// make an engine or a context.
using LogLine = std::function<void(Severity severity, std::string_view message)>;

/// TensorRT's runtime on one GPU: makes engines of plans.
///
/// Errors: TensorRT reports why a call failed to its logger; the lines that a failing call logged stand in what it throws.
/// Owns: TensorRT's object, its logger and allocator. Engines keep it alive.
/// Threads: all members may be called from any thread. `deserialize` calls are made one after another.
class [[gnu::visibility("default")]] Runtime : public std::enable_shared_from_this<Runtime> {
public:
    struct Options {
        /// Where TensorRT's device memory comes from; of cuda:<device>. Null: cudaMalloc.
        std::shared_ptr<core::MemoryResource> memory = {};
        /// Lines from this severity up go to `log`; errors also when it is unset, then to core::log.
        Severity log_severity = Severity::warning;
        LogLine log = {};
        /// Whether plans may bring code for the host (version-compatible plans, plug-ins inside a plan). Only for plans
        /// that are trusted: it is run.
        bool host_code_allowed = false;
        int max_threads = 0;  ///< that TensorRT may use; 0: its own choice
    };

    /// Throws EngineError (with TensorRT's words), CudaError. `device` must stay usable as long as the runtime.
    static std::shared_ptr<Runtime> create(std::shared_ptr<const Library> library, const cuda::Device& device,
                                           const Options& options);
    /// A runtime of a machine without a GPU: TensorRT-RTX makes one, and says of plans whether they are whole. TensorRT
    /// refuses (EngineError).
    static std::shared_ptr<Runtime> create_without_device(std::shared_ptr<const Library> library,
                                                          const Options& options);
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;
    ~Runtime();

    const std::shared_ptr<const Library>& library() const noexcept;
    /// Throws InvalidArgument without one.
    const cuda::Device& device() const;
    int max_threads() const noexcept;
    /// Device memory that TensorRT has allocated and that is no engine's weights: what contexts keep besides their scratch
    /// memory.
    std::size_t other_bytes() const noexcept;

    struct DeserializeOptions {
        std::string name = {};  ///< for messages: the model's, or the file's
        /// Where the weights lie: what TensorRT allocates during this call comes from here, and not from the runtime's
        /// memory. Null: the runtime's.
        std::shared_ptr<core::MemoryResource> weights = {};
    };
    /// Makes an engine of a plan, which is not needed any more when this returns. Blocks for milliseconds to seconds.
    /// Throws InvalidArgument (not a plan, or a damaged one), EngineError (a plan of another version or another GPU, in
    /// TensorRT's words), OutOfMemory (what was asked for).
    std::shared_ptr<Engine> deserialize(std::span<const std::byte> plan, const DeserializeOptions& options);
    std::shared_ptr<Engine> deserialize(std::span<const std::byte> plan) {
        return deserialize(plan, DeserializeOptions{});
    }
    /// The same from a file. Throws NotFound too.
    std::shared_ptr<Engine> load(const std::string& path, DeserializeOptions options);
    std::shared_ptr<Engine> load(const std::string& path) { return load(path, DeserializeOptions{}); }

    /// Takes an `nvinfer1::ICudaEngine*` that somebody else made with the same library, and keeps `owner`, which keeps it
    /// alive. It is not destroyed here, and logs to the logger that it was made with. Throws InvalidArgument if it is
    /// null, or no object of this library's.
    std::shared_ptr<Engine> adopt(void* engine, std::shared_ptr<void> owner, const std::string& name = {});

    struct State;  ///< private to the layer
    const std::shared_ptr<State>& state() const noexcept { return state_; }

private:
    explicit Runtime(std::shared_ptr<State> state);
    std::shared_ptr<State> state_;
};

}  // namespace trtlab::tensorrt
