#include "future.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "module.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;

core::WaitOptions to_wait(std::optional<double> seconds) {
    core::WaitOptions options(core::kForever, &check_signals);
    if (!seconds) return options;
    if (std::isnan(*seconds) || *seconds < 0) {
        throw core::InvalidArgument("a timeout is a number of seconds >= 0, or None to wait for ever, got " +
                                    std::to_string(*seconds));
    }
    // Beyond a century there is no difference to for ever, and the conversion to an integer stays defined.
    if (*seconds < 3e9) options.timeout = std::chrono::nanoseconds(static_cast<std::int64_t>(*seconds * 1e9));
    return options;
}

nb::object make_future(core::Future<core::Tensors> future, nb::object output_names) {
    return nb::cast(FutureHandle(future.state(), std::move(output_names)));
}

nb::object make_future(core::Future<core::Ref<HeldObject>> future) {
    return nb::cast(FutureHandle(future.state(), nb::object()));
}

void FutureHandle::wait(std::optional<double> timeout) const {
    const core::WaitOptions options = to_wait(timeout);  // a wrong one is refused whether or not there is a wait
    if (!state_->done()) {
        refuse_forked(made_in_, "future");
        bool done = false;
        {
            const ReleasedGil unlocked;
            done = state_->wait(options);
        }
        if (!done) core::throw_timeout(options);
    }
    Garbage::collect();
}

void FutureHandle::check_error() {
    if (!state_->error()) return;
    try {
        std::rethrow_exception(state_->error());
    } catch (const PythonError& error) {
        if (!held_ && error.held()->claim(state_.get())) held_ = error.held();
        throw;
    }
}

nb::object FutureHandle::result(std::optional<double> timeout) {
    wait(timeout);
    if (result_.is_valid()) return result_;
    check_error();
    if (convert_) return result_ = convert_(*state_);
    if (!output_names_.is_valid()) {
        const auto& held = static_cast<core::FutureState<core::Ref<HeldObject>>&>(*state_).value();
        if (!held_ && held->claim(state_.get())) held_ = held;
        return nb::borrow(held->get());
    }
    const core::Tensors& outputs = static_cast<core::FutureState<core::Tensors>&>(*state_).value();
    nb::dict named;
    for (std::size_t i = 0; i < outputs.size(); ++i) named[output_names_[i]] = nb::cast(core::Tensor(outputs[i]));
    result_ = std::move(named);
    return result_;
}

nb::object FutureHandle::exception(std::optional<double> timeout) {
    wait(timeout);
    if (!state_->error()) return nb::none();
    if (state_->cancelled()) std::rethrow_exception(state_->error());
    try {
        check_error();
    } catch (...) {
        raise_current_exception();
    }
    nb::python_error raised;
    return nb::borrow(raised.value());
}

int FutureHandle::traverse(PyObject* self, visitproc visit, void* arg) noexcept {
    Py_VISIT(Py_TYPE(self));
    if (!nb::inst_ready(self)) return 0;
    const FutureHandle& future = *nb::inst_ptr<FutureHandle>(self);
    Py_VISIT(future.result_.ptr());
    if (future.held_) Py_VISIT(future.held_->get().ptr());
    return 0;
}

int FutureHandle::clear(PyObject* self) noexcept {
    if (!nb::inst_ready(self)) return 0;
    FutureHandle& future = *nb::inst_ptr<FutureHandle>(self);
    future.result_.reset();
    if (future.held_) future.held_->clear();
    return 0;
}

bool FutureHandle::done() const noexcept {
    const bool done = state_->done();
    if (done) Garbage::collect();
    return done;
}

Completions::Completions() : event_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (event_ < 0)
        throw core::OutOfMemory(
            "no file descriptor is left for an event loop's wake-up: close some, or raise 'ulimit -n'");
}

Completions::~Completions() {
    take_nodes();
    close(event_);
}

void Completions::watch(const FutureHandle& future, nb::object token) {
    future.check_process();
    future.state().on_ready(announce(std::move(token)));
}

core::UniqueFunction<void()> Completions::announce(nb::object token) {
    auto node = std::make_unique<Node>();
    node->token = core::make_ref<HeldObject>(std::move(token));
    return [self = core::Ref<Completions>(this), node = std::move(node)]() mutable { self->push(std::move(node)); };
}

void Completions::push(std::unique_ptr<Node> owned) noexcept {
    Node* node = owned.release();
    Node* head = head_.load(std::memory_order_relaxed);
    do {
        node->next = head;
        // Release pairs with the acquire in take_nodes.
    } while (!head_.compare_exchange_weak(head, node, std::memory_order_release, std::memory_order_relaxed));
    if (head == nullptr) wake();
}

void Completions::wake() noexcept {
    const std::uint64_t one = 1;
    // Full (impossible at one write per drain) or closed: the reader is awake or gone either way.
    [[maybe_unused]] const ssize_t written = write(event_, &one, sizeof one);
}

std::vector<std::unique_ptr<Completions::Node>> Completions::take_nodes() noexcept {
    std::uint64_t count = 0;
    // Cleared before the list is taken: what is pushed in between wakes the reader once more, and is never missed.
    [[maybe_unused]] const ssize_t got = read(event_, &count, sizeof count);
    std::vector<std::unique_ptr<Node>> nodes;
    Node* node = head_.exchange(nullptr, std::memory_order_acquire);  // pairs with push
    while (node != nullptr) {
        Node* next = node->next;
        nodes.emplace_back(node);
        node = next;
    }
    std::reverse(nodes.begin(), nodes.end());
    return nodes;
}

nb::list Completions::take() {
    nb::list tokens;
    for (const auto& node : take_nodes()) tokens.append(node->token->get());
    Garbage::collect();
    return tokens;
}

nb::list Completions::wait() {
    for (;;) {
        // A take may have swallowed the wake-up of stop, so that is not what tells of it.
        if (!closed_.load(std::memory_order_acquire)) {  // pairs with stop
            const ReleasedGil unlocked;
            pollfd event{event_, POLLIN, 0};
            poll(&event, 1, -1);
        }
        nb::list tokens = take();
        if (nb::len(tokens) > 0 || closed_.load(std::memory_order_acquire)) return tokens;  // pairs with stop
    }
}

void Completions::stop() noexcept {
    closed_.store(true, std::memory_order_release);  // pairs with wait
    wake();
}

void bind_future(nb::module_& module) {
    static PyType_Slot slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&FutureHandle::traverse)},
                                  {Py_tp_clear, reinterpret_cast<void*>(&FutureHandle::clear)},
                                  {0, nullptr}};
    nb::class_<FutureHandle>(module, "Future", nb::is_weak_referenceable(), nb::type_slots(slots),
                             "The answer to come of a request: as ``concurrent.futures.Future``, and awaitable.\n\n"
                             "All members may be called from any thread; waits release the GIL.")
        .def("result", &FutureHandle::result, nb::arg("timeout") = nb::none(),
             nb::sig("def result(self, timeout: float | None = None) -> typing.Any"),
             "Wait up to ``timeout`` seconds (None: for ever) and return the answer: for a model a dict of output name "
             "to\n"
             "``Tensor``, for a task what it returned. Releases the GIL while waiting; Ctrl-C ends the wait.\n\n"
             "Raises what the work raised, Cancelled, or Timeout (the request goes on).")
        .def("exception", &FutureHandle::exception, nb::arg("timeout") = nb::none(),
             nb::sig("def exception(self, timeout: float | None = None) -> BaseException | None"),
             "Wait as ``result`` and return the exception, or None. Raises Cancelled or Timeout.")
        .def("done", &FutureHandle::done, "Whether the answer, an error or a cancellation is there.")
        .def(
            "running", [](const FutureHandle& self) { return self.state().running(); },
            "Whether the request is executing.")
        .def(
            "cancelled", [](const FutureHandle& self) { return self.state().cancelled(); },
            "Whether the request was cancelled.")
        .def(
            "cancel",
            [](const FutureHandle& self) {
                const ReleasedGil unlocked;
                return self.state().cancelled() || self.state().cancel();
            },
            "Give up a request that has not begun to execute. Returns False if it is too late.")
        .def(
            "add_done_callback",
            [](nb::handle self, nb::handle callback) {
                nb::module_::import_("trtlab._asyncio").attr("call_when_done")(self, callback);
            },
            nb::arg("callback"),
            nb::sig("def add_done_callback(self, callback: collections.abc.Callable[[Future], object]) -> None"),
            "Call ``callback(future)`` once the future is done: at once if it is, else on trtlab's callback thread.\n"
            "What it raises is reported through ``sys.unraisablehook``.")
        .def(
            "__await__", [](nb::handle self) { return nb::module_::import_("trtlab._asyncio").attr("wait")(self); },
            nb::sig("def __await__(self) -> collections.abc.Generator[typing.Any, None, typing.Any]"),
            "Await on the running asyncio loop. Cancelling the task cancels the request if it has not begun.")
        .def("__repr__", [](const FutureHandle& self) {
            const auto& state = self.state();
            return std::string("<trtlab.Future ") +
                   (state.cancelled() ? "cancelled"
                    : state.done()    ? "done"
                    : state.running() ? "running"
                                      : "pending") +
                   ">";
        });

    nb::class_<CompletionsHandle>(module, "Completions",
                                  "Finished futures on their way to one Python thread, without the GIL.")
        .def(nb::init<>())
        .def(
            "fileno", [](const CompletionsHandle& self) { return self.completions->fileno(); },
            "An eventfd: readable when ``take`` has something.")
        .def(
            "watch",
            [](const CompletionsHandle& self, const FutureHandle& future, nb::object token) {
                self.completions->watch(future, std::move(token));
            },
            nb::arg("future"), nb::arg("token"), "Let ``token`` appear in ``take`` when ``future`` is done.")
        .def(
            "take", [](const CompletionsHandle& self) { return self.completions->take(); },
            nb::sig("def take(self) -> list[typing.Any]"),
            "The tokens of futures that finished since the last call, oldest first. Never blocks.")
        .def(
            "wait", [](const CompletionsHandle& self) { return self.completions->wait(); },
            nb::sig("def wait(self) -> list[typing.Any]"),
            "As ``take``, but waits for the first. Empty once ``stop`` was called. Releases the GIL.")
        .def("stop", [](const CompletionsHandle& self) { self.completions->stop(); }, "Let ``wait`` return.");
}

}  // namespace trtlab::bindings
