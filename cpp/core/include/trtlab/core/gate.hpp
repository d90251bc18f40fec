#pragma once

#include <atomic>
#include <cstdint>

#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// Counts what is inside, and can be shut: the mechanism behind every `close()` that waits for work in flight.
///
/// Threads: lock-free except for waiting.
class Gate {
public:
    /// False if the gate is shut. Each success is paired with one `leave`.
    [[nodiscard]] bool enter() noexcept;
    /// Enters even if the gate is shut: for who knows of one inside that leaves later than this call.
    void enter_beside() noexcept;
    void leave() noexcept;

    /// Nobody enters any more. True for the one call that shut it.
    bool shut() noexcept;
    bool is_shut() const noexcept;

    /// Waits until the gate is shut and all who entered have left. False when the time is over.
    bool wait_empty(const WaitOptions& options = {}) const;

    std::uint32_t inside() const noexcept;

    /// Marks that this thread is running callbacks on behalf of something inside: whoever wants to wait for the gate
    /// to empty must not do so here, since the wait would be for itself.
    class Completion {
    public:
        explicit Completion(const Gate& gate) noexcept;
        ~Completion();
        Completion(const Completion&) = delete;
        Completion& operator=(const Completion&) = delete;

    private:
        friend class Gate;
        const Gate* gate_;
        const Completion* outer_;
    };
    bool completing_on_this_thread() const noexcept;

private:
    static constexpr std::uint32_t kShut = 1, kOne = 2;
    std::atomic<std::uint32_t> state_{0};
};

}  // namespace trtlab::core
