#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <utility>

#include "errors.hpp"
#include "future.hpp"
#include "module.hpp"
#include "trtlab/core/pool.hpp"

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

/// A pool whose waiters may have stayed in the parent process is refused in a child, and leaked there.
class PoolHandle {
public:
    explicit PoolHandle(core::Pool<Item> pool) : pool_(std::move(pool)), made_in_(generation()) {}
    PoolHandle(const PoolHandle&) = delete;
    PoolHandle& operator=(const PoolHandle&) = delete;
    ~PoolHandle() {
        if (made_in_ != generation()) new core::Pool<Item>(std::move(pool_));
    }
    core::Pool<Item>& get() {
        refuse_forked(made_in_, "pool");
        return pool_;
    }

private:
    core::Pool<Item> pool_;
    int made_in_;
};

/// A place in a pool's queue for a task of an event loop, which the loop's `Completions` tells when its turn has come.
class LeaseRequest {
public:
    LeaseRequest(PoolHandle& pool, core::Ref<Completions> loop, nb::object token)
        : slot_(std::make_shared<Slot>()), made_in_(generation()) {
        request_ = pool.get().acquire_then(
            [slot = slot_, done = loop->announce(std::move(token))](core::Lease<Item> lease) mutable {
                {
                    const std::lock_guard lock(slot->mutex);
                    if (!slot->cancelled) {
                        slot->lease = std::move(lease);
                        slot->answered = true;
                    }
                }
                done();
            });
    }
    LeaseRequest(const LeaseRequest&) = delete;
    LeaseRequest& operator=(const LeaseRequest&) = delete;
    ~LeaseRequest() {
        if (made_in_ == generation()) {
            cancel();
        } else {
            // Locks of the pool's may be held by a thread that stayed in the parent.
            new core::Pool<Item>::Request(std::move(request_));
            new std::shared_ptr<Slot>(std::move(slot_));
        }
    }
    LeaseHandle lease() {
        refuse_forked(made_in_, "request for a lease");
        const std::lock_guard lock(slot_->mutex);
        if (!slot_->answered) throw core::InvalidArgument("the request for a lease has no answer yet");
        if (!slot_->lease) throw core::Closed("the pool is closed: it gives no more leases");
        return LeaseHandle(std::move(slot_->lease));
    }
    /// Leaves the queue, or gives back what it was given.
    void cancel() {
        refuse_forked(made_in_, "request for a lease");
        core::Lease<Item> dropped;  // returned after the unlock
        if (request_.cancel()) return;
        const std::lock_guard lock(slot_->mutex);
        slot_->cancelled = true;
        dropped = std::move(slot_->lease);
    }

private:
    struct Slot {
        std::mutex mutex;
        core::Lease<Item> lease;
        bool answered = false;
        bool cancelled = false;
    };
    std::shared_ptr<Slot> slot_;
    core::Pool<Item>::Request request_;
    int made_in_;
};

core::Pool<Item> make_pool(nb::iterable items, nb::object on_return) {
    std::vector<Item> owned;
    for (nb::handle item : items) owned.push_back(nb::borrow(item));
    if (owned.empty()) throw core::InvalidArgument("a pool needs at least one item");
    if (on_return.is_none()) return core::Pool<Item>(std::move(owned));
    if (!PyCallable_Check(on_return.ptr()))
        throw core::InvalidArgument("on_return is called with each item that comes back: expected a callable");
    // Leases end with the GIL held, but for one that a waiting thread passes on because it is interrupted.
    return core::Pool<Item>(std::move(owned), [hook = std::move(on_return)](Item& item) {
        const nb::gil_scoped_acquire gil;
        hook(item);
    });
}

nb::dict pool_stats(PoolHandle& pool) {
    const auto stats = pool.get().stats();
    nb::dict named;
    named["size"] = stats.size;
    named["free"] = stats.free;
    named["leased"] = stats.leased;
    named["waiting"] = stats.waiting;
    named["acquired"] = stats.acquired;
    named["waited"] = stats.waited;
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
            "acquire_async",
            [](nb::handle self) { return nb::module_::import_("trtlab._asyncio").attr("Acquisition")(self); },
            nb::sig("def acquire_async(self) -> trtlab._asyncio.Acquisition"),
            "Lease an item on the running asyncio loop, without blocking it: ``async with pool.acquire_async() as "
            "item``, or\n"
            "``lease = await pool.acquire_async()``. Tasks and threads stand in one queue. Cancelling the task leaves "
            "it.\n"
            "Raises Closed.")
        .def(
            "close", [](PoolHandle& self) { self.get().close(); },
            "Wake every waiter with Closed and give no more leases. Idempotent.")
        .def_prop_ro("closed", [](PoolHandle& self) { return self.get().closed(); })
        .def("stats", &pool_stats, nb::sig("def stats(self) -> dict[str, int]"),
             "size; free and leased now; waiting (threads and tasks); acquired ever, and how many of these waited.")
        .def(
            "wait_times", [](PoolHandle& self) { return self.get().wait_times(); },
            "A Histogram of the ns that those who had to wait, and were served, waited for their turn.");

    nb::class_<LeaseRequest>(module, "LeaseRequest", "A place in a Pool's queue for a task of an event loop.")
        .def(
            "__init__",
            [](LeaseRequest* self, PoolHandle& pool, const CompletionsHandle& loop, nb::object token) {
                new (self) LeaseRequest(pool, loop.completions, std::move(token));
            },
            nb::arg("pool"), nb::arg("completions"), nb::arg("token"),
            "``token`` appears in ``completions.take()`` when there is an answer. Raises Closed.")
        .def("lease", &LeaseRequest::lease, "The lease, once there is an answer. Raises Closed.")
        .def("cancel", &LeaseRequest::cancel, "Leave the queue, or give back what it was given. Idempotent.");
}

}  // namespace trtlab::bindings
