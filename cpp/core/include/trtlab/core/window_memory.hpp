#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "trtlab/core/function.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/tensor.hpp"

namespace trtlab::core {

/// The memory of a `WindowStream`'s ring, and how bytes get there: at once on the host, in the order of a CUDA stream on a
/// GPU. The logic of windows is the stream's; this only copies, and says with fences what is not done yet.
///
/// Threads: one call at a time, the stream sees to it; `knows` from any thread.
class [[gnu::visibility("default")]] WindowMemory {
public:
    explicit WindowMemory(Buffer ring) : ring_(std::move(ring)) {}
    WindowMemory(const WindowMemory&) = delete;
    WindowMemory& operator=(const WindowMemory&) = delete;
    /// Waits for what still uses the ring, then gives it back.
    virtual ~WindowMemory();

    BufferView ring() const noexcept { return ring_.view(); }

    /// Copies host memory into the ring. `size_bytes` is at most `room()`. The source may be changed when this returns.
    virtual void write(void* to, const void* from, std::size_t size_bytes) = 0;

    /// Copies within the ring, between ranges that share no byte, behind all writes.
    virtual void replicate(void* to, const void* from, std::size_t size_bytes) = 0;

    /// How much `write` takes without waiting.
    virtual std::size_t room() { return SIZE_MAX; }

    /// `room` was zero: has `on_room` called when it is no longer, at once or later, on any thread and without a lock.
    virtual void call_when_room() {}

    /// Set by the stream.
    UniqueFunction<void()> on_room;

    /// Behind everything that was copied until now; empty: it is done.
    virtual Ref<const Fence> fence() { return {}; }

    /// Whether this memory can wait for such a fence.
    virtual bool knows(const Fence&) const noexcept { return false; }

    /// What is copied from now on waits for `fence`, which it knows; the caller does not.
    virtual void wait_for(const Fence&) {}

protected:
    Buffer ring_;
};

/// A ring that the CPU writes: ordinary memory, or pinned.
class [[gnu::visibility("default")]] HostWindowMemory final : public WindowMemory {
public:
    /// Throws InvalidArgument if the host can't write the memory.
    explicit HostWindowMemory(Buffer ring);
    ~HostWindowMemory() override;
    void write(void* to, const void* from, std::size_t size_bytes) override;
    void replicate(void* to, const void* from, std::size_t size_bytes) override;
};

}  // namespace trtlab::core
