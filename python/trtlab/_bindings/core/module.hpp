#pragma once

#include <memory>
#include <string>
#include <vector>

#include "errors.hpp"
#include "garbage.hpp"
#include "trtlab/core/function_model.hpp"
#include "trtlab/core/inference_manager.hpp"
#include "trtlab/core/model.hpp"
#include "trtlab/core/thread_pool.hpp"

namespace trtlab::bindings {

/// What Python holds of an object with threads behind it. In a forked child it is leaked rather than destroyed.
template <class T>
class Handle {
public:
    explicit Handle(std::shared_ptr<T> object) : object_(std::move(object)), made_in_(generation()) {}
    Handle(Handle&&) noexcept = default;
    ~Handle() {
        if (!object_) return;
        if (made_in_ != generation()) {
            new std::shared_ptr<T>(std::move(object_));
            return;
        }
        // The last owner closes, which waits: not with the GIL, since what is waited for may need it.
        const ReleasedGil unlocked;
        object_.reset();
    }
    const std::shared_ptr<T>& operator*() const {
        refuse_forked(made_in_, "object");
        return object_;
    }
    T* operator->() const { return (**this).get(); }
    const std::shared_ptr<T>& unchecked() const noexcept { return object_; }

private:
    std::shared_ptr<T> object_;
    int made_in_;
};

/// A `core::Model` with its tensors' names as interned Python strings, looked up once.
class ModelHandle {
public:
    explicit ModelHandle(std::shared_ptr<core::Model> model);
    core::Model& model() const { return *(*handle_); }
    const std::shared_ptr<core::Model>& shared() const { return *handle_; }
    const core::Model& unchecked_model() const noexcept { return *handle_.unchecked(); }
    const core::ModelSpec& spec() const noexcept { return unchecked_model().spec(); }
    /// How many in C++, such as managers, have a share in the model, this handle included.
    long owners() const noexcept { return handle_.unchecked().use_count(); }
    const std::vector<nanobind::object>& input_names() const noexcept { return input_names_; }
    const nanobind::object& output_names() const noexcept { return output_names_; }

private:
    Handle<core::Model> handle_;
    std::vector<nanobind::object> input_names_;
    nanobind::object output_names_;  // a tuple
};

/// A function model keeps its own class in Python, so that users can construct it, and shows Python's cycle collector the
/// callable: `self.model = FunctionModel(self.method, ...)` is a cycle.
class FunctionModelHandle : public ModelHandle {
public:
    FunctionModelHandle(std::shared_ptr<core::Model> model, core::Ref<HeldObject> callable)
        : ModelHandle(std::move(model)), callable_(std::move(callable)) {
        callable_->claim(this);
    }
    static int traverse(PyObject* self, visitproc visit, void* arg) noexcept;
    static int clear(PyObject* self) noexcept;

private:
    /// Whether nobody in C++ will call the function any more.
    bool unused() const noexcept {
        return owners() == 1 && static_cast<const core::FunctionModel&>(unchecked_model()).under_way() == 0;
    }
    core::Ref<HeldObject> callable_;
};

/// Closes, without running what waits, everything that still has threads. Called at interpreter exit, while Python is
/// whole; afterwards no thread of ours needs the GIL any more.
void close_at_exit(std::weak_ptr<core::Model> model);
void close_at_exit(std::weak_ptr<core::ThreadPool> pool);
void close_all();
/// In the child of a fork: nothing of the parent's is closed at this process's exit.
void forget_after_fork();

/// The Future of a model's answer: a dict of output name -> Tensor.
nanobind::object make_future(core::Future<core::Tensors> future, nanobind::object output_names);

/// Seconds as Python gives them (None: for ever) -> how to wait, interruptible by signals. InvalidArgument if negative or NaN.
core::WaitOptions to_wait(std::optional<double> seconds);

void bind_tensor(nanobind::module_& module);
void bind_future(nanobind::module_& module);
void bind_model(nanobind::module_& module);
void bind_batcher(nanobind::module_& module);
void bind_manager(nanobind::module_& module);
void bind_pools(nanobind::module_& module);
void bind_thread_pool(nanobind::module_& module);
void bind_affinity(nanobind::module_& module);
void bind_infer_bench(nanobind::module_& module);
void bind_windows(nanobind::module_& module);

}  // namespace trtlab::bindings
