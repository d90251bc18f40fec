#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "trtlab/core/model.hpp"

namespace trtlab::core {

/// One name, many models: the same model on several devices or hosts. A request goes to the replica that has the fewest
/// outstanding, the next in turn of those that have equally few; inputs in a GPU's memory go to a replica that reads it.
///
/// A replica whose queue is full is passed over for the next best; only when all are full does `infer` wait, for the least
/// loaded one. A replica that is closed, or whose device is lost, takes no more requests: `infer` goes on with the others,
/// and throws what ended the last one when there is none left. What the lost device had under way fails; it is not asked
/// again, because an answer may have had effects.
///
/// Owns: shares of the replicas. Destroying it lets go of them; `close` closes them, whoever else holds them.
/// Threads: all members may be called from any thread. Routing takes no lock.
/// Cost: the futures are the replicas' own; after warm-up nothing is allocated for a request.
class [[gnu::visibility("default")]] Replicas final : public Model {
public:
    static constexpr std::size_t kMaxReplicas = 64;

    /// Throws InvalidArgument unless there are 1 to `kMaxReplicas` models, none null or given twice, whose inputs and
    /// outputs agree in order, name, dtype and rank, and whose inputs have extents that all accept.
    Replicas(const std::string& name, std::vector<std::shared_ptr<Model>> models);
    ~Replicas() override;

    /// Inputs of extents that all replicas accept, in host memory or that of any GPU that a replica reads; outputs of
    /// extents that any replica may answer.
    const std::shared_ptr<const ModelSpec>& shared_spec() const noexcept override { return spec_; }

    using Model::infer;
    Future<Tensors> infer(std::span<const Tensor> inputs, const std::optional<WaitOptions>& queue_wait = {}) override;

    /// Closes every replica; if that fails for some, the others are closed all the same, and the first error is thrown.
    void close(Pending pending = Pending::drain) override;
    /// Closed here, or every replica by somebody else.
    bool closed() const noexcept override;
    /// The shortest of the replicas'.
    std::chrono::nanoseconds queue_timeout() const noexcept override;

    /// The sums of the replicas'.
    ModelStats stats() const noexcept override;
    /// "replicas", "healthy_replicas", "failovers" (requests that a replica refused before one took them), and the sums of
    /// what the replicas count.
    std::vector<std::pair<std::string, std::uint64_t>> counters() const override;
    /// What the replicas hold.
    std::vector<MemoryUse> memory() const override;
    /// Those of every healthy replica. If some fail, the others are done all the same, and the first error is thrown.
    void prefetch() override;
    void evict() override;

    const std::vector<std::shared_ptr<Model>>& models() const noexcept { return models_; }
    /// How many still take requests.
    std::size_t healthy() const noexcept;
    /// Requests that the replica at `index` was given and has not ended. Throws InvalidArgument if there is none.
    std::size_t outstanding(std::size_t index) const;

private:
    struct Load;
    struct Shared;
    class Outstanding;

    void check_open() const;
    std::uint64_t readers_of(std::span<const Tensor> inputs) const;
    std::optional<std::size_t> claim(std::uint64_t candidates) noexcept;
    std::optional<Future<Tensors>> attempt(std::size_t index, std::span<const Tensor> inputs, const WaitOptions& wait,
                                           std::exception_ptr& refusal);
    bool in_use(std::size_t index) const noexcept;
    std::vector<std::shared_ptr<Model>> models_in_use() const;

    const std::shared_ptr<const ModelSpec> spec_;
    const std::vector<std::shared_ptr<Model>> models_;
    const std::shared_ptr<Shared> shared_;  // with the callbacks of what is under way, which may outlive this
};

}  // namespace trtlab::core
