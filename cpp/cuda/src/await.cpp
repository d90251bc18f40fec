#include "trtlab/cuda/await.hpp"

#include "trtlab/cuda/library.hpp"

namespace trtlab::cuda {

EventAwaiter::~EventAwaiter() = default;

void EventAwaiter::await_suspend(std::coroutine_handle<> coroutine) noexcept {
    suspended_.set(coroutine);
    queue_.watch(event_, *this);  // and may be gone already
}

void EventAwaiter::await_resume() const {
    event_.device().library()->check(status_, "cudaEventQuery", event_.device().ordinal());
}

void EventAwaiter::reached(int status) noexcept {
    status_ = status;
    suspended_.go_on();
}

}  // namespace trtlab::cuda
