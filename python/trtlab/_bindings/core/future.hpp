#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "errors.hpp"
#include "garbage.hpp"
#include "trtlab/core/function.hpp"
#include "trtlab/core/future.hpp"
#include "trtlab/core/spec.hpp"

namespace trtlab::bindings {

/// Python's Future: of a model's answer, or of a Python task's result.
class FutureHandle {
public:
    /// `output_names` is a tuple for `FutureState<Tensors>`, invalid for `FutureState<Ref<HeldObject>>`.
    FutureHandle(core::Ref<core::FutureStateBase> state, nanobind::object output_names)
        : state_(std::move(state)), output_names_(std::move(output_names)), made_in_(generation()) {}
    /// Of anything else: `convert` makes Python's value of the state, once that is done.
    using Convert = std::function<nanobind::object(core::FutureStateBase&)>;
    FutureHandle(core::Ref<core::FutureStateBase> state, Convert convert)
        : state_(std::move(state)), convert_(std::move(convert)), made_in_(generation()) {}
    FutureHandle(FutureHandle&&) noexcept = default;
    ~FutureHandle() {
        if (held_) held_->unclaim(state_.get());
    }

    core::FutureStateBase& state() const noexcept { return *state_; }
    /// Throws Closed for a future that can only be done in the parent process.
    void check_process() const {
        if (!state_->done()) refuse_forked(made_in_, "future");
    }
    nanobind::object result(std::optional<double> timeout);
    nanobind::object exception(std::optional<double> timeout);
    bool done() const noexcept;

    /// For Python's cycle collector: a failed future is part of a cycle as soon as a frame in its exception's traceback
    /// refers to it.
    static int traverse(PyObject* self, visitproc visit, void* arg) noexcept;
    static int clear(PyObject* self) noexcept;

private:
    void wait(std::optional<double> timeout) const;
    /// Throws the error, if there is one. What Python raised is claimed for the cycle collector.
    void check_error();

    core::Ref<core::FutureStateBase> state_;
    nanobind::object output_names_;
    Convert convert_;
    nanobind::object result_;     // of a model, or made by `convert_`
    core::Ref<HeldObject> held_;  // a task's result, or Python's exception, if this handle has claimed it
    int made_in_;
};

nanobind::object make_future(core::Future<core::Ref<HeldObject>> future);

/// Finished futures on their way to one Python thread (an event loop's, or the callback thread). The finishing thread
/// pushes onto a lock-free list, and writes the eventfd only if the list was empty: however many futures finish
/// between two looks, the Python thread is woken once, and the finishing thread never needs the GIL.
class Completions final : public core::RefCounted {
public:
    Completions();
    ~Completions() override;

    int fileno() const noexcept { return event_; }
    void watch(const FutureHandle& future, nanobind::object token);
    /// What is called, on any thread and once, lets `token` appear.
    core::UniqueFunction<void()> announce(nanobind::object token);
    nanobind::list take();
    nanobind::list wait();
    void stop() noexcept;

private:
    struct Node {
        core::Ref<HeldObject> token;
        Node* next = nullptr;
    };
    void push(std::unique_ptr<Node> node) noexcept;
    void wake() noexcept;
    std::vector<std::unique_ptr<Node>> take_nodes() noexcept;

    const int event_;
    std::atomic<Node*> head_{nullptr};
    std::atomic<bool> closed_{false};
};

/// Python's object around it.
struct CompletionsHandle {
    core::Ref<Completions> completions = core::make_ref<Completions>();
};

}  // namespace trtlab::bindings
