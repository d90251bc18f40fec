#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "trtlab/core/budget.hpp"
#include "trtlab/core/pipeline.hpp"
#include "trtlab/openvino/library.hpp"

namespace trtlab::openvino {

struct ModelSource;

/// A model on the CPU (or another device of OpenVINO's): ONNX, or OpenVINO's IR.
///
/// One lane, a thread with an infer request of its own, stands for each execution token, and is made when so many
/// requests execute at the same time for the first time. A lane computes: it calls OpenVINO's synchronous inference.
/// OpenVINO's asynchronous one is not used, since the callback of its C API cannot tell a success from a failure, and
/// since it takes the request through two more threads.
///
/// Inputs are read where they are if they are contiguous and aligned to their element's size, and copied when they are
/// staged otherwise; byte strings are always copied. Outputs are in memory of OpenVINO's that their tensors own and
/// that is used again when the last of them is gone.
///
/// Types: OpenVINO computes int64 and uint64 as int32, and float64 as float32. An input element that does not fit in
/// int32 is refused with InvalidArgument (in the future); results are the model's affair.
/// State: a model with variables (`ReadValue`) starts each request from their initial values. State that is to last goes
/// through inputs and outputs.
/// Threads: all members may be called from any thread. Destroying a busy runner cancels what waits and lets what
/// executes finish. In a forked child every call throws Closed.
/// Errors: what OpenVINO reports reaches the future as EngineError, in its words, with the model's name.
/// Cost: no heap allocation of ours per request after warm-up; OpenVINO's own are some 50.
class [[gnu::visibility("default")]] Runner final : public core::PipelineModel {
public:
    struct Options {
        std::string name = {};       ///< of the model in its spec and in messages; required
        std::string device = "CPU";  ///< one of `Library::devices()`, or one of OpenVINO's virtual ones
        /// Requests that OpenVINO computes side by side, each on its share of the threads. 0: the budget's
        /// `max_executions`, capped by the CPUs. Without a shared budget: 2, or a quarter of the CPUs if that is
        /// more, which is where OpenVINO's own setting for throughput ends too; 1 on a single CPU.
        std::size_t streams = 0;
        /// Threads of all streams together. 0: the CPUs that this process may use (affinity and cgroup quota).
        std::size_t threads = 0;
        /// What OpenVINO computes float32 in: "f32", "bf16", "f16", or "" for its own choice, which on CPUs with AMX is
        /// bf16: faster, with some 3 significant digits.
        std::string precision = "f32";
        std::size_t max_queue = 1024;                                  ///< requests waiting, without a shared budget
        std::chrono::nanoseconds queue_timeout = core::kQueueTimeout;  ///< what `infer` waits for room in the queue
        std::shared_ptr<core::ExecutionBudget> budget = {};  ///< shared with other models; null: one of its own
        std::map<std::string, std::string> properties =
            {};  ///< of OpenVINO's plugin, over those above: {"ENABLE_CPU_PINNING", "YES"}
    };

    /// Reads and compiles the file: ONNX (its external data beside it), or IR (`x.xml` with `x.bin` beside it). Blocks
    /// for tens of milliseconds to minutes. Throws NotFound (no such file), InvalidArgument (not a model, no name, more
    /// than 8 dimensions), EngineError (OpenVINO can't run it).
    static std::shared_ptr<Runner> load(const std::shared_ptr<Library>& library, const std::string& path,
                                        const Options& options);

    /// The same from memory, which is not needed any more when this returns. `weights` is IR's `.bin`.
    static std::shared_ptr<Runner> load_from_memory(const std::shared_ptr<Library>& library,
                                                    std::span<const std::byte> model, const Options& options,
                                                    std::span<const std::byte> weights = {});

    const std::shared_ptr<core::ExecutionBudget>& budget() const noexcept;
    /// A property of the compiled model in OpenVINO's words: "NUM_STREAMS", "INFERENCE_NUM_THREADS", ... Throws
    /// EngineError.
    std::string property(const std::string& key) const;

private:
    struct Impl;
    struct Request;
    static std::shared_ptr<Runner> make(const std::shared_ptr<Library>& library, const ModelSource& source,
                                        const Options& options);
    explicit Runner(std::shared_ptr<Impl> impl);
};

}  // namespace trtlab::openvino
