#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "trtlab/core/await.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/future.hpp"

namespace trtlab::core {

template <class T>
class Task;

/// What coroutines of all `Task`s have in common: they begin when they are awaited, and go on with whoever awaits them.
class TaskPromiseBase {
public:
    struct Finish {
        bool await_ready() const noexcept { return false; }
        /// Symmetric transfer: the stack does not grow however many tasks end without having waited. (g++ keeps that promise
        /// from -O2 on, and not under a sanitizer: a loop over 10,000 such tasks is then a deep recursion.)
        template <class Promise>
        std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> finished) const noexcept {
            return finished.promise().awaiting_;
        }
        void await_resume() const noexcept {}
    };
    std::suspend_always initial_suspend() const noexcept { return {}; }
    Finish final_suspend() const noexcept { return {}; }
    void unhandled_exception() noexcept { error_ = std::current_exception(); }

    void set_awaiting(std::coroutine_handle<> awaiting) noexcept { awaiting_ = awaiting; }

protected:
    std::exception_ptr error_;

private:
    std::coroutine_handle<> awaiting_;
};

template <class T>
class TaskPromise final : public TaskPromiseBase {
public:
    Task<T> get_return_object() noexcept;
    template <class U>
        requires std::is_constructible_v<T, U&&>
    void return_value(U&& value) {
        value_.emplace(std::forward<U>(value));
    }
    T take() {
        if (error_) std::rethrow_exception(error_);
        return std::move(*value_);
    }

private:
    std::optional<T> value_;
};

template <>
class TaskPromise<void> final : public TaskPromiseBase {
public:
    Task<void> get_return_object() noexcept;
    void return_void() const noexcept {}
    void take() const {
        if (error_) std::rethrow_exception(error_);
    }
};

/// A coroutine that computes a `T` for whoever awaits it: `T value = co_await std::move(task);`. It begins then, not before,
/// and resumes the one that awaits it on whatever thread it ends. What it throws is thrown there.
///
/// Owns: the coroutine's frame, until it is awaited; from then on the one that awaits does. A frame that is suspended is
/// kept by what it waits for, and is resumed when that is closed: it can neither leak nor be destroyed under way.
/// What the coroutine takes by reference, its captures included if it is a lambda, must stay until it ends.
/// Threads: as `std::unique_ptr`.
template <class T>
class [[nodiscard]] Task {
    static_assert(!std::is_reference_v<T>, "a Task gives a value: return a pointer");

public:
    using promise_type = TaskPromise<T>;

    Task() = default;
    Task(Task&& other) noexcept : coroutine_(std::exchange(other.coroutine_, nullptr)) {}
    Task& operator=(Task&& other) noexcept {
        if (this != &other) {
            const Task dropped(std::move(*this));
            coroutine_ = std::exchange(other.coroutine_, nullptr);
        }
        return *this;
    }
    ~Task() {
        if (coroutine_) coroutine_.destroy();
    }

    bool valid() const noexcept { return static_cast<bool>(coroutine_); }

    class Awaiter {
    public:
        explicit Awaiter(Task task) noexcept : task_(std::move(task)) {}
        bool await_ready() const noexcept { return false; }
        std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) noexcept {
            task_.coroutine_.promise().set_awaiting(awaiting);
            return task_.coroutine_;
        }
        T await_resume() { return task_.coroutine_.promise().take(); }

    private:
        Task task_;
    };
    /// Throws InvalidArgument if it is not `valid()`: it was awaited before.
    Awaiter operator co_await() && {
        if (!valid()) throw InvalidArgument("co_await on an empty task: it was moved from, or awaited before");
        return Awaiter(std::move(*this));
    }

private:
    friend class TaskPromise<T>;
    explicit Task(std::coroutine_handle<promise_type> coroutine) noexcept : coroutine_(coroutine) {}
    std::coroutine_handle<promise_type> coroutine_;
};

template <class T>
Task<T> TaskPromise<T>::get_return_object() noexcept {
    return Task<T>(std::coroutine_handle<TaskPromise>::from_promise(*this));
}

inline Task<void> TaskPromise<void>::get_return_object() noexcept {
    return Task<void>(std::coroutine_handle<TaskPromise>::from_promise(*this));
}

/// A coroutine that nobody owns: it begins at once, and its frame goes when it ends.
struct DetachedCoroutine {
    struct promise_type {
        DetachedCoroutine get_return_object() const noexcept { return {}; }
        std::suspend_never initial_suspend() const noexcept { return {}; }
        std::suspend_never final_suspend() const noexcept { return {}; }
        void return_void() const noexcept {}
        void unhandled_exception() const noexcept { log_current_exception("a detached coroutine"); }
    };
};

template <class T>
DetachedCoroutine fulfil_with(Task<T> task, Promise<T> promise) {
    // The task's frame, and all that it holds, is gone before the future is ready.
    std::exception_ptr error;
    if constexpr (std::is_void_v<T>) {
        try {
            co_await std::move(task);
        } catch (...) {
            error = std::current_exception();
        }
        if (!error) promise.set_value();
    } else {
        std::optional<T> value;
        try {
            value.emplace(co_await std::move(task));
        } catch (...) {
            error = std::current_exception();
        }
        if (value) promise.set_value(std::move(*value));
    }
    if (error) promise.set_exception(std::move(error));
}

/// Begins the task here and now; it runs on this thread until it first waits. Its future can't be cancelled: close what it
/// waits for. To wait for it where no coroutine is: `spawn(task()).get()`. Throws InvalidArgument if it is not `valid()`.
template <class T>
Future<T> spawn(Task<T> task) {
    if (!task.valid()) throw InvalidArgument("spawn of an empty task: it was moved from, or awaited before");
    Promise<T> promise;
    (void)promise.try_start();
    Future<T> future = promise.future();
    (void)fulfil_with(std::move(task), std::move(promise));
    return future;
}

}  // namespace trtlab::core
