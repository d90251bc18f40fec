#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "bridge_registry.hpp"
#include "convert.hpp"
#include "future.hpp"
#include "module.hpp"
#include "trtlab/core/window_stream.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;
using core::WindowStream;

namespace {

/// What a stream's elements are: a dtype, and the shape of one.
struct ElementKind {
    core::DType dtype;
    core::Shape item;

    core::Shape shape(std::size_t elements) const {
        std::vector<std::int64_t> dims{static_cast<std::int64_t>(elements)};
        dims.insert(dims.end(), item.begin(), item.end());
        return core::Shape(dims);
    }
};

/// `core::Window` as a tensor.
class WindowHandle {
public:
    WindowHandle(core::Window window, const ElementKind& kind)
        : index_(window.index()),
          valid_(window.valid()),
          tensor_(window.tensor(kind.dtype, kind.shape(window.size()))),
          window_(std::move(window)) {}

    std::uint64_t index() const noexcept { return index_; }
    std::size_t valid() const noexcept { return valid_; }
    bool is_last() const { return held().is_last(); }
    const core::Tensor& tensor() const {
        held();
        return tensor_;
    }
    void release() noexcept {
        tensor_ = {};
        window_.release();
    }

private:
    const core::Window& held() const {
        if (!window_) throw core::Closed("window " + std::to_string(index_) + " was released");
        return window_;
    }
    std::uint64_t index_;
    std::size_t valid_;
    core::Tensor tensor_;
    core::Window window_;
};

class StreamHandle {
public:
    StreamHandle(std::shared_ptr<WindowStream> stream, ElementKind kind)
        : handle_(std::move(stream)),
          kind_(std::move(kind)),
          spec_{.name = handle_.unchecked()->options().name},
          elements_{.name = "elements", .dtype = kind_.dtype} {
        elements_.shape.emplace_back();
        for (const std::int64_t extent : kind_.item) elements_.shape.emplace_back(extent);
    }

    WindowStream& stream() const { return *(*handle_); }
    const WindowStream::Options& options() const noexcept { return handle_.unchecked()->options(); }
    const ElementKind& kind() const noexcept { return kind_; }

    std::size_t write(nb::handle elements, std::optional<double> timeout) const {
        const core::WaitOptions wait = to_wait(timeout);
        WindowStream& into = stream();
        core::Tensor tensor = Conversion(spec_, "input", 1)(elements, elements_);
        const bool fits = tensor.shape().rank() == kind_.item.rank() + 1 &&
                          std::equal(kind_.item.begin(), kind_.item.end(), tensor.shape().begin() + 1);
        if (tensor.dtype() != kind_.dtype || !fits) {
            throw core::InvalidArgument("window stream '" + spec_.name + "': expected " + elements_.to_string() +
                                        ", got " + std::string(core::name_of(tensor.dtype())) +
                                        tensor.shape().to_string());
        }
        if (!tensor.device().host_accessible()) {
            throw core::InvalidArgument("window stream '" + spec_.name + "': the elements lie in memory of " +
                                        tensor.device().to_string() + "; take tensor.to_host()");
        }
        std::size_t written = 0;
        {
            const ReleasedGil unlocked;
            if (!tensor.contiguous()) tensor = core::Tensor::copy_of(tensor);
            written = into.write(std::span(tensor.data_as<const std::byte>(), tensor.size_bytes()), wait);
        }
        tensor = {};
        Garbage::collect();
        return written;
    }

    std::optional<WindowHandle> next(std::optional<double> timeout) const {
        const core::WaitOptions wait = to_wait(timeout);
        WindowStream& from = stream();
        std::optional<core::Window> window = from.try_next();
        if (!window) {
            const ReleasedGil unlocked;
            window = from.next(wait);
        }
        if (!*window) return std::nullopt;
        return WindowHandle(std::move(*window), kind_);
    }

    nb::object next_async() const {
        const core::Future<core::Window> future = stream().next_async();
        return nb::cast(FutureHandle(future.state(), [kind = kind_](core::FutureStateBase& state) -> nb::object {
            const core::Window& window = static_cast<core::FutureState<core::Window>&>(state).value();
            if (!window) return nb::none();
            return nb::cast(WindowHandle(window.share(), kind));
        }));
    }

private:
    Handle<WindowStream> handle_;
    ElementKind kind_;
    core::ModelSpec spec_;  // for the conversion's messages
    core::TensorSpec elements_;
};

WindowStream::AtEnd at_end_from(const std::string& name) {
    if (name == "drop") return WindowStream::AtEnd::drop;
    if (name == "shorten") return WindowStream::AtEnd::shorten;
    if (name == "pad") return WindowStream::AtEnd::pad;
    throw core::InvalidArgument("at_end is 'drop', 'shorten' or 'pad', got '" + name + "'");
}

/// One element, each of whose numbers is `value`.
std::vector<std::byte> padding(nb::handle value, const ElementKind& kind, std::size_t element_bytes,
                               const std::string& name) {
    const core::ModelSpec spec{.name = name};
    const core::TensorSpec number{.name = "pad_value", .dtype = kind.dtype};
    const core::Tensor tensor = Conversion(spec, "input", 1)(value, number);
    if (tensor.dtype() != kind.dtype || tensor.elements() != 1 || !tensor.device().host_accessible()) {
        throw core::InvalidArgument("window stream '" + name + "': pad_value is one number on the host, of dtype " +
                                    std::string(core::name_of(kind.dtype)) + ", got " +
                                    nb::cast<std::string>(nb::str(nb::repr(value))));
    }
    const auto* bytes = tensor.data_as<const std::byte>();
    std::vector<std::byte> element(element_bytes);
    for (std::size_t i = 0; i < element.size(); ++i) element[i] = bytes[i % tensor.size_bytes()];
    return element;
}

void make_stream(StreamHandle* self, std::size_t window, std::size_t overlap, std::string_view dtype,
                 const std::vector<std::int64_t>& item_shape, std::size_t windows, std::size_t capacity,
                 const std::string& at_end, nb::object pad_value, const std::string& device, std::string name) {
    ElementKind kind{core::dtype_from_name(dtype), core::Shape(item_shape)};
    if (kind.dtype == core::DType::bytes) {
        throw core::InvalidArgument("window stream '" + name + "': byte strings have no fixed size; use 'uint8'");
    }
    WindowStream::Options options{.window = window,
                                  .overlap = overlap,
                                  .element_bytes = core::checked_mul(kind.item.elements(), core::size_of(kind.dtype)),
                                  .windows = windows,
                                  .capacity = capacity,
                                  .at_end = at_end_from(at_end),
                                  .name = std::move(name)};
    if (!pad_value.is_none()) options.pad_value = padding(pad_value, kind, options.element_bytes, options.name);
    std::shared_ptr<WindowStream> stream;
    if (device == "cpu") {
        const ReleasedGil unlocked;
        stream = std::make_shared<WindowStream>(options);
    } else {
        std::unique_ptr<core::WindowMemory> ring = device_bridge().window_memory(device, options);
        stream = std::make_shared<WindowStream>(options, std::move(ring));
    }
    new (self) StreamHandle(std::move(stream), std::move(kind));
}

nb::dict stream_stats(const StreamHandle& self) {
    const WindowStream::Stats stats = self.stream().stats();
    nb::dict named;
    named["written"] = stats.written;
    named["windows"] = stats.windows;
    named["laps"] = stats.laps;
    named["ready"] = stats.ready;
    named["in_flight"] = stats.in_flight;
    named["blocked"] = stats.blocked;
    named["waiting"] = stats.waiting;
    return named;
}

void bind_window(nb::module_& module) {
    const auto tensor_of = [](nb::handle self) { return self.attr("tensor"); };
    nb::class_<WindowHandle>(module, "Window",
                             "One window of a WindowStream, held until it is released or dropped, together with every "
                             "array that sees it. A context\n"
                             "manager whose end releases it. Read-only: windows that overlap see the same memory.")
        .def_prop_ro("index", &WindowHandle::index, "0, 1, 2, ...: it begins at element index * (window - overlap).")
        .def_prop_ro("valid", &WindowHandle::valid, "Elements that were written: fewer than ``len`` if it was padded.")
        .def_prop_ro("is_last", &WindowHandle::is_last,
                     "Whether the stream has ended with it; False before ``finish``. Raises Closed once released.")
        .def_prop_ro(
            "tensor", [](const WindowHandle& self) { return core::Tensor(self.tensor()); },
            "The window's memory as a Tensor of shape (elements, *item_shape): without a copy, also as a model's "
            "input. "
            "Raises Closed once released.")
        .def("release", &WindowHandle::release,
             "Give the window back: its memory is overwritten as soon as no array sees it any more. Idempotent. Work "
             "on a "
             "GPU that reads\n"
             "it must be done, unless it is a model's.")
        .def(
            "numpy", [tensor_of](nb::handle self) { return tensor_of(self).attr("numpy")(); }, "As ``Tensor.numpy``.")
        .def(
            "__array__",
            [tensor_of](nb::handle self, nb::args args, nb::kwargs kwargs) {
                return tensor_of(self).attr("__array__")(*args, **kwargs);
            },
            "For numpy.")
        .def(
            "__dlpack__",
            [tensor_of](nb::handle self, nb::kwargs options) { return tensor_of(self).attr("__dlpack__")(**options); },
            nb::sig("def __dlpack__(self, **options: typing.Any) -> typing.Any"), "As ``Tensor.__dlpack__``.")
        .def(
            "__dlpack_device__", [tensor_of](nb::handle self) { return tensor_of(self).attr("__dlpack_device__")(); },
            nb::sig("def __dlpack_device__(self) -> tuple[int, int]"))
        .def("__len__", [](const WindowHandle& self) { return self.tensor().shape()[0]; })
        .def(
            "__enter__", [](nb::handle self) { return nb::borrow(self); },
            nb::sig("def __enter__(self) -> typing_extensions.Self"))
        .def(
            "__exit__", [](WindowHandle& self, nb::args) { self.release(); },
            nb::sig("def __exit__(self, *exc: object) -> None"))
        .def("__repr__", [](const WindowHandle& self) {
            return "<trtlab.Window " + std::to_string(self.index()) + ", " + std::to_string(self.valid()) + " valid>";
        });
}

}  // namespace

void bind_windows(nb::module_& module) {
    bind_window(module);
    nb::class_<StreamHandle>(
        module, "WindowStream",
        "Cuts a stream of elements into windows that overlap, over a ring: write on one thread, "
        "iterate on another.\n\n"
        "Windows are handed out in order and may be held and released in any. A write waits while "
        "``windows`` of them are in flight.\n"
        "Closing, also by a ``with`` block, wakes everybody who waits with Closed; windows that are "
        "out stay valid.")
        .def("__init__", &make_stream, nb::arg("window"), nb::arg("overlap") = 0, nb::kw_only(),
             nb::arg("dtype") = "float32", nb::arg("item_shape") = nb::tuple(), nb::arg("windows") = 4,
             nb::arg("capacity") = 0, nb::arg("at_end") = "drop", nb::arg("pad_value") = nb::none(),
             nb::arg("device") = "cpu", nb::arg("name") = "windows",
             nb::sig("def __init__(self, window: int, overlap: int = 0, *, dtype: str = 'float32', item_shape: "
                     "collections.abc.Sequence[int] = (), windows: int = 4, capacity: int = 0, at_end: str = 'drop', "
                     "pad_value: float | None = None, device: str = 'cpu', name: str = 'windows') -> None"),
             "``window`` and ``overlap`` count elements, each of ``dtype`` and ``item_shape``. ``capacity``: of the "
             "ring, "
             "0 for the least.\n"
             "``at_end``: the elements behind the last whole window are dropped, are a shorter window ('shorten'), or "
             "one "
             "filled up with\n"
             "``pad_value`` ('pad'). ``device``: 'cuda:0' has the windows in that GPU's memory, copied asynchronously. "
             "Raises\n"
             "InvalidArgument, OutOfMemory, CudaError.")
        .def("write", &StreamHandle::write, nb::arg("elements"), nb::arg("timeout") = nb::none(),
             nb::sig("def write(self, elements: typing.Any, timeout: float | None = None) -> int"),
             "Copy an array of shape (n, *item_shape) in, waiting up to ``timeout`` seconds (None: for ever) for room, "
             "and "
             "return how many\n"
             "elements were taken: all, unless the time is over. Releases the GIL; Ctrl-C ends the wait. Raises "
             "InvalidArgument, Closed.")
        .def(
            "finish",
            [](const StreamHandle& self, std::optional<double> timeout) {
                const core::WaitOptions wait = to_wait(timeout);
                WindowStream& stream = self.stream();
                const ReleasedGil unlocked;
                stream.finish(wait);
            },
            nb::arg("timeout") = nb::none(),
            "End the stream: iteration stops behind the last window. Waits for other writers, without the GIL. "
            "Idempotent. Raises\n"
            "Timeout, Closed.")
        .def("next", &StreamHandle::next, nb::arg("timeout") = nb::none(),
             "The next window, or None once the stream has ended. Waits up to ``timeout`` seconds (None: for ever) "
             "without the GIL; Ctrl-C\n"
             "ends the wait. Raises Timeout, Closed.")
        .def("next_async", &StreamHandle::next_async, nb::sig("def next_async(self) -> Future"),
             "``next`` as a Future, which holds the window as well: drop it. Never blocks. Raises Closed.")
        .def(
            "close",
            [](const StreamHandle& self) {
                WindowStream& stream = self.stream();
                const ReleasedGil unlocked;
                stream.close();
            },
            "Give up: windows that nobody has taken are dropped. Idempotent.")
        .def(
            "__iter__",
            [](nb::handle self) {
                const auto& stream = instance<StreamHandle>(self);
                if (stream.options().windows < 2) {
                    throw core::InvalidArgument(
                        "window stream '" + stream.options().name +
                        "': a loop holds one window while it waits for the next; make the stream "
                        "with windows=2 or more");
                }
                return nb::borrow(self);
            },
            nb::sig("def __iter__(self) -> typing_extensions.Self"))
        .def(
            "__next__",
            [](const StreamHandle& self) {
                std::optional<WindowHandle> window = self.next(std::nullopt);
                if (!window) throw nb::stop_iteration();
                return std::move(*window);
            },
            "As ``next``; stops once the stream has ended.")
        .def(
            "__aiter__",
            [](nb::handle self) { return nb::module_::import_("trtlab._windows").attr("windows")(nb::iter(self)); },
            nb::sig("def __aiter__(self) -> collections.abc.AsyncIterator[Window]"),
            "Iterate on the running asyncio loop, without blocking it.")
        .def(
            "__enter__", [](nb::handle self) { return nb::borrow(self); },
            nb::sig("def __enter__(self) -> typing_extensions.Self"))
        .def(
            "__exit__", [](nb::handle self, nb::args) { self.attr("close")(); },
            nb::sig("def __exit__(self, *exc: object) -> None"))
        .def("stats", &stream_stats, nb::sig("def stats(self) -> dict[str, int]"),
             "written, windows, laps, ready, in_flight, blocked, waiting.");
}

}  // namespace trtlab::bindings
