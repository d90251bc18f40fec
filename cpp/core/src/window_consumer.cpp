#include "window_state.hpp"

namespace trtlab::core {
namespace {

struct Consumer : Waiter {
    Window window;
    bool closed = false;
    bool asynchronous = false;
};

/// Shared by the queue and by the future's callback that takes it out when it is cancelled.
struct FutureConsumer final : Consumer, RefCounted {
    FutureConsumer() { asynchronous = true; }
    Promise<Window> promise;
    bool queued = false;  // under the state's lock
};

}  // namespace

Window WindowStream::State::take() noexcept {
    if (!returned.empty()) {
        Lease* lease = returned.front();
        returned.erase(returned.begin());
        return Window(Ref<WindowLease>::adopt(lease));
    }
    Lease& lease = leases[handed++ % geometry.in_flight];
    lease.state = Ref<State>(this);
    return Window(Ref<WindowLease>(&lease));
}

void WindowStream::State::hand_out() noexcept {
    for (;;) {
        Ref<FutureConsumer> future;
        Window window;
        {
            WakeUp wake_up;
            std::lock_guard lock(mutex);
            if (consumers.empty() || !(ready() || over())) return;
            auto* consumer = static_cast<Consumer*>(consumers.pop());
            consumer->closed = closed;
            if (consumer->asynchronous) {
                future = Ref<FutureConsumer>::adopt(static_cast<FutureConsumer*>(consumer));  // the queue's
                future->queued = false;
                if (!future->promise.try_start()) continue;  // cancelled: the next one
                if (ready()) window = take();
            } else {
                if (ready()) consumer->window = take();
                consumer->grant(wake_up);
                continue;
            }
        }
        if (future->closed) {
            future->promise.set_exception(std::make_exception_ptr(Closed(words("it is closed"))));
        } else {
            future->promise.set_value(std::move(window));
        }
    }
}

void WindowStream::State::give_back(Lease& lease) noexcept {
    WakeUp wake_up;
    std::lock_guard lock(mutex);
    lease.released = true;
    while (oldest < handed && leases[oldest % geometry.in_flight].released) {
        leases[oldest++ % geometry.in_flight].released = false;
    }
    if (producer != nullptr && room() > 0) std::exchange(producer, nullptr)->grant(wake_up);
}

Window WindowStream::State::next(const WaitOptions& wait) {
    require_own_process();
    Consumer self;
    {
        std::lock_guard lock(mutex);
        if (closed) throw_closed();
        if (consumers.empty()) {
            if (ready()) return take();
            if (over()) return {};
        }
        if (wait.timeout.count() > 0) consumers.push(self);
    }
    if (wait.timeout.count() <= 0) throw_timeout(wait);
    std::exception_ptr interrupted;
    try {
        self.wait(Deadline(wait.timeout), wait.on_signal);
    } catch (...) {
        interrupted = std::current_exception();
    }
    {
        std::lock_guard lock(mutex);
        if (!self.granted()) consumers.remove(self);
        if (interrupted && self.window && !closed) {
            returned.push_back(static_cast<Lease*>(self.window.lease_.detach()));  // cannot throw: reserved for all
        }
    }
    if (interrupted) {
        hand_out();
        std::rethrow_exception(interrupted);
    }
    if (!self.granted()) throw_timeout(wait);
    if (self.closed) throw Closed(words("it was closed while this call waited for a window"));
    return std::move(self.window);
}

std::optional<Window> WindowStream::State::try_next() {
    require_own_process();
    std::lock_guard lock(mutex);
    if (closed) throw_closed();
    if (!consumers.empty()) return std::nullopt;
    if (ready()) return take();
    return over() ? std::optional<Window>(Window()) : std::nullopt;
}

Future<Window> WindowStream::State::next_async() {
    require_own_process();
    auto consumer = make_ref<FutureConsumer>();
    const Future<Window> future = consumer->promise.future();
    // Before anybody else can see the future, and so before it can be cancelled.
    future.on_ready([state = Ref<State>(this), consumer] {
        Ref<FutureConsumer> cancelled;
        std::lock_guard lock(state->mutex);
        if (!std::exchange(consumer->queued, false)) return;
        state->consumers.remove(*consumer);
        cancelled = Ref<FutureConsumer>::adopt(consumer.get());
    });
    {
        std::lock_guard lock(mutex);
        consumer->queued = true;
        consumer->add_ref();  // the queue's
        consumers.push(*consumer);
    }
    hand_out();
    return future;
}

}  // namespace trtlab::core
