#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>

#include "trtlab/core/window_memory.hpp"
#include "trtlab/core/window_stream.hpp"
#include "trtlab/cuda/completion_queue.hpp"
#include "trtlab/cuda/fence.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::cuda {

/// The ring of a `core::WindowStream` in a GPU's memory. All copies are in one CUDA stream of its own and asynchronous: a
/// window is handed out while its bytes are still under way, with a fence (an `EventFence`) behind them, and
/// `Window::overwrite_after` takes one behind the work that reads it. No thread waits for either.
///
/// A write copies into pinned memory first: CUDA's own copy from pageable memory waits for the stream before it begins, and so
/// for whoever still reads the windows to be overwritten. What is in pinned or GPU memory already can be copied by its owner,
/// in a stream of his: `reserve`, let the stream wait for the reservation's fence, copy, `commit` with a fence of the stream.
/// Blocks: the destructor, until the ring's copies and the readers that it was told of are done.
class [[gnu::visibility("default")]] WindowMemory final : public core::WindowMemory {
public:
    /// A ring for `options`, from `memory` of that GPU; null: `DeviceMemory`. Throws InvalidArgument, OutOfMemory, CudaError,
    /// EngineError (no thread for the completions).
    WindowMemory(const Device& device, const core::WindowStream::Options& options,
                 std::shared_ptr<core::MemoryResource> memory = nullptr);
    ~WindowMemory() override;

    const StreamView& stream() const noexcept { return stream_; }

    void write(void* to, const void* from, std::size_t size_bytes) override;
    void replicate(void* to, const void* from, std::size_t size_bytes) override;
    std::size_t room() override;
    void call_when_room() override;
    core::Ref<const core::Fence> fence() override;
    bool knows(const core::Fence& fence) const noexcept override;
    void wait_for(const core::Fence& fence) override;

private:
    /// Part of the pinned memory: free, being copied to the GPU, or that and watched by `completions_`.
    struct Chunk final : Completion {
        enum State { free, copying, watched };
        void reached(int) noexcept override;
        WindowMemory* owner = nullptr;
        std::byte* data = nullptr;
        std::unique_ptr<Event> copied;
        std::atomic<State> state{free};
    };

    Stream stream_;
    EventFences fences_;
    core::Buffer staging_;
    std::size_t chunk_bytes_;
    std::array<Chunk, 8> chunks_;
    std::size_t next_ = 0;         // takes turns
    CompletionQueue completions_;  // last: its destructor waits for the chunks that it watches
};

}  // namespace trtlab::cuda
