#pragma once

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "trtlab/core/budget.hpp"
#include "trtlab/core/future.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/model_stats.hpp"
#include "trtlab/core/spec.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// What `infer` waits for room in a full queue, where nothing else is said.
inline constexpr std::chrono::nanoseconds kQueueTimeout = std::chrono::seconds(60);

/// Everything that can be asked for an answer: a model on an engine, a function, a remote server, a composition.
///
/// Threads: all members may be called from any thread, at the same time.
class [[gnu::visibility("default")]] Model {
public:
    Model() = default;
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;
    virtual ~Model();

    /// Valid as long as the model; shared, so that answers may outlive it.
    const ModelSpec& spec() const noexcept { return *shared_spec(); }
    virtual const std::shared_ptr<const ModelSpec>& shared_spec() const noexcept = 0;

    /// Asks for an answer. `inputs` are in the order of `spec().inputs`; their memory is read until the future is
    /// ready, and kept alive that long if they have an owner.
    ///
    /// Blocks: never for the answer; for room in a full queue as `queue_wait` says (default: `queue_timeout()`). Throws
    /// InvalidArgument (count, dtype, rank, extent), Overloaded, Closed. What happens later
    /// reaches the future.
    virtual Future<Tensors> infer(std::span<const Tensor> inputs,
                                  const std::optional<WaitOptions>& queue_wait = {}) = 0;

    /// The same by name, in any order. Throws InvalidArgument on a missing or repeated name, NotFound on an unknown one.
    Future<Tensors> infer(std::initializer_list<std::pair<std::string_view, Tensor>> inputs,
                          const std::optional<WaitOptions>& queue_wait = {});

    /// Refuses new requests from now on, and waits for those accepted to end one way or the other. Idempotent. Must
    /// not be called from a callback of this model's own futures.
    virtual void close(Pending pending = Pending::drain) = 0;
    virtual bool closed() const noexcept = 0;

    /// How long `infer` waits for room in a full queue unless told otherwise.
    virtual std::chrono::nanoseconds queue_timeout() const noexcept { return kQueueTimeout; }

    /// Counts and times since the model was made.
    virtual ModelStats stats() const noexcept = 0;

    /// What an engine counts beyond `stats`, by name: "graph_hits", ...
    virtual std::vector<std::pair<std::string, std::uint64_t>> counters() const { return {}; }

    /// The memory that the model holds for itself; what it shares with others is the budget's (`ExecutionBudget::memory`).
    virtual std::vector<MemoryUse> memory() const { return {}; }

    /// Weights in managed memory: has them brought to the GPU, or taken off it to make room for others. Returns when they
    /// are there. A model that was evicted still answers: what it needs comes back as it is touched. Throws InvalidArgument
    /// for a model whose weights do not move.
    virtual void prefetch();
    virtual void evict();
};

/// Throws InvalidArgument unless `inputs` are what `spec` asks for.
void check_inputs(const ModelSpec& spec, std::span<const Tensor> inputs);

}  // namespace trtlab::core
