#pragma once

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <thread>

namespace trtlab::core::testing {

/// What the hooks of these tests throw.
struct Interrupted {};

/// Handles SIGUSR1 as Python handles SIGINT: with a handler that does next to nothing, and without SA_RESTART.
class InterruptingSignal {
public:
    InterruptingSignal() {
        struct sigaction action{};
        action.sa_handler = [](int) {};
        sigaction(SIGUSR1, &action, &before_);
    }
    ~InterruptingSignal() { sigaction(SIGUSR1, &before_, nullptr); }
    InterruptingSignal(const InterruptingSignal&) = delete;
    InterruptingSignal& operator=(const InterruptingSignal&) = delete;

    /// Signals `thread` until `stop()`: a signal that arrives just before the thread blocks interrupts nothing.
    template <class Condition>
    void interrupt_until(std::thread& thread, Condition stop) {
        while (!stop()) {
            pthread_kill(thread.native_handle(), SIGUSR1);
            std::this_thread::yield();
        }
    }

private:
    struct sigaction before_{};
};

}  // namespace trtlab::core::testing
