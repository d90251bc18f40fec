#pragma once

#include <coroutine>

namespace trtlab::core {

/// Something that goes on once what it waits for is there: a suspended coroutine, or a callback.
///
/// Continuations never run inside each other: what one of them lets go on runs on the same thread when it returns, or
/// suspends itself. So a chain of any length needs no more stack than one. The price: a continuation must not block its
/// thread for what another continuation does, which may be queued behind it.
class [[gnu::visibility("default")]] Continuation {
public:
    Continuation(const Continuation&) = delete;
    Continuation& operator=(const Continuation&) = delete;

    /// Runs it here and now, or, within another one's run, behind that. Once only: it may be gone when this returns.
    void go_on() noexcept;

protected:
    Continuation() = default;
    ~Continuation() = default;

private:
    /// May destroy the object.
    virtual void run() noexcept = 0;
    Continuation* next_ = nullptr;
};

/// A suspended coroutine. Lives in its frame, as part of the awaiter.
class [[gnu::visibility("default")]] SuspendedCoroutine final : public Continuation {
public:
    SuspendedCoroutine() = default;
    void set(std::coroutine_handle<> coroutine) noexcept { coroutine_ = coroutine; }

private:
    void run() noexcept override;
    std::coroutine_handle<> coroutine_;
};

}  // namespace trtlab::core
