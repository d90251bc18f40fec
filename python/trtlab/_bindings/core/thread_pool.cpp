#include "trtlab/core/thread_pool.hpp"

#include <nanobind/stl/string.h>

#include <atomic>
#include <memory>

#include "affinity.hpp"
#include "future.hpp"
#include "module.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;

namespace {

/// A Python call, and the future of what it returns.
class Call {
public:
    using Result = core::Ref<HeldObject>;

    Call(nb::handle function, nb::handle arguments, nb::handle keywords, std::shared_ptr<std::atomic<bool>> cancels)
        : held_(core::make_ref<HeldObject>(nb::make_tuple(function, arguments, keywords))),
          cancels_(std::move(cancels)) {}
    Call(Call&&) noexcept = default;
    ~Call() {
        // Dropped unrun. Without this the promise says Closed.
        if (held_ && cancels_->load(std::memory_order_relaxed)) promise_.future().cancel();
    }

    core::Future<Result> future() const { return promise_.future(); }

    void operator()() {
        const core::Ref<HeldObject> held = std::move(held_);
        if (promise_.try_start()) promise_.fulfil([&] { return call(*held); });
    }

private:
    static Result call(const HeldObject& held) {
        nb::gil_scoped_acquire gil;
        try {
            const nb::tuple parts = nb::cast<nb::tuple>(held.get());
            const nb::object result = nb::steal(
                PyObject_Call(nb::object(parts[0]).ptr(), nb::object(parts[1]).ptr(), nb::object(parts[2]).ptr()));
            if (!result.is_valid()) throw PythonError::fetch();
            Garbage::collect();
            return core::make_ref<HeldObject>(result);
        } catch (nb::python_error& error) {
            error.restore();
            throw PythonError::fetch();
        }
    }

    core::Promise<Result> promise_;
    core::Ref<HeldObject> held_;  // until it is called
    std::shared_ptr<std::atomic<bool>> cancels_;
};

class Threads {
public:
    explicit Threads(std::shared_ptr<core::ThreadPool> pool) : pool_(std::move(pool)) {}

    core::ThreadPool& get() const { return *(*pool_); }

    nb::object submit(nb::handle function, nb::handle arguments, nb::handle keywords) const {
        if (PyCallable_Check(function.ptr()) == 0)
            throw core::InvalidArgument("submit() takes a callable and its arguments");
        core::ThreadPool& threads = get();
        Call call(function, arguments, keywords, cancels_);
        core::Future<Call::Result> future = call.future();
        try {
            const ReleasedGil unlocked;
            threads.post(std::move(call), core::WaitOptions(core::kForever, &check_signals));
        } catch (...) {
            future.cancel();  // of use if a signal interrupted the call as the task was taken
            throw;
        }
        return make_future(std::move(future));
    }

    void shut(bool cancel_futures) const {
        core::ThreadPool& threads = get();
        if (cancel_futures) cancels_->store(true, std::memory_order_relaxed);  // shut's lock orders it
        const ReleasedGil unlocked;
        threads.shut(cancel_futures ? core::Pending::cancel : core::Pending::drain);
    }

    void close(bool cancel_pending) const {
        core::ThreadPool& threads = get();
        const ReleasedGil unlocked;
        threads.close(cancel_pending ? core::Pending::cancel : core::Pending::drain);
    }

    nb::dict stats() const {
        const auto stats = get().stats();
        nb::dict named;
        named["threads"] = stats.threads;
        named["idle"] = stats.idle;
        named["queued"] = stats.queued;
        named["blocked_callers"] = stats.blocked_callers;
        named["executed"] = stats.executed;
        named["pinned"] = stats.pinned;
        return named;
    }

private:
    Handle<core::ThreadPool> pool_;
    std::shared_ptr<std::atomic<bool>> cancels_ = std::make_shared<std::atomic<bool>>(false);
};

core::ThreadPool::Pinning to_pinning(const std::string& name) {
    if (name == "one_each") return core::ThreadPool::Pinning::one_each;
    if (name == "shared") return core::ThreadPool::Pinning::shared;
    throw core::InvalidArgument("pinning: expected 'one_each' or 'shared', got '" + name + "'");
}

}  // namespace

void bind_thread_pool(nb::module_& module) {
    nb::class_<Threads>(module, "Threads", "What trtlab.ThreadPool stands on.")
        .def(
            "__init__",
            [](Threads* self, std::size_t threads, std::size_t max_queue, std::string name, nb::handle cpus,
               const std::string& pinning) {
                const core::ThreadPool::Options options{.threads = threads,
                                                        .max_queue = max_queue,
                                                        .name = std::move(name),
                                                        .cpus = to_cpu_set(cpus),
                                                        .pinning = to_pinning(pinning)};
                auto pool = std::make_shared<core::ThreadPool>(options);
                close_at_exit(pool);
                new (self) Threads(std::move(pool));
            },
            nb::arg("threads"), nb::arg("max_queue"), nb::arg("name"), nb::arg("cpus").none(), nb::arg("pinning"),
            nb::sig("def __init__(self, threads: int, max_queue: int, name: str, cpus: CpuSet | str | "
                    "collections.abc.Iterable[int] | None, pinning: str) -> None"))
        .def("submit", &Threads::submit, nb::arg("function"), nb::arg("args"), nb::arg("kwargs"),
             nb::sig("def submit(self, function: collections.abc.Callable[..., object], args: tuple[typing.Any, ...], "
                     "kwargs: dict[str, typing.Any]) -> Future"),
             "See trtlab.ThreadPool.")
        .def("shut", &Threads::shut, nb::arg("cancel_futures"), "See trtlab.ThreadPool.shutdown.")
        .def("close", &Threads::close, nb::arg("cancel_pending"), "See trtlab.ThreadPool.")
        .def("stats", &Threads::stats, nb::sig("def stats(self) -> dict[str, int]"), "See trtlab.ThreadPool.")
        .def_prop_ro(
            "pin_refusal", [](const Threads& self) { return self.get().stats().pin_refusal; },
            "See trtlab.ThreadPool.");
}

}  // namespace trtlab::bindings
