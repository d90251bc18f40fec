#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "future.hpp"
#include "module.hpp"
#include "trtlab/core/pool.hpp"
#include "trtlab/core/thread_pool.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;

namespace {

using Item = nb::object;

/// `core::Lease` for a `with` block.
class LeaseHandle {
public:
    explicit LeaseHandle(core::Lease<Item> lease) : lease_(std::move(lease)), made_in_(generation()) {}
    LeaseHandle(LeaseHandle&&) noexcept = default;
    ~LeaseHandle() {
        // The pool's lock may be held by a thread that stayed in the parent.
        if (made_in_ != generation()) new core::Lease<Item>(std::move(lease_));
    }
    nb::object item() const {
        if (!lease_) throw core::Closed("this lease was released: acquire a new one");
        return *lease_;
    }
    void release() {
        refuse_forked(made_in_, "lease");
        lease_.release();
    }

private:
    core::Lease<Item> lease_;
    int made_in_;
};

/// A pool whose waiters may have stayed in the parent process is refused in a child.
class PoolHandle {
public:
    explicit PoolHandle(core::Pool<Item> pool) : pool_(std::move(pool)), made_in_(generation()) {}
    core::Pool<Item>& get() {
        refuse_forked(made_in_, "pool");
        return pool_;
    }

private:
    core::Pool<Item> pool_;
    int made_in_;
};

core::Pool<Item> make_pool(nb::iterable items, nb::object on_return) {
    std::vector<Item> owned;
    for (nb::handle item : items) owned.push_back(nb::borrow(item));
    if (owned.empty()) throw core::InvalidArgument("a pool needs at least one item");
    if (on_return.is_none()) return core::Pool<Item>(std::move(owned));
    if (!PyCallable_Check(on_return.ptr()))
        throw core::InvalidArgument("on_return is called with each item that comes back: expected a callable");
    // Leases end with the GIL held, so the hook runs in the thread that returns the item.
    return core::Pool<Item>(std::move(owned), [hook = std::move(on_return)](Item& item) { hook(item); });
}

nb::dict pool_stats(PoolHandle& pool) {
    const auto stats = pool.get().stats();
    nb::dict named;
    named["size"] = stats.size;
    named["free"] = stats.free;
    named["waiting"] = stats.waiting;
    named["acquired"] = stats.acquired;
    return named;
}

using Task = core::Ref<HeldObject>;

nb::object submit(const Handle<core::ThreadPool>& pool, nb::args arguments, nb::kwargs keywords) {
    if (nb::len(arguments) == 0 || PyCallable_Check(nb::object(arguments[0]).ptr()) == 0) {
        throw core::InvalidArgument("submit() takes a callable and its arguments");
    }
    auto call = core::make_ref<HeldObject>(nb::make_tuple(arguments, keywords));
    core::ThreadPool& threads = *(*pool);
    core::Future<Task> future;
    {
        const ReleasedGil unlocked;
        future = threads.submit(
            [call = std::move(call)]() -> Task {
                nb::gil_scoped_acquire gil;
                try {
                    const nb::handle held = call->get();
                    const nb::tuple positional = nb::cast<nb::tuple>(held[0]);
                    const nb::object function = positional[0];
                    const nb::object rest =
                        nb::steal(PyTuple_GetSlice(positional.ptr(), 1, PyTuple_Size(positional.ptr())));
                    const nb::object result =
                        nb::steal(PyObject_Call(function.ptr(), rest.ptr(), nb::object(held[1]).ptr()));
                    if (!result.is_valid()) throw PythonError::fetch();
                    Garbage::collect();
                    return core::make_ref<HeldObject>(result);
                } catch (nb::python_error& error) {
                    error.restore();
                    throw PythonError::fetch();
                }
            },
            core::WaitOptions(core::kForever, &check_signals));
    }
    return make_future(std::move(future));
}

nb::dict thread_pool_stats(const Handle<core::ThreadPool>& pool) {
    const auto stats = pool->stats();
    nb::dict named;
    named["threads"] = stats.threads;
    named["idle"] = stats.idle;
    named["queued"] = stats.queued;
    named["blocked_callers"] = stats.blocked_callers;
    named["executed"] = stats.executed;
    return named;
}

}  // namespace

void bind_pools(nb::module_& module) {
    nb::class_<LeaseHandle>(module, "Lease",
                            "The right to use one item of a Pool. A context manager whose value is the item.")
        .def_prop_ro("item", &LeaseHandle::item, nb::sig("def item(self) -> typing.Any"),
                     "Raises Closed once released.")
        .def("release", &LeaseHandle::release, "Return the item. Idempotent; also done on leaving the ``with`` block.")
        .def("__enter__", &LeaseHandle::item, nb::sig("def __enter__(self) -> typing.Any"))
        .def(
            "__exit__", [](LeaseHandle& self, nb::args) { self.release(); },
            nb::sig("def __exit__(self, *exc: object) -> None"));

    nb::class_<PoolHandle>(module, "Pool",
                           "A fixed set of objects that threads share: acquire one, use it, give it back.\n\n"
                           "First come, first served. ``on_return(item)`` runs before an item becomes free "
                           "again; what it raises is logged.")
        .def(
            "__init__",
            [](PoolHandle* self, nb::iterable items, nb::object on_return) {
                new (self) PoolHandle(make_pool(items, on_return));
            },
            nb::arg("items"), nb::arg("on_return") = nb::none(),
            nb::sig("def __init__(self, items: collections.abc.Iterable[typing.Any], "
                    "on_return: collections.abc.Callable[[typing.Any], object] | None = None) -> None"))
        .def(
            "acquire",
            [](PoolHandle& self, std::optional<double> timeout) {
                const core::WaitOptions options = to_wait(timeout);
                core::Pool<Item>& pool = self.get();
                if (auto lease = pool.try_acquire()) return LeaseHandle(std::move(lease));
                const ReleasedGil unlocked;
                return LeaseHandle(pool.acquire(options));
            },
            nb::arg("timeout") = nb::none(),
            "Lease an item, waiting up to ``timeout`` seconds (None: for ever). Releases the GIL while waiting; Ctrl-C "
            "ends\n"
            "the wait. Raises Timeout, or Closed.")
        .def(
            "try_acquire",
            [](PoolHandle& self) -> std::optional<LeaseHandle> {
                auto lease = self.get().try_acquire();
                if (!lease) return std::nullopt;
                return LeaseHandle(std::move(lease));
            },
            "Lease an item if one is free and nobody waits for it, else return None. Raises Closed.")
        .def(
            "close", [](PoolHandle& self) { self.get().close(); },
            "Wake every waiter with Closed and give no more leases. Idempotent.")
        .def_prop_ro("closed", [](PoolHandle& self) { return self.get().closed(); })
        .def("stats", &pool_stats, nb::sig("def stats(self) -> dict[str, int]"), "size, free, waiting, acquired.");

    using Threads = Handle<core::ThreadPool>;
    nb::class_<Threads>(module, "ThreadPool",
                        "Worker threads behind one bounded first-in-first-out queue.\n\nTasks are Python callables and "
                        "hold the GIL unless what they call releases it.")
        .def(
            "__init__",
            [](Threads* self, std::size_t threads, std::size_t max_queue, std::string name) {
                new (self) Threads(std::make_shared<core::ThreadPool>(
                    core::ThreadPool::Options{.threads = threads, .max_queue = max_queue, .name = std::move(name)}));
                close_at_exit(self->unchecked());
            },
            nb::arg("threads") = 0, nb::kw_only(), nb::arg("max_queue") = 65536, nb::arg("name") = "trtlab",
            "``threads`` 0: one for each CPU that the process may use.")
        .def("submit", &submit,
             nb::sig("def submit(self, function: collections.abc.Callable[..., object], /, *args: typing.Any, "
                     "**kwargs: typing.Any) -> Future"),
             "Run ``function(*args, **kwargs)`` on a worker and return its Future. Waits while the queue is full, "
             "without the\n"
             "GIL. Raises Closed.")
        .def(
            "close",
            [](const Threads& self, bool cancel_pending) {
                core::ThreadPool& threads = *(*self);
                const ReleasedGil unlocked;
                threads.close(cancel_pending ? core::Pending::cancel : core::Pending::drain);
            },
            nb::arg("cancel_pending") = false,
            "Run what is queued, or drop it, and join the workers. Idempotent. Releases the GIL.")
        .def(
            "__enter__", [](nb::handle self) { return nb::borrow(self); },
            nb::sig("def __enter__(self) -> typing_extensions.Self"))
        .def(
            "__exit__", [](nb::handle self, nb::args) { self.attr("close")(); },
            nb::sig("def __exit__(self, *exc: object) -> None"))
        .def("stats", &thread_pool_stats, nb::sig("def stats(self) -> dict[str, int]"),
             "threads, idle, queued, blocked_callers, executed.");
}

}  // namespace trtlab::bindings
