#include "trtlab/core/shared_memory.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <limits>
#include <optional>

#include "memory.hpp"
#include "module.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;
using core::SharedMemory;
using core::SystemVMemory;
using Access = SharedMemory::Access;

namespace {

template <class Memory>
struct Segment final : SharedBlock {
    Segment(Memory memory_, bool read_only_) : SharedBlock(read_only_), memory(std::move(memory_)) {}
    Memory memory;

protected:
    ~Segment() override = default;
};

/// What Python holds of shared memory: a share, which `close` gives up. Views and tensors have shares of their own.
template <class Memory>
class SegmentHandle {
public:
    explicit SegmentHandle(Memory memory, bool read_only = false)
        : segment_(core::make_ref<Segment<Memory>>(std::move(memory), read_only)) {}
    Memory& get() const {
        if (!segment_) throw core::Closed("this shared memory was closed: attach anew");
        return segment_->memory;
    }
    PartOfBlock buffer() const { return PartOfBlock(segment_, get().view()); }
    void close() noexcept { segment_ = nullptr; }

private:
    core::Ref<Segment<Memory>> segment_;
};

using Shared = SegmentHandle<SharedMemory>;
using SystemV = SegmentHandle<SystemVMemory>;

Access access_named(const std::string& name, const char* what) {
    if (name == "read_write") return Access::read_write;
    if (name == "read_only") return Access::read_only;
    throw core::InvalidArgument(std::string("shared memory, ") + what +
                                ": expected 'read_write' or 'read_only', got '" + name + "'");
}

std::optional<std::size_t> expected_size(nb::handle value) {
    if (value.is_none()) return std::nullopt;
    return to_size(value, "shared memory, size_bytes", 1, 0);
}

/// A socket, or its number.
int number_of(nb::handle socket) {
    const int number = PyObject_AsFileDescriptor(socket.ptr());
    if (number < 0) {
        const nb::python_error error;
        throw core::InvalidArgument("a socket: expected one of Python's, or its number (" + describe(error.value()) +
                                    ")");
    }
    return number;
}

template <class Memory>
void bind_segment(nb::class_<SegmentHandle<Memory>>& kind) {
    using Handle = SegmentHandle<Memory>;
    kind.def_prop_ro(
            "size_bytes", [](const Handle& self) { return self.get().size_bytes(); }, "Bytes.")
        .def_prop_ro("buffer", &Handle::buffer,
                     "The memory, for numpy, memoryview, DLPack, slices and tensors: they keep it after ``close``.")
        .def("close", &Handle::close,
             "Give up this object's share; the memory is unmapped when no view is left. Idempotent.")
        .def(
            "__enter__", [](nb::handle self) { return nb::borrow(self); },
            nb::sig("def __enter__(self) -> typing_extensions.Self"))
        .def(
            "__exit__", [](Handle& self, nb::args) { self.close(); },
            nb::sig("def __exit__(self, *exc: object) -> None"));
}

void bind_posix(nb::module_& module) {
    nb::class_<Shared> kind(
        module, "SharedMemory", nb::is_weak_referenceable(),
        "Memory that several processes see, behind a descriptor without a name; it goes with the last process that has "
        "it.\n\nIts size is sealed. Its content may change at any moment: copy what others write, then check the copy. "
        "Make one with\n``create`` or ``attach``; a forked child has its parent's.");
    kind.def_static(
            "create",
            [](nb::object size_bytes, const std::string& others, const std::string& name) {
                return Shared(SharedMemory::create(to_size(size_bytes, "shared memory, size_bytes", 1, 0),
                                                   access_named(others, "others"), name));
            },
            nb::arg("size_bytes"), nb::kw_only(), nb::arg("others") = "read_write", nb::arg("name") = "trtlab",
            nb::sig("def create(size_bytes: int, *, others: str = 'read_write', name: str = 'trtlab') -> SharedMemory"),
            "New memory, of zeros. ``others``: what whoever attaches may do, \"read_write\" or \"read_only\". Raises "
            "InvalidArgument,\nOutOfMemory.")
        .def_static(
            "attach",
            [](int fd, nb::object size_bytes, const std::string& access, nb::object offset_bytes) {
                const Access checked = access_named(access, "access");
                return Shared(SharedMemory::attach(core::FileDescriptor::duplicate(fd), expected_size(size_bytes),
                                                   checked, to_size(offset_bytes, "shared memory, offset_bytes", 0, 0)),
                              checked == Access::read_only);
            },
            nb::arg("fd"), nb::arg("size_bytes") = nb::none(), nb::kw_only(), nb::arg("access") = "read_write",
            nb::arg("offset_bytes") = 0,
            nb::sig("def attach(fd: int, size_bytes: int | None = None, *, access: str = 'read_write', offset_bytes: "
                    "int = 0) -> SharedMemory"),
            "Memory that another process made; ``fd`` is not trusted, and stays the caller's. None: all of it. Raises "
            "InvalidArgument:\nit is no memory, not sealed, smaller than expected, or may not be written.")
        .def_prop_ro(
            "fd", [](const Shared& self) { return self.get().fd(); },
            "For ``send_descriptor``, ``subprocess``'s pass_fds and the like; it stays this object's.")
        .def(
            "fileno", [](const Shared& self) { return self.get().fd(); }, "As ``fd``.")
        .def_prop_ro(
            "access",
            [](const Shared& self) { return self.get().access() == Access::read_only ? "read_only" : "read_write"; },
            "What this process may do: \"read_write\" or \"read_only\".");
    bind_segment(kind);

    module.def(
        "send_descriptor",
        [](nb::handle socket, nb::handle fd, std::optional<double> timeout) {
            const int to = number_of(socket), what = number_of(fd);
            const core::WaitOptions wait = to_wait(timeout);
            const ReleasedGil unlocked;
            core::send_descriptor(to, what, wait);
        },
        nb::arg("socket"), nb::arg("fd"), nb::arg("timeout") = nb::none(),
        nb::sig("def send_descriptor(socket: typing.Any, fd: typing.Any, timeout: float | None = None) -> None"),
        "Send ``fd`` (an int, or what has a ``fileno()``) to the other end of a Unix socket. Waits up to ``timeout`` "
        "seconds (None: for\never) while the socket is full, without the GIL. Raises InvalidArgument, Timeout, "
        "Closed.");
    module.def(
        "receive_descriptor",
        [](nb::handle socket, std::optional<double> timeout) {
            const int from = number_of(socket);
            const core::WaitOptions wait = to_wait(timeout);
            const ReleasedGil unlocked;
            return core::receive_descriptor(from, wait).release();
        },
        nb::arg("socket"), nb::arg("timeout") = nb::none(),
        nb::sig("def receive_descriptor(socket: typing.Any, timeout: float | None = None) -> int"),
        "Receive what ``send_descriptor`` sent; the caller closes it (``os.close``). Whatever else the peer sends is "
        "closed and refused.\nWaits up to ``timeout`` seconds, without the GIL; Ctrl-C ends the wait. Raises "
        "InvalidArgument, Timeout, Closed.");
}

void bind_system_v(nb::module_& module) {
    nb::class_<SystemV> kind(
        module, "SystemVMemory", nb::is_weak_referenceable(),
        "Memory that several processes of one user see, the old way: by a number.\n\nWithout a key "
        "it goes with the last process that has it, however that ends.");
    kind.def_static(
            "create",
            [](nb::object size_bytes, std::optional<int> key) {
                return SystemV(SystemVMemory::create(to_size(size_bytes, "shared memory, size_bytes", 1, 0), key));
            },
            nb::arg("size_bytes"), nb::arg("key") = nb::none(),
            nb::sig("def create(size_bytes: int, key: int | None = None) -> SystemVMemory"),
            "New memory, of zeros. With a ``key`` it can be found by that until its maker closes it or disables "
            "attachment. Raises\nInvalidArgument, OutOfMemory.")
        .def_static(
            "attach",
            [](int id, nb::object size_bytes) { return SystemV(SystemVMemory::attach(id, expected_size(size_bytes))); },
            nb::arg("id"), nb::arg("size_bytes") = nb::none(),
            nb::sig("def attach(id: int, size_bytes: int | None = None) -> SystemVMemory"),
            "Memory with that number. Raises InvalidArgument: there is none any more, it is another user's, attachment "
            "was disabled,\nor it has fewer bytes than expected.")
        .def_static(
            "attach_key",
            [](int key, nb::object size_bytes) {
                return SystemV(SystemVMemory::attach_key(key, expected_size(size_bytes)));
            },
            nb::arg("key"), nb::arg("size_bytes") = nb::none(),
            nb::sig("def attach_key(key: int, size_bytes: int | None = None) -> SystemVMemory"),
            "As ``attach``, for what was made with a key.")
        .def_prop_ro(
            "id", [](const SystemV& self) { return self.get().id(); }, "For ``attach`` in another process.")
        .def(
            "disable_attachment", [](const SystemV& self) { self.get().disable_attachment(); },
            "From now on nobody attaches; those who have, keep it. Idempotent. Raises Error.");
    bind_segment(kind);
}

}  // namespace

void bind_shared_memory(nb::module_& module) {
    bind_posix(module);
    bind_system_v(module);
}

}  // namespace trtlab::bindings
