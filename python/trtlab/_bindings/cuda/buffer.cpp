#include "buffer.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>

#include "module.hpp"
#include "trtlab/core/dtype.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/tensor.hpp"
#include "trtlab/cuda/memory.hpp"

namespace trtlab::cuda {
namespace nb = nanobind;
using bindings::ReleasedGil;

namespace {

std::shared_ptr<core::MemoryResource> resource_of(const Device& device, const std::string& kind) {
    if (kind == "device") return std::make_shared<DeviceMemory>(device);
    if (kind == "pinned") return std::make_shared<PinnedMemory>(device);
    if (kind == "managed") return std::make_shared<ManagedMemory>(device);
    throw core::InvalidArgument("memory of " + device.to_string() +
                                ": kind: expected 'device', 'pinned' or 'managed', got '" + kind + "'");
}

PartOfBlock allocate(const Device& device, std::size_t size_bytes, const std::string& kind) {
    auto block = core::make_ref<Block>(core::Buffer(resource_of(device, kind), size_bytes), device);
    const core::BufferView view = block->buffer.view();
    return {std::move(block), view};
}

/// Bytes, for Python's buffer protocol. They are lent with the block, which stays as long as the buffer does.
int get_buffer(PyObject* self, Py_buffer* view, int flags) noexcept {
    view->obj = nullptr;
    if (!nb::inst_ready(self)) {
        PyErr_SetString(PyExc_BufferError, "this buffer was never initialized");
        return -1;
    }
    PartOfBlock& part = *nb::inst_ptr<PartOfBlock>(self);
    if (!part.view.device.host_accessible()) {
        PyErr_Format(PyExc_BufferError, "this buffer lies in memory of cuda:%d, which the host cannot read: use copy()",
                     part.view.device.index);
        return -1;
    }
    static Py_ssize_t one = 1;
    view->buf = part.view.data;
    view->len = static_cast<Py_ssize_t>(part.view.size_bytes);
    view->itemsize = 1;
    view->readonly = 0;
    view->ndim = 1;
    view->format = (flags & PyBUF_FORMAT) != 0 ? const_cast<char*>("B") : nullptr;
    // The extent of one axis of bytes is their number.
    view->shape =
        (flags & PyBUF_ND) != 0 ? static_cast<Py_ssize_t*>(static_cast<void*>(&part.view.size_bytes)) : nullptr;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? &one : nullptr;
    view->suboffsets = nullptr;
    view->internal = nullptr;
    Py_INCREF(self);
    view->obj = self;
    return 0;
}

core::Tensor tensor_over(const PartOfBlock& part, std::string_view dtype, const std::vector<std::int64_t>& shape) {
    const core::TensorView view(part.view.data, core::dtype_from_name(dtype), core::Shape(shape), part.view.device);
    if (view.dtype() == core::DType::bytes)
        throw core::InvalidArgument("an array in memory of " + part.view.device.to_string() +
                                    " holds numbers, and no byte strings");
    if (view.size_bytes() > part.view.size_bytes) {
        throw core::InvalidArgument("an array " + std::string(dtype) + view.shape().to_string() + " has " +
                                    std::to_string(view.size_bytes()) + " bytes, and its buffer " +
                                    std::to_string(part.view.size_bytes));
    }
    return core::Tensor(view, part.block);
}

/// Bytes of a dense array. Throws InvalidArgument: an unknown dtype, a negative extent, an overflow, byte strings.
std::size_t dense_bytes(std::string_view dtype, const std::vector<std::int64_t>& shape) {
    const core::DType type = core::dtype_from_name(dtype);
    if (type == core::DType::bytes)
        throw core::InvalidArgument("an array in a GPU's memory holds numbers, and no byte strings");
    return core::checked_mul(core::Shape(shape).elements(), core::size_of(type));
}

}  // namespace

void bind_buffer(nb::module_& module) {
    static PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)}, {0, nullptr}};
    nb::class_<PartOfBlock>(module, "Buffer", nb::type_slots(slots), nb::is_weak_referenceable(), nb::is_final(),
                            "Bytes in the memory of a GPU, or in pinned or managed memory, which are also a Python "
                            "buffer.\n\n"
                            "Given back when the last of its users goes: buffers, slices, tensors, copies under way.")
        .def_prop_ro(
            "address", [](const PartOfBlock& self) { return reinterpret_cast<std::uintptr_t>(self.view.data); },
            "Of the first byte.")
        .def_prop_ro(
            "size_bytes", [](const PartOfBlock& self) { return self.view.size_bytes; }, "Bytes.")
        .def_prop_ro(
            "location", [](const PartOfBlock& self) { return self.view.device.to_string(); },
            "\"cuda:0\", \"cuda_host\" (pinned) or \"cuda_managed:0\".")
        .def_prop_ro(
            "device", [](const PartOfBlock& self) { return self.block->device; }, "The GPU that it is of, or near to.")
        .def(
            "slice",
            [](const PartOfBlock& self, std::size_t offset_bytes, std::size_t size_bytes) {
                return PartOfBlock(self.block, self.view.slice(offset_bytes, size_bytes));
            },
            nb::arg("offset_bytes"), nb::arg("size_bytes"),
            "Part of it, in the same memory. Raises InvalidArgument if that reaches over the end.")
        .def("tensor", &tensor_over, nb::arg("dtype"), nb::arg("shape"),
             nb::sig("def tensor(self, dtype: str, shape: collections.abc.Sequence[int]) -> "
                     "trtlab._bindings._core.Tensor"),
             "A dense tensor over the same memory. Raises InvalidArgument if it does not fit.");
    module.def("allocate", &allocate, nb::arg("device"), nb::arg("size_bytes"), nb::arg("kind"),
               nb::call_guard<ReleasedGil>(), "See trtlab.cuda.allocate.");
    module.def("dense_bytes", &dense_bytes, nb::arg("dtype"), nb::arg("shape"), "Bytes of a dense array.");
}

}  // namespace trtlab::cuda
