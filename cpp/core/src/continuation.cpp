#include "trtlab/core/continuation.hpp"

#include <utility>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

/// What waits for the continuation that runs on this thread to return. First in, first out.
struct Running {
    Continuation* first = nullptr;
    Continuation* last = nullptr;
    bool busy = false;
};
thread_local Running running;

}  // namespace

void Continuation::go_on() noexcept {
    if (running.busy) {
        (running.first == nullptr ? running.first : running.last->next_) = this;
        running.last = this;
        return;
    }
    running.busy = true;
    run();
    while (Continuation* next = running.first) {
        running.first = std::exchange(next->next_, nullptr);
        next->run();
    }
    running.busy = false;
}

void SuspendedCoroutine::run() noexcept {
    const std::coroutine_handle<> coroutine = coroutine_;  // this is in the frame, which may go away
    try {
        coroutine.resume();
    } catch (...) {
        log_current_exception("a coroutine");  // whose promise lets exceptions through: not a Task
    }
}

}  // namespace trtlab::core
