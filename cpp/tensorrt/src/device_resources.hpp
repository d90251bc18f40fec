#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "trtlab/core/budget.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/thread_pool.hpp"
#include "trtlab/cuda/completion_queue.hpp"
#include "trtlab/cuda/device.hpp"
#include "trtlab/cuda/memory.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::tensorrt {

/// Makes `buffer` at least `size_bytes` long, and never empty, so that it has an address; the content is lost if it grows. `held` counts the bytes, for reports, also if
/// this throws.
void grow(core::Buffer& buffer, std::size_t size_bytes, const std::shared_ptr<core::MemoryResource>& memory,
          std::atomic<std::size_t>& held);

/// The right to compute: scratch memory for the one request that holds it, whatever its model.
struct Token {
    explicit Token(std::size_t index_) : index(index_) {}

    /// At least so much scratch memory; what was there before is lost if it grows. Only for the holder.
    core::BufferView reserve(std::size_t size_bytes, const std::shared_ptr<core::MemoryResource>& memory);

    const std::size_t index;
    core::Buffer activations;
    std::atomic<std::size_t> activation_bytes{0};  ///< of `activations`, for reports
};

/// A stream with memory on both sides, for one request at a time from its staging to its answer.
struct IoBuffer {
    IoBuffer(std::size_t index_, const cuda::Device& device);

    enum Point { kInputsBegin, kInputsEnd, kComputeBegin, kComputeEnd, kOutputsEnd, kPoints };
    /// Records a point of the request for `ModelStats`, if it is timed.
    void time(Point point, bool timed);
    std::chrono::nanoseconds between(Point from, Point to) const { return timing[to].elapsed_since(timing[from]); }

    const std::size_t index;
    const cuda::Stream stream;
    const cuda::Event computed, done;
    core::Buffer inputs, outputs;  ///< on the device
    core::Buffer pinned;           ///< inputs on their way there
    core::Buffer answer;           ///< pinned: small outputs on their way to where they stay
    core::Buffer host;             ///< what TensorRT reads and writes on the host: shape tensors
    std::vector<cuda::Event> timing;
    std::atomic<std::size_t> device_bytes{0}, pinned_bytes{0}, answer_bytes{0}, host_bytes{0};  ///< for reports
};

/// What all models on one GPU share that belong to one budget: a token for each execution, an IO buffer for each request that
/// is staged or executes, the thread that sees answers come, and threads that stage large inputs.
///
/// The budget sees to it that there is always a token for who launches and a buffer for who stages, so nobody waits here.
/// Threads: all members may be called from any thread.
class DeviceResources final : public core::BudgetResource {
public:
    /// Those of `budget` for `device`. Throws CudaError, EngineError.
    static std::shared_ptr<DeviceResources> of(core::ExecutionBudget& budget, const cuda::Device& device);

    DeviceResources(const cuda::Device& device, const core::ExecutionBudget::Options& limits);
    ~DeviceResources() override;

    IoBuffer& take_buffer() noexcept;
    void give_back(IoBuffer& buffer) noexcept;
    /// The token of the index that goes with the buffer, if it is free: the same pairs meet again, and find their graphs.
    Token& take_token(const IoBuffer& buffer) noexcept;
    void give_back(Token& token) noexcept;

    /// Requests between `take_token` and `give_back`.
    std::size_t executing() const noexcept { return executing_.load(std::memory_order_relaxed); }  // a hint
    std::size_t tokens() const noexcept { return tokens_.size(); }
    std::size_t buffers() const noexcept { return buffers_.size(); }

    std::vector<core::MemoryUse> memory() const override;

    const cuda::Device device;
    const std::shared_ptr<core::MemoryResource> device_memory, pinned_memory, host_memory;
    cuda::CompletionQueue completions;
    core::ThreadPool stagers;
    const bool may_spin;  ///< there are CPUs to spare for a caller who waits for an answer

private:
    std::vector<std::unique_ptr<Token>> tokens_;
    std::vector<std::unique_ptr<IoBuffer>> buffers_;
    std::atomic<std::size_t> executing_{0};
    mutable std::mutex mutex_;  // leaf: guards what follows
    std::vector<IoBuffer*> free_buffers_;
    std::vector<Token*> free_tokens_;  // by index; null: taken
};

}  // namespace trtlab::tensorrt
