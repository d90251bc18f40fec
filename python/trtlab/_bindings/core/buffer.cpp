// Python's Buffer: memory of any resource, as bytes or as an array. It is exported by making a Tensor over it, which every
// consumer then keeps instead of the buffer: so a buffer can be released at any time, and no view dangles.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "convert.hpp"
#include "memory.hpp"
#include "trtlab/core/dtype.hpp"
#include "trtlab/core/pages.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;
using core::DType;

namespace {

int get_buffer(PyObject* self, Py_buffer* view, int flags) noexcept {
    view->obj = nullptr;
    try {
        const nb::object tensor = nb::cast(instance<PartOfBlock>(self).tensor());
        return PyObject_GetBuffer(tensor.ptr(), view, flags);
    } catch (const core::Error& error) {
        PyErr_SetString(PyExc_BufferError, error.what());
    } catch (...) {
        raise_current_exception();
    }
    return -1;
}

nb::object exported(nb::handle self) { return nb::cast(instance<PartOfBlock>(self).tensor()); }

/// A numpy array over the same memory, writable; the elements that numpy lacks by way of their bits.
nb::object numpy(nb::handle self) {
    const PartOfBlock& part = instance<PartOfBlock>(self);
    const core::Tensor tensor = part.tensor();
    if (!in_ml_dtypes(tensor.dtype())) return nb::cast(tensor).attr("numpy")();
    const DType bits = core::size_of(tensor.dtype()) == 2 ? DType::uint16 : DType::uint8;
    return nb::module_::import_("trtlab._arrays")
        .attr("of_bits")(nb::cast(part.tensor(bits, tensor.shape())), std::string(core::name_of(tensor.dtype())));
}

PartOfBlock allocate(const MemoryHandle& memory, std::string_view dtype, const std::vector<std::int64_t>& shape,
                     std::size_t alignment) {
    const DType type = core::dtype_from_name(dtype);
    const core::Shape extents(shape);
    const std::size_t size_bytes = core::checked_mul(extents.elements(), core::size_of(type));
    auto block = core::make_ref<Block>(core::Buffer(memory.resource(), size_bytes, alignment));
    const core::BufferView range = block->buffer.view();
    return PartOfBlock(std::move(block), range, type, extents);
}

/// The bytes of anything with a Python buffer, for as long as the object lives.
class HostBytes {
public:
    explicit HostBytes(nb::handle value) {
        if (PyObject_GetBuffer(value.ptr(), &buffer_, PyBUF_C_CONTIGUOUS) != 0) {
            const nb::python_error error;
            throw core::InvalidArgument("pages of a " + name_of_type(value) +
                                        ": expected a buffer or a dense array in host memory (" +
                                        nb::cast<std::string>(nb::str(error.value())) + ")");
        }
    }
    HostBytes(const HostBytes&) = delete;
    ~HostBytes() { PyBuffer_Release(&buffer_); }
    core::BufferView range() const noexcept { return {buffer_.buf, static_cast<std::size_t>(buffer_.len), {}}; }

private:
    Py_buffer buffer_{};
};

nb::dict page_placement(nb::handle value) {
    const HostBytes bytes(value);
    core::PagePlacement placement;
    {
        const ReleasedGil unlocked;
        placement = core::page_placement(bytes.range());
    }
    nb::dict nodes, all;
    for (const auto& [node, on_node] : placement.bytes_of_node) nodes[nb::int_(node)] = on_node;
    all["bytes_of_node"] = nodes;
    all["absent_bytes"] = placement.absent_bytes;
    return all;
}

std::size_t huge_page_bytes(nb::handle value) {
    const HostBytes bytes(value);
    const ReleasedGil unlocked;
    return core::huge_page_bytes(bytes.range());
}

}  // namespace

void bind_buffer(nb::module_& module) {
    static PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)}, {0, nullptr}};
    nb::class_<PartOfBlock>(
        module, "Buffer", nb::type_slots(slots), nb::is_weak_referenceable(),
        "Memory of some resource, as bytes or as a dense array. ``numpy()``, ``memoryview(buffer)`` and DLPack see the "
        "same\nmemory, without a copy, where the host can read it; GPU libraries see a GPU's.\n\n"
        "The memory is given back when the last of its users goes: buffers, slices, views, tensors, copies under way. "
        "``with``\nreleases the buffer at the end of the block; a view that is left keeps the memory, and never "
        "dangles.")
        .def_prop_ro(
            "address", [](const PartOfBlock& self) { return reinterpret_cast<std::uintptr_t>(self.range().data); },
            "Of the first byte.")
        .def_prop_ro(
            "size_bytes", [](const PartOfBlock& self) { return self.range().size_bytes; }, "Bytes.")
        .def_prop_ro(
            "location", [](const PartOfBlock& self) { return self.range().device.to_string(); },
            "\"cpu\", \"cuda:0\", \"cuda_host\" (pinned) or \"cuda_managed:0\".")
        .def_prop_ro(
            "dtype", [](const PartOfBlock& self) { return core::name_of(self.tensor().dtype()); },
            "Name of the element type, as ``Tensor.dtype``; \"uint8\" for bytes.")
        .def_prop_ro(
            "shape", [](nb::handle self) { return nb::object(exported(self).attr("shape")); },
            nb::sig("def shape(self) -> tuple[int, ...]"), "Extents; the number of bytes for bytes.")
        .def(
            "slice",
            [](const PartOfBlock& self, std::size_t offset_bytes, std::size_t size_bytes) {
                return PartOfBlock(self.owner(), self.range().slice(offset_bytes, size_bytes));
            },
            nb::arg("offset_bytes"), nb::arg("size_bytes"),
            "Part of it as bytes, in the same memory. Raises InvalidArgument if that reaches over the end.")
        .def(
            "tensor",
            [](const PartOfBlock& self, std::string_view dtype, const std::vector<std::int64_t>& shape) {
                return self.tensor(core::dtype_from_name(dtype), core::Shape(shape));
            },
            nb::arg("dtype"), nb::arg("shape"),
            nb::sig("def tensor(self, dtype: str, shape: collections.abc.Sequence[int]) -> Tensor"),
            "A dense tensor over the same memory. Raises InvalidArgument if it does not fit.")
        .def("numpy", &numpy,
             "A numpy array over the same memory. Raises InvalidArgument where the host cannot read it; bfloat16 and "
             "float8_e4m3fn need\nthe package ml_dtypes.")
        .def(
            "__array__",
            [](nb::handle self, nb::args args, nb::kwargs kwargs) {
                return numpy(self).attr("__array__")(*args, **kwargs);
            },
            "For numpy.")
        .def(
            "__dlpack__",
            [](nb::handle self, nb::kwargs options) { return exported(self).attr("__dlpack__")(**options); },
            nb::sig("def __dlpack__(self, **options: typing.Any) -> typing.Any"), "As ``Tensor.__dlpack__``.")
        .def(
            "__dlpack_device__", [](nb::handle self) { return exported(self).attr("__dlpack_device__")(); },
            nb::sig("def __dlpack_device__(self) -> tuple[int, int]"), "As ``Tensor.__dlpack_device__``.")
        .def_prop_ro(
            "__cuda_array_interface__",
            [](nb::handle self) { return nb::object(exported(self).attr("__cuda_array_interface__")); },
            nb::sig("def __cuda_array_interface__(self) -> dict[str, typing.Any]"),
            "As ``Tensor.__cuda_array_interface__``.")
        .def("release", &PartOfBlock::release,
             "Give up this buffer's share in the memory, which goes back if it was the last. Idempotent. Without the "
             "GIL.")
        .def_prop_ro("released", &PartOfBlock::released, "Whether it was; all else then raises Closed.")
        .def(
            "__enter__", [](nb::handle self) { return nb::borrow(self); },
            nb::sig("def __enter__(self) -> typing_extensions.Self"))
        .def(
            "__exit__", [](PartOfBlock& self, nb::args) { self.release(); },
            nb::sig("def __exit__(self, *exc: object) -> None"))
        .def("__repr__", [](const PartOfBlock& self) {
            if (self.released()) return std::string("trtlab.memory.Buffer(released)");
            const core::Tensor tensor = self.tensor();
            return "trtlab.memory.Buffer(" + std::string(core::name_of(tensor.dtype())) + tensor.shape().to_string() +
                   " on " + tensor.device().to_string() + ")";
        });
    module.def("allocate", &allocate, nb::arg("resource"), nb::arg("dtype"), nb::arg("shape"), nb::arg("alignment"),
               nb::call_guard<ReleasedGil>(), "See trtlab.memory.allocate.");
    module.def("page_placement", &page_placement, nb::arg("memory"),
               nb::sig("def page_placement(memory: typing.Any) -> dict[str, typing.Any]"),
               "Where the pages of a buffer in host memory are: ``bytes_of_node`` is a dict of NUMA node -> bytes, and "
               "``absent_bytes``\nis of pages that nobody has written yet. Blocks, without the GIL, about 0.1 us a "
               "page. Raises InvalidArgument,\nError (a kernel without NUMA).");
    module.def("huge_page_bytes", &huge_page_bytes, nb::arg("memory"),
               nb::sig("def huge_page_bytes(memory: typing.Any) -> int"),
               "Bytes of a buffer in host memory that lie in huge pages. Memory that shares its mapping with other "
               "memory is counted with\nit. Blocks, without the GIL. Raises InvalidArgument, Error.");
}

}  // namespace trtlab::bindings
