#pragma once

#include <coroutine>

#include "trtlab/core/continuation.hpp"
#include "trtlab/cuda/completion_queue.hpp"

namespace trtlab::cuda {

/// `co_await reached(queue, event);`: suspends the coroutine until the GPU has reached the event, and resumes it on the
/// queue's thread, where what takes long does not belong; not at all if it was reached already. Throws CudaError if the
/// work before it failed. `queue` and `event` must stay until then: the queue's destructor waits for it.
class [[gnu::visibility("default")]] EventAwaiter final : public Completion {
public:
    EventAwaiter(CompletionQueue& queue, const Event& event) noexcept : queue_(queue), event_(event) {}
    ~EventAwaiter() override;

    bool await_ready() const { return event_.done(); }
    void await_suspend(std::coroutine_handle<> coroutine) noexcept;
    void await_resume() const;

private:
    void reached(int status) noexcept override;

    CompletionQueue& queue_;
    const Event& event_;
    core::SuspendedCoroutine suspended_;
    int status_ = 0;
};

inline EventAwaiter reached(CompletionQueue& queue, const Event& event) noexcept { return {queue, event}; }

}  // namespace trtlab::cuda
