#pragma once

#include <chrono>
#include <cstddef>
#include <memory>

#include "trtlab/cuda/stream.hpp"

namespace trtlab::cuda {

/// What `CompletionQueue` calls when the GPU has reached a point. An intrusive node: it must stay until it was called.
class [[gnu::visibility("default")]] Completion {
public:
    Completion(const Completion&) = delete;
    Completion& operator=(const Completion&) = delete;

    /// On the queue's thread. `status` is 0, or the cudaError_t with which the work, or the device, failed. May watch
    /// again, and may destroy itself. Must not block.
    virtual void reached(int status) noexcept = 0;

protected:
    Completion() = default;
    virtual ~Completion();

private:
    friend class CompletionQueue;
    Completion* next_ = nullptr;
    const Event* event_ = nullptr;
    std::chrono::steady_clock::time_point not_before_;
};

/// Waits for events on behalf of any number of requests, on one thread: no thread is parked for a request, and none of CUDA's
/// is used, whose host functions may not call CUDA.
///
/// Waits: spins over the events while there are any, and parks when there are none. Where the process may use no more than
/// two CPUs it sleeps between looks (some 50 us) rather than spinning.
/// Order: what is due is called in the order of `watch`; of two events that are reached while the thread looks, the later
/// one may be called first.
/// Threads: `watch` from any thread, the queue's own included. The destructor waits until everything watched was reached
/// (CUDA ends a failed device's work at once); on the queue's own thread it lets the thread end by itself.
class [[gnu::visibility("default")]] CompletionQueue {
public:
    /// The thread binds itself to the CPUs near the device. Throws EngineError if it can't be made.
    explicit CompletionQueue(const Device& device);
    ~CompletionQueue();
    CompletionQueue(const CompletionQueue&) = delete;
    CompletionQueue& operator=(const CompletionQueue&) = delete;

    /// `event` was recorded, and stays until `completion` was called. Until `not_before` nobody looks at it: each look
    /// is a call into the driver, which costs a microsecond and more while the GPU is busy, and holds up whoever launches.
    /// Never throws and never blocks.
    void watch(const Event& event, Completion& completion,
               std::chrono::steady_clock::time_point not_before = {}) noexcept;
    bool on_this_thread() const noexcept;
    /// Watched and not reached.
    std::size_t pending() const noexcept;

private:
    struct State;
    static void serve(const std::shared_ptr<State>& state) noexcept;
    std::shared_ptr<State> state_;
};

}  // namespace trtlab::cuda
