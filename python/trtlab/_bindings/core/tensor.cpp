#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "bridge_registry.hpp"
#include "convert.hpp"
#include "module.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;
using core::DType;
using core::Tensor;

namespace {

constexpr const char* kWayOut =
    ": the host cannot read it; take tensor.to_host(), or hand the tensor to a GPU library through DLPack";

/// A tensor that the host reads. Throws InvalidArgument, with the way out.
const Tensor& readable(nb::handle self) {
    const Tensor& tensor = instance<Tensor>(self);
    if (!tensor.device().host_accessible()) {
        throw core::InvalidArgument("this tensor lies in memory of " + tensor.device().to_string() + kWayOut);
    }
    return tensor;
}

/// Struct codes; null where Python's buffer protocol has none.
const char* format_of(DType dtype) noexcept {
    switch (dtype) {
        case DType::boolean:
            return "?";
        case DType::int8:
            return "b";
        case DType::int16:
            return "h";
        case DType::int32:
            return "i";
        case DType::int64:
            return "l";
        case DType::uint8:
            return "B";
        case DType::uint16:
            return "H";
        case DType::uint32:
            return "I";
        case DType::uint64:
            return "L";
        case DType::float16:
            return "e";
        case DType::float32:
            return "f";
        case DType::float64:
            return "d";
        case DType::float8_e4m3fn:
        case DType::bfloat16:
        case DType::bytes:
            return nullptr;
    }
    return nullptr;
}

// The shape and the strides are read out of the tensor itself, which the buffer's reference keeps alive.
int get_buffer(PyObject* self, Py_buffer* view, int flags) noexcept {
    view->obj = nullptr;
    if (!nb::inst_ready(self)) {
        PyErr_SetString(PyExc_BufferError, "this tensor was never initialized");
        return -1;
    }
    const Tensor& tensor = *nb::inst_ptr<Tensor>(self);
    const char* format = format_of(tensor.dtype());
    if (format == nullptr) {
        PyErr_Format(PyExc_BufferError, "a tensor of dtype %s has no Python buffer: use numpy() or DLPack",
                     std::string(core::name_of(tensor.dtype())).c_str());
        return -1;
    }
    if (!tensor.device().host_accessible()) {
        PyErr_Format(PyExc_BufferError, "this tensor lies in memory of cuda:%d%s", tensor.device().index, kWayOut);
        return -1;
    }
    const bool readonly = read_only(tensor);
    if ((flags & PyBUF_WRITABLE) != 0 && readonly) {
        PyErr_SetString(
            PyExc_BufferError,
            "this tensor sees memory that others see, of a caller or of a stream's window: it is read-only");
        return -1;
    }
    const int dense = (PyBUF_C_CONTIGUOUS | PyBUF_F_CONTIGUOUS | PyBUF_ANY_CONTIGUOUS) & ~PyBUF_STRIDES;
    if (!tensor.contiguous() && ((flags & PyBUF_STRIDES) != PyBUF_STRIDES || (flags & dense) != 0)) {
        PyErr_SetString(PyExc_BufferError, "this tensor is not contiguous: ask for strides, or copy it");
        return -1;
    }
    if ((flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS && tensor.shape().rank() > 1) {
        PyErr_SetString(PyExc_BufferError, "this tensor is in row-major order");
        return -1;
    }
    // An address is owed even where there is nothing to see.
    static char nothing[1];
    view->buf = tensor.data() != nullptr ? tensor.data() : nothing;
    view->len = static_cast<Py_ssize_t>(tensor.size_bytes());
    view->itemsize = static_cast<Py_ssize_t>(core::size_of(tensor.dtype()));
    view->readonly = readonly ? 1 : 0;
    view->ndim = static_cast<int>(tensor.shape().rank());
    view->format = (flags & PyBUF_FORMAT) != 0 ? const_cast<char*>(format) : nullptr;
    view->shape = (flags & PyBUF_ND) != 0 ? const_cast<Py_ssize_t*>(tensor.shape().data()) : nullptr;
    view->strides =
        (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? const_cast<Py_ssize_t*>(tensor.strides_bytes().data()) : nullptr;
    view->suboffsets = nullptr;
    view->internal = nullptr;
    Py_INCREF(self);
    view->obj = self;
    return 0;
}

nb::dlpack::dtype dlpack_type(const Tensor& tensor) {
    const auto make = [&](nb::dlpack::dtype_code code) {
        return nb::dlpack::dtype{static_cast<std::uint8_t>(code),
                                 static_cast<std::uint8_t>(core::size_of(tensor.dtype()) * 8), 1};
    };
    switch (tensor.dtype()) {
        case DType::boolean:
            return make(nb::dlpack::dtype_code::Bool);
        case DType::int8:
        case DType::int16:
        case DType::int32:
        case DType::int64:
            return make(nb::dlpack::dtype_code::Int);
        case DType::uint8:
        case DType::uint16:
        case DType::uint32:
        case DType::uint64:
            return make(nb::dlpack::dtype_code::UInt);
        case DType::float16:
        case DType::float32:
        case DType::float64:
            return make(nb::dlpack::dtype_code::Float);
        case DType::float8_e4m3fn:
            return make(static_cast<nb::dlpack::dtype_code>(kDlpackFloat8E4M3FN));
        case DType::bfloat16:
            return make(nb::dlpack::dtype_code::Bfloat);
        case DType::bytes:
            break;
    }
    throw core::InvalidArgument("a tensor of byte strings has no DLPack form: use tolist() or numpy()");
}

nb::object to_host(nb::handle self) {
    const Tensor& tensor = instance<Tensor>(self);
    if (tensor.device().host_accessible()) return nb::borrow(self);
    return nb::cast(device_bridge().to_host(tensor));
}

/// Exports the memory as that of `device`.
nb::object export_as(core::Device device, nb::handle self, const nb::kwargs& options) {
    const Tensor& tensor = instance<Tensor>(self);
    std::vector<std::size_t> shape(tensor.shape().begin(), tensor.shape().end());
    std::vector<std::int64_t> strides;
    for (std::int64_t stride : tensor.strides_bytes())
        strides.push_back(stride / static_cast<std::int64_t>(core::size_of(tensor.dtype())));
    const auto call = [&](auto array) {
        return nb::cast(array, nb::rv_policy::reference).attr("__dlpack__")(**options);
    };
    const int type = static_cast<int>(device.type);
    if (read_only(tensor)) {
        return call(nb::ndarray<nb::ro, nb::array_api>(tensor.data(), shape.size(), shape.data(), self, strides.data(),
                                                       dlpack_type(tensor), type, device.index));
    }
    return call(nb::ndarray<nb::array_api>(tensor.data(), shape.size(), shape.data(), self, strides.data(),
                                           dlpack_type(tensor), type, device.index));
}

/// What others are told. Pinned memory is the CPU's: who knows that it is more, as models of ours do, sees it anyway, and
/// PyTorch (2.11) knows no such kind of memory.
core::Device exported_device(const Tensor& tensor) noexcept {
    return tensor.device().type == core::DeviceType::cuda_host ? core::Device{} : tensor.device();
}

/// What a model answers is ready; a stream's window in a GPU's memory may still be on its way.
void wait_until_ready(const Tensor& tensor) {
    if (tensor.fence()) device_bridge().wait(*tensor.fence());
}

// It is ready then: whatever stream the consumer names may read it at once.
nb::object dlpack(nb::handle self, nb::kwargs options) {
    wait_until_ready(instance<Tensor>(self));
    const core::Device device = exported_device(instance<Tensor>(self));
    const auto option = [&](const char* name) {
        return options.contains(name) ? nb::object(options[name]) : nb::object(nb::none());
    };
    const core::Device real = instance<Tensor>(self).device();
    if (option("dl_device").equal(nb::make_tuple(static_cast<int>(real.type), real.index))) {
        return export_as(real, self, options);
    }
    const nb::tuple host = nb::make_tuple(nb::device::cpu::value, 0);
    if (device == core::Device{} || !option("dl_device").equal(host)) return export_as(device, self, options);
    if (device.host_accessible()) return export_as({}, self, options);
    if (option("copy").is(nb::bool_(false))) {
        throw nb::buffer_error("the host cannot have this tensor's memory without a copy");
    }
    nb::kwargs rest = nb::borrow<nb::kwargs>(nb::dict(options).attr("copy")());
    if (rest.contains("copy")) nb::del(rest["copy"]);
    return export_as({}, to_host(self), rest);
}

nb::tuple dlpack_device(const Tensor& tensor) {
    const core::Device device = exported_device(tensor);
    return nb::make_tuple(static_cast<int>(device.type), device.index);
}

nb::tuple shape_tuple(const core::Shape& shape) {
    nb::list items;
    for (std::int64_t extent : shape) items.append(extent);
    return nb::tuple(items);
}

nb::dict cuda_array_interface(const Tensor& tensor) {
    if (!on_gpu(tensor.device())) throw nb::attribute_error("__cuda_array_interface__: this tensor is in host memory");
    wait_until_ready(tensor);
    const auto type = dlpack_type(tensor);
    const char* kind = nullptr;
    switch (static_cast<nb::dlpack::dtype_code>(type.code)) {
        case nb::dlpack::dtype_code::Bool:
            kind = "|b";
            break;
        case nb::dlpack::dtype_code::Int:
            kind = "<i";
            break;
        case nb::dlpack::dtype_code::UInt:
            kind = "<u";
            break;
        case nb::dlpack::dtype_code::Float:
            kind = "<f";
            break;
        default:
            throw nb::attribute_error("__cuda_array_interface__: numpy has no name for this dtype; use DLPack");
    }
    nb::dict interface;
    interface["version"] = 3;
    interface["shape"] = shape_tuple(tensor.shape());
    interface["strides"] =
        tensor.contiguous() ? nb::object(nb::none()) : nb::object(shape_tuple(tensor.strides_bytes()));
    interface["typestr"] = kind + std::to_string(type.bits / 8);
    interface["data"] = nb::make_tuple(reinterpret_cast<std::uintptr_t>(tensor.data()), read_only(tensor));
    interface["stream"] = nb::none();  // it is ready
    return interface;
}

nb::list byte_strings(const Tensor& tensor) {
    std::vector<std::string_view> views(tensor.elements());
    tensor.copy_to(views.data());
    nb::list items;
    for (std::string_view view : views) items.append(nb::bytes(view.data(), view.size()));
    return items;
}

core::Dimension to_dimension(nb::handle value, const std::string& tensor) {
    std::int64_t low = 0, high = 0;
    if (value.is_none()) return core::Dimension();
    if (nb::try_cast(value, low) && low >= 0) return core::Dimension(low);
    if (nb::isinstance<nb::tuple>(value) && nb::len(value) == 2 && nb::try_cast(nb::object(value[0]), low) &&
        low >= 0) {
        const nb::object upper = value[1];
        if (upper.is_none()) return core::Dimension(low, core::Dimension::kUnbounded);
        if (nb::try_cast(upper, high) && high >= low) return core::Dimension(low, high);
    }
    throw core::InvalidArgument("tensor '" + tensor + "': an axis is an int >= 0, None for any, or (min, max), got " +
                                nb::cast<std::string>(nb::str(nb::repr(value))));
}

nb::object from_dimension(const core::Dimension& dimension) {
    if (!dimension.dynamic()) return nb::int_(dimension.min);
    if (dimension.min <= 1 && dimension.max == core::Dimension::kUnbounded) return nb::none();
    const nb::object high =
        dimension.max == core::Dimension::kUnbounded ? nb::object(nb::none()) : nb::object(nb::int_(dimension.max));
    return nb::make_tuple(dimension.min, high);
}

nb::object spec_shape(const core::TensorSpec& spec) {
    if (spec.any_rank) return nb::none();
    nb::list dims;
    for (const core::Dimension& dimension : spec.shape) dims.append(from_dimension(dimension));
    return nb::tuple(dims);
}

}  // namespace

void bind_tensor(nb::module_& module) {
    static PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)}, {0, nullptr}};
    nb::class_<Tensor>(
        module, "Tensor", nb::type_slots(slots), nb::is_weak_referenceable(), nb::is_final(),
        "A model's answer: n-dimensional data that keeps its memory alive.\n\n"
        "``numpy.asarray(tensor)`` and any DLPack consumer see the same memory, without a copy. In the memory of a GPU "
        "(``device``)\n"
        "only GPU libraries see it; ``to_host()`` copies.")
        .def_prop_ro(
            "shape", [](const Tensor& self) { return shape_tuple(self.shape()); },
            nb::sig("def shape(self) -> tuple[int, ...]"), "Extents.")
        .def_prop_ro(
            "dtype", [](const Tensor& self) { return core::name_of(self.dtype()); },
            "Name of the element type, as numpy's: 'float32', ...; also 'bfloat16', 'float8_e4m3fn' and 'bytes'.")
        .def_prop_ro(
            "device", [](const Tensor& self) { return self.device().to_string(); },
            "Where the memory is: 'cpu', 'cuda_host' (pinned), 'cuda:0', 'cuda_managed:0'.")
        .def_prop_ro(
            "ndim", [](const Tensor& self) { return self.shape().rank(); }, "Number of axes.")
        .def_prop_ro("size", &Tensor::elements, "Number of elements.")
        .def_prop_ro("nbytes", &Tensor::size_bytes, "Bytes of a dense copy, without the payload of byte strings.")
        .def(
            "numpy",
            [](nb::handle self) {
                readable(self);
                return nb::module_::import_("trtlab._arrays").attr("to_numpy")(self);
            },
            "A numpy array over the same memory; InvalidArgument if that is a GPU's (see ``to_host``). Byte strings "
            "become an object array of bytes; bfloat16 and float8_e4m3fn need the package\n"
            "ml_dtypes (InvalidArgument without it).")
        .def(
            "__array__",
            [](nb::handle self, nb::args args, nb::kwargs kwargs) {
                readable(self);
                nb::object array = nb::module_::import_("trtlab._arrays").attr("to_numpy")(self);
                return array.attr("__array__")(*args, **kwargs);
            },
            "For numpy.")
        .def(
            "tolist", [](nb::handle self) { return self.attr("numpy")().attr("tolist")(); },
            nb::sig("def tolist(self) -> typing.Any"), "Nested lists of Python values.")
        .def("__dlpack__", &dlpack, nb::sig("def __dlpack__(self, **options: typing.Any) -> typing.Any"),
             "Exports the memory (https://dmlc.github.io/dlpack): it is ready, whatever ``stream`` says. A GPU's is "
             "copied "
             "for\n"
             "``dl_device=(1, 0)``, without the GIL. InvalidArgument for byte strings, BufferError for what cannot be "
             "done.")
        .def("__dlpack_device__", &dlpack_device, nb::sig("def __dlpack_device__(self) -> tuple[int, int]"),
             "(1, 0): the CPU, also for pinned memory; (2, n): the memory of GPU n, (13, n): managed memory.")
        .def_prop_ro("__cuda_array_interface__", &cuda_array_interface,
                     nb::sig("def __cuda_array_interface__(self) -> dict[str, typing.Any]"),
                     "For GPU libraries without DLPack, version 3. AttributeError on a tensor in host memory.")
        .def(
            "_bits",
            [](nb::handle object) {
                const Tensor& self = readable(object);
                const Tensor dense = self.contiguous() ? self : Tensor::copy_of(self);
                return nb::bytes(dense.data(), dense.size_bytes());
            },
            "The elements' bits, densely.")
        .def(
            "to_host", &to_host, nb::sig("def to_host(self) -> Tensor"),
            "The tensor itself if the host can read it, else a copy in host memory. Blocks, without the GIL, until the "
            "copy is\n"
            "done. Raises OutOfMemory, CudaError.")
        .def("_byte_strings", &byte_strings, nb::sig("def _byte_strings(self) -> list[bytes]"),
             "The elements of a tensor of byte strings, in row-major order.")
        .def("__len__",
             [](const Tensor& self) {
                 if (self.shape().rank() == 0) throw nb::type_error("a tensor of rank 0 has no length");
                 return self.shape()[0];
             })
        .def("__repr__", [](const Tensor& self) {
            std::string text = "trtlab.Tensor(" + std::string(core::name_of(self.dtype())) + self.shape().to_string();
            if (self.device() != core::Device{}) text += " on " + self.device().to_string();
            return text + ")";
        });

    nb::class_<core::TensorSpec>(module, "TensorSpec", "Name, dtype and shape of one input or output of a model.")
        .def(
            "__init__",
            [](core::TensorSpec* self, std::string name, std::string_view dtype,
               nb::typed<nb::sequence, nb::object> shape) {
                core::TensorSpec spec{.name = std::move(name), .dtype = core::dtype_from_name(dtype)};
                for (nb::handle axis : shape) spec.shape.push_back(to_dimension(axis, spec.name));
                new (self) core::TensorSpec(std::move(spec));
            },
            nb::arg("name"), nb::arg("dtype"), nb::arg("shape"),
            nb::sig("def __init__(self, name: str, dtype: str, shape: collections.abc.Sequence[int | None | tuple[int, "
                    "int | None]]) -> None"),
            "``shape`` has an int for a fixed axis, None for any extent, (min, max) for a range (max None: "
            "unbounded).\n"
            "Raises InvalidArgument for an unknown dtype.")
        .def_ro("name", &core::TensorSpec::name)
        .def_prop_ro(
            "dtype", [](const core::TensorSpec& self) { return core::name_of(self.dtype); }, "As ``Tensor.dtype``.")
        .def_prop_ro("shape", &spec_shape,
                     nb::sig("def shape(self) -> tuple[int | None | tuple[int, int | None], ...] | None"),
                     "Extents as given to the constructor; None as a whole if even the rank may vary.")
        .def(
            "__eq__", [](const core::TensorSpec& self, const core::TensorSpec& other) { return self == other; },
            nb::is_operator(), nb::sig("def __eq__(self, other: object, /) -> bool"))
        .def("__hash__",
             [](const core::TensorSpec& self) { return std::hash<std::string>()(self.name + self.to_string()); })
        .def("__repr__",
             [](const core::TensorSpec& self) { return "TensorSpec('" + self.name + "', " + self.to_string() + ")"; });
}

}  // namespace trtlab::bindings
