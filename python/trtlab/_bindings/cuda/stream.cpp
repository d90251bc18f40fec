#include "trtlab/cuda/stream.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>

#include "memory_handle.hpp"
#include "module.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/cuda/memory.hpp"

namespace trtlab::cuda {
namespace nb = nanobind;
using bindings::PartOfBlock;
using bindings::ReleasedGil;

namespace {

/// Memory that Python has lent to a copy: what is written or read, and the object that keeps it. Made, moved and dropped
/// under the GIL.
class Lent {
public:
    /// A Buffer; (address, bytes, whoever keeps it) of a GPU; or anything with a Python buffer of dense bytes. Throws
    /// InvalidArgument, naming it `what`.
    Lent(const Library& library, nb::handle value, bool writable, const char* what) {
        if (nb::isinstance<PartOfBlock>(value)) {
            const PartOfBlock& part = nb::cast<const PartOfBlock&>(value);
            range_ = part.range();
            owner_ = part.owner();
        } else if (nb::isinstance<nb::tuple>(value) && nb::len(value) == 3) {
            range_.data = reinterpret_cast<void*>(nb::cast<std::uintptr_t>(nb::object(value[0])));
            range_.size_bytes = nb::cast<std::size_t>(nb::object(value[1]));
            range_.device = device_of(library, range_.data);
            if (range_.size_bytes > 0 && range_.device.type == core::DeviceType::cpu) {
                throw core::InvalidArgument(
                    "the " + std::string(what) +
                    " of a copy, by its __cuda_array_interface__: CUDA does not know the address");
            }
            keeper_ = nb::object(value[2]);
        } else {
            buffer_.emplace();
            if (PyObject_GetBuffer(value.ptr(), &*buffer_,
                                   writable ? PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE : PyBUF_C_CONTIGUOUS) != 0) {
                buffer_.reset();
                const nb::python_error error;
                throw core::InvalidArgument("the " + std::string(what) + " of a copy, a " +
                                            nb::cast<std::string>(nb::str(nb::type_name(value.type()))) +
                                            ": expected a Buffer, an Array, a GPU array, or a dense " +
                                            (writable ? "writable " : "") + "host array (" +
                                            nb::cast<std::string>(nb::str(error.value())) + ")");
            }
            range_.data = buffer_->buf;
            range_.size_bytes = static_cast<std::size_t>(buffer_->len);
        }
    }
    Lent(Lent&& other) noexcept
        : range_(other.range_),
          owner_(std::move(other.owner_)),
          keeper_(std::move(other.keeper_)),
          buffer_(std::exchange(other.buffer_, std::nullopt)) {}
    Lent& operator=(Lent&&) = delete;
    ~Lent() {
        if (buffer_) PyBuffer_Release(&*buffer_);
    }
    const core::BufferView& range() const noexcept { return range_; }

private:
    core::BufferView range_;
    core::Ref<const core::RefCounted> owner_;
    nb::object keeper_;
    std::optional<Py_buffer> buffer_;
};

/// Python's Stream, with what its copies are still using. Guarded by the GIL.
struct OwnStream {
    OwnStream(const Device& device, int priority) : stream(device, priority) {}
    OwnStream(const OwnStream&) = delete;
    ~OwnStream() {
        if (loans.empty()) return;
        try {
            const ReleasedGil unlocked;
            stream.synchronize();
        } catch (...) {
            core::log_current_exception("the end of a stream with copies under way");
        }
    }

    struct Loan {
        Event reached;
        Lent destination, source;
    };
    /// Gives back what the copies that are done have used.
    void settle() {
        while (!loans.empty() && loans.front().reached.query() != kNotReady) {
            const Loan done = std::move(loans.front());  // what goes with it may run Python, which may come back here
            loans.pop_front();
        }
    }
    static constexpr int kNotReady = 600;

    Stream stream;
    std::deque<Loan> loans;
};

struct OwnEvent {
    explicit OwnEvent(const Device& device, Event::Kind kind) : event(device, kind) {}
    Event event;
};

Event::Kind kind_of(const std::string& kind) {
    if (kind == "plain") return Event::Kind::plain;
    if (kind == "timing") return Event::Kind::timing;
    if (kind == "blocking") return Event::Kind::blocking;
    throw core::InvalidArgument("an event's kind: expected 'plain', 'timing' or 'blocking', got '" + kind + "'");
}

StreamView view_of(const Device& device, std::uintptr_t handle) {
    return {device, reinterpret_cast<StreamHandle>(handle)};
}

void put_in_order(const StreamView& first, const StreamView& second) {
    const Event event(first.device());
    event.record(first);
    second.wait(event);
}

void copy_async(OwnStream& self, nb::handle destination, nb::handle source) {
    const Library& library = *self.stream.device().library();
    Lent to(library, destination, true, "destination"), from(library, source, false, "source");
    std::optional<Event> reached;
    {
        const ReleasedGil unlocked;  // memory that is not pinned is copied before this returns
        self.stream.copy(to.range(), from.range());
        reached.emplace(self.stream.device());
        reached->record(self.stream);
    }
    self.loans.push_back({std::move(*reached), std::move(to), std::move(from)});
    self.settle();
}

/// On the calling thread's default stream, which other libraries' work in CUDA's default stream comes before.
void copy_blocking(const Device& device, nb::handle destination, nb::handle source) {
    constexpr std::uintptr_t kPerThread = 2;
    Lent to(*device.library(), destination, true, "destination"), from(*device.library(), source, false, "source");
    const StreamView stream = view_of(device, kPerThread);
    const ReleasedGil unlocked;
    stream.copy(to.range(), from.range());
    stream.synchronize();
}

void bind_event(nb::module_& module) {
    nb::class_<OwnEvent>(module, "Event", nb::is_weak_referenceable(), "A point in a stream.")
        .def(
            "__init__",
            [](OwnEvent* self, const Device& device, const std::string& kind) {
                const Event::Kind checked = kind_of(kind);
                const ReleasedGil unlocked;
                new (self) OwnEvent(device, checked);
            },
            nb::arg("device"), nb::arg("kind") = "plain", "See trtlab.cuda.Event.")
        .def_prop_ro(
            "handle", [](const OwnEvent& self) { return reinterpret_cast<std::uintptr_t>(self.event.handle()); },
            "CUDA's cudaEvent_t.")
        .def_prop_ro(
            "done",
            [](const OwnEvent& self) {
                const ReleasedGil unlocked;
                return self.event.done();
            },
            "Whether the point was reached; True if none was recorded. Raises CudaError if what came before failed.")
        .def(
            "record", [](const OwnEvent& self, const OwnStream& stream) { self.event.record(stream.stream); },
            nb::arg("stream"), nb::call_guard<ReleasedGil>(),
            "The point is where ``stream`` ends now. Raises CudaError.")
        .def(
            "synchronize", [](const OwnEvent& self) { self.event.synchronize(); }, nb::call_guard<ReleasedGil>(),
            "Wait until the point was reached. Without the GIL. Raises CudaError.")
        .def(
            "elapsed_since",
            [](const OwnEvent& self, const OwnEvent& begin) {
                return std::chrono::duration<double>(self.event.elapsed_since(begin.event)).count();
            },
            nb::arg("begin"), nb::call_guard<ReleasedGil>(),
            "Seconds from ``begin`` to this one, both of kind \"timing\" and reached. Raises CudaError.");
}

}  // namespace

void bind_stream(nb::module_& module) {
    nb::class_<OwnStream>(module, "Stream", nb::is_weak_referenceable(), "A queue of work on a GPU.")
        .def(
            "__init__",
            [](OwnStream* self, const Device& device, int priority) {
                const ReleasedGil unlocked;
                new (self) OwnStream(device, priority);
            },
            nb::arg("device"), nb::arg("priority") = 0, "See trtlab.cuda.Stream.")
        .def_prop_ro(
            "handle", [](const OwnStream& self) { return reinterpret_cast<std::uintptr_t>(self.stream.handle()); },
            "CUDA's cudaStream_t, as torch.cuda.ExternalStream and others take it.")
        .def(
            "__cuda_stream__",
            [](const OwnStream& self) {
                return nb::make_tuple(0, reinterpret_cast<std::uintptr_t>(self.stream.handle()));
            },
            nb::sig("def __cuda_stream__(self) -> tuple[int, int]"), "CUDA Python's protocol, version 0.")
        .def_prop_ro(
            "device", [](const OwnStream& self) { return self.stream.device(); }, "The GPU.")
        .def_prop_ro(
            "done",
            [](OwnStream& self) {
                bool done = false;
                {
                    const ReleasedGil unlocked;
                    done = self.stream.done();
                }
                self.settle();
                return done;
            },
            "Whether everything in it is done. Raises CudaError.")
        .def(
            "synchronize",
            [](OwnStream& self) {
                {
                    const ReleasedGil unlocked;
                    self.stream.synchronize();
                }
                self.settle();
            },
            "Wait until everything in it is done. Without the GIL. Raises CudaError, also for what failed in it.")
        .def(
            "wait", [](const OwnStream& self, const OwnEvent& event) { self.stream.wait(event.event); },
            nb::arg("event"), nb::call_guard<ReleasedGil>(),
            "What comes after this in the stream waits for ``event``. Does not block. Raises CudaError.")
        .def("_copy", &copy_async, nb::arg("destination").none(), nb::arg("source").none(), "See trtlab.cuda.copy.")
        .def(
            "_precede",
            [](const OwnStream& self, std::uintptr_t consumer) {
                put_in_order(self.stream, view_of(self.stream.device(), consumer));
            },
            nb::arg("consumer"), nb::call_guard<ReleasedGil>(),
            "What comes after this in the stream with the handle ``consumer`` waits for what is in this one.")
        .def(
            "_follow",
            [](const OwnStream& self, std::uintptr_t producer) {
                put_in_order(view_of(self.stream.device(), producer), self.stream);
            },
            nb::arg("producer"), nb::call_guard<ReleasedGil>(),
            "What comes after this in this one waits for what is in the stream with the handle ``producer``.");
    bind_event(module);
    module.def("copy", &copy_blocking, nb::arg("device"), nb::arg("destination").none(), nb::arg("source").none(),
               "See trtlab.cuda.copy.");
    module.def(
        "synchronize", [](const Device& device, std::uintptr_t handle) { view_of(device, handle).synchronize(); },
        nb::arg("device"), nb::arg("handle"), nb::call_guard<ReleasedGil>(),
        "Wait until everything in somebody's stream is done.");
}

}  // namespace trtlab::cuda
