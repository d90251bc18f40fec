#pragma once

#include "trtlab/core/recycler.hpp"
#include "trtlab/core/tensor.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::cuda {

/// A tensor's fence in CUDA's terms: its memory may be read by what waits for an event. Put it on inputs in GPU memory
/// that are still being written: `tensor.set_fence(EventFence::record(stream))`; the model's stream then waits, and no host
/// thread does.
/// Owns: the event.
/// Threads: the event is recorded before the fence is handed out, and not changed while anybody holds it.
class [[gnu::visibility("default")]] EventFence final : public core::Recycled<EventFence, core::Fence> {
public:
    /// Throws CudaError.
    explicit EventFence(const Device& device) : event_(device) {}
    ~EventFence() override;

    /// A fence of its own at the present end of `stream`. Throws CudaError. For one at each request: `EventFences`.
    static core::Ref<const EventFence> record(const StreamView& stream);

    const Event& event() const noexcept { return event_; }

    /// For the recycler. A stream that was told to wait for the event waits for the point that was recorded then, whatever
    /// is recorded later.
    void recycle() noexcept {}

private:
    Event event_;
};

/// Fences of one device whose events are used again, so that a request makes none.
/// Threads: all members may be called from any thread.
class [[gnu::visibility("default")]] EventFences {
public:
    explicit EventFences(const Device& device);

    /// A fence at the present end of `stream`, which is of the same device. Throws CudaError.
    core::Ref<const EventFence> record(const StreamView& stream) const;

private:
    core::Ref<core::Recycler<EventFence>> recycler_;
};

}  // namespace trtlab::cuda
