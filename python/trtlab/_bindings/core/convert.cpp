#include "convert.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <optional>

#include "bridge_registry.hpp"
#include "memory.hpp"
#include "trtlab/core/window_stream.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;
using core::DType;

namespace {

/// Python's struct codes (https://docs.python.org/3/library/struct.html) with the size as told by the buffer, since
/// 'l' has 4 bytes in one notation and 8 in another.
std::optional<DType> dtype_of(char code, Py_ssize_t item_size) noexcept {
    switch (code) {
        case '?':
            return item_size == 1 ? std::optional(DType::boolean) : std::nullopt;
        case 'b':
        case 'h':
        case 'i':
        case 'l':
        case 'q':
        case 'n':
            switch (item_size) {
                case 1:
                    return DType::int8;
                case 2:
                    return DType::int16;
                case 4:
                    return DType::int32;
                case 8:
                    return DType::int64;
                default:
                    return std::nullopt;
            }
        case 'B':
        case 'H':
        case 'I':
        case 'L':
        case 'Q':
        case 'N':
            switch (item_size) {
                case 1:
                    return DType::uint8;
                case 2:
                    return DType::uint16;
                case 4:
                    return DType::uint32;
                case 8:
                    return DType::uint64;
                default:
                    return std::nullopt;
            }
        case 'e':
            return DType::float16;
        case 'f':
            return DType::float32;
        case 'd':
            return item_size == 8 ? std::optional(DType::float64) : std::nullopt;
        default:
            return std::nullopt;
    }
}

std::optional<DType> dtype_of(nb::dlpack::dtype type) noexcept {
    if (type.lanes != 1) return std::nullopt;
    const auto by_size = [&](DType one, DType two, DType four, DType eight) -> std::optional<DType> {
        switch (type.bits) {
            case 8:
                return one;
            case 16:
                return two;
            case 32:
                return four;
            case 64:
                return eight;
            default:
                return std::nullopt;
        }
    };
    if (type.code == kDlpackFloat8E4M3FN && type.bits == 8) return DType::float8_e4m3fn;
    switch (static_cast<nb::dlpack::dtype_code>(type.code)) {
        case nb::dlpack::dtype_code::Bool:
            return type.bits == 8 ? std::optional(DType::boolean) : std::nullopt;
        case nb::dlpack::dtype_code::Int:
            return by_size(DType::int8, DType::int16, DType::int32, DType::int64);
        case nb::dlpack::dtype_code::UInt:
            return by_size(DType::uint8, DType::uint16, DType::uint32, DType::uint64);
        case nb::dlpack::dtype_code::Float:
            return type.bits == 8 ? std::nullopt
                                  : by_size(DType::float16, DType::float16, DType::float32, DType::float64);
        case nb::dlpack::dtype_code::Bfloat:
            return type.bits == 16 ? std::optional(DType::bfloat16) : std::nullopt;
        default:
            return std::nullopt;
    }
}

/// A DLPack import, freed under the GIL.
class BorrowedArray final : public Garbage {
public:
    explicit BorrowedArray(nb::ndarray<nb::ro> array_) : array(std::move(array_)) {}
    const nb::ndarray<nb::ro> array;
};

}  // namespace

bool read_only(const core::Tensor& tensor) noexcept {
    const core::RefCounted* owner = tensor.owner().get();
    if (const auto* buffers = dynamic_cast<const BorrowedBuffers*>(owner)) return !buffers->writable;
    if (const auto* shared = dynamic_cast<const SharedBlock*>(owner)) return shared->read_only;
    // Windows that overlap see the same memory.
    return dynamic_cast<const Garbage*>(owner) != nullptr || dynamic_cast<const core::WindowLease*>(owner) != nullptr;
}

void Conversion::refuse(const core::TensorSpec& spec, const std::string& problem) const {
    const std::string message = "model '" + model_.name + "', " + direction_ + " '" + spec.name + "': expected " +
                                spec.to_string() + ", got " + problem;
    // The caller of `infer` gave nothing wrong if it is an output.
    if (returned_) {
        throw core::EngineError(message + " (returned by the model's function)");
    }
    throw core::InvalidArgument(message);
}

bool Conversion::from_buffer(nb::handle value, const core::TensorSpec& spec, core::Tensor& tensor) {
    // A value may take two: the buffer that could not be used, and that of the array made from it.
    // Inputs of one request share the bookkeeping; an answer's arrays go their own ways.
    if (!buffers_ || returned_) buffers_ = BorrowedBuffers::make(2 * count_);
    Py_buffer* view = buffers_->next();
    if (PyObject_GetBuffer(value.ptr(), view, PyBUF_FORMAT | PyBUF_STRIDES) != 0) {
        buffers_->forget_last();
        PyErr_Clear();
        return false;
    }
    const char* format = view->format == nullptr ? "B" : view->format;
    const bool swapped = *format == '>' || *format == '!';
    if (*format == '@' || *format == '=' || *format == '<' || swapped) ++format;
    const std::optional<DType> dtype =
        format[0] != '\0' && format[1] == '\0' ? dtype_of(format[0], view->itemsize) : std::nullopt;
    if (!dtype) return false;
    if (swapped && view->itemsize > 1) {
        refuse(spec, "an array of the other byte order (format '" + std::string(view->format) +
                         "'): convert it with array.astype(array.dtype.newbyteorder('='))");
    }
    if (view->ndim > static_cast<int>(core::kMaxRank)) {
        refuse(spec, "an array of rank " + std::to_string(view->ndim) + ", above the supported " +
                         std::to_string(core::kMaxRank));
    }
    static_assert(sizeof(Py_ssize_t) == sizeof(std::int64_t));
    std::array<std::int64_t, core::kMaxRank> shape{}, strides{};
    // ctypes leaves the strides out, although they were asked for: its arrays are dense.
    std::int64_t dense = view->itemsize;
    for (int axis = view->ndim; axis-- > 0;) {
        shape[axis] = view->shape[axis];
        strides[axis] = view->strides != nullptr ? view->strides[axis] : dense;
        dense *= shape[axis];
    }
    const auto rank = static_cast<std::size_t>(view->ndim);
    tensor = core::Tensor(core::TensorView(view->buf, *dtype, core::Shape(std::span(shape.data(), rank)),
                                           core::Shape(std::span(strides.data(), rank))),
                          buffers_);
    buffers_->writable = returned_ && view->readonly == 0;
    return true;
}

core::Tensor Conversion::from_dlpack(nb::handle value, const core::TensorSpec& spec) {
    // Asked first, as the protocol wants it: an exporter on another device fails in ways that say less.
    const core::Device told = nb::hasattr(value, "__dlpack_device__") ? dlpack_device(value, spec) : core::Device{};
    nb::ndarray<nb::ro> array;
    core::Ref<const core::Fence> fence;
    if (on_gpu(told)) {
        DeviceBridge& bridge = device_bridge();
        const std::uintptr_t stream = bridge.stream(told.index);
        if (!nb::try_cast(dlpack_capsule(value, spec, stream), array)) {
            PyErr_Clear();
            refuse_export(value, spec, "cannot be read");
        }
        fence = bridge.fence_after(told.index, stream);
    } else if (!nb::try_cast(value, array)) {
        PyErr_Clear();
        refuse_export(value, spec, "failed (a tensor that requires grad? use .detach())");
    }
    const core::Device device = readable(value, spec, array.device_type(), array.device_id());
    if ((on_gpu(told) || on_gpu(device)) && device != told) {
        refuse_export(value, spec, "lies in " + device.to_string() + ", and not in " + told.to_string() + " as told");
    }
    const std::optional<DType> dtype = dtype_of(array.dtype());
    if (!dtype) refuse(spec, "a " + name_of_type(value) + " of an element type that has no equivalent here");
    std::vector<std::int64_t> shape, strides;
    for (std::size_t axis = 0; axis < array.ndim(); ++axis) {
        shape.push_back(static_cast<std::int64_t>(array.shape(axis)));
        strides.push_back(array.stride(axis) * static_cast<std::int64_t>(core::size_of(*dtype)));
    }
    // Pinned memory is told by some in one place only, and torch is one of them.
    const core::TensorView view(const_cast<void*>(static_cast<const void*>(array.data())), *dtype, core::Shape(shape),
                                core::Shape(strides), std::max(told, device));
    core::Tensor tensor(view, core::make_ref<BorrowedArray>(std::move(array)));
    tensor.set_fence(std::move(fence));
    return tensor;
}

core::Tensor Conversion::from_strings(nb::handle value, const core::TensorSpec& spec) {
    // -> (list of bytes in row-major order, shape)
    const nb::object flat =
        nb::module_::import_("trtlab._arrays").attr("byte_strings")(value, model_.name, direction_, spec.name);
    const nb::list items = nb::cast<nb::list>(flat[0]);
    std::vector<std::string_view> views;
    views.reserve(nb::len(items));
    for (nb::handle item : items) {
        const nb::bytes bytes = nb::cast<nb::bytes>(item);
        views.emplace_back(static_cast<const char*>(bytes.data()), bytes.size());
    }
    const auto shape = nb::cast<std::vector<std::int64_t>>(flat[1]);
    return core::Tensor::from_strings(views, core::Shape(shape));
}

core::Tensor Conversion::operator()(nb::handle value, const core::TensorSpec& spec) {
    // The class is final, so comparing addresses is enough, and cheaper than looking the type up.
    static const nb::handle tensor_type = nb::type<core::Tensor>();
    if (value.type().is(tensor_type)) return instance<core::Tensor>(value);
    if (spec.dtype == DType::bytes) return from_strings(value, spec);
    core::Tensor tensor;
    if (PyObject_CheckBuffer(value.ptr()) != 0 && from_buffer(value, spec, tensor)) return tensor;
    if (!nb::hasattr(value, "__array_interface__")) {
        if (nb::hasattr(value, "__dlpack__")) return from_dlpack(value, spec);
        const nb::object interface = nb::getattr(value, "__cuda_array_interface__", nb::handle());
        if (interface.is_valid()) return from_cuda_array(value, interface, spec);
    }
    // Scalars, nested lists, and arrays whose element type the buffer protocol cannot say.
    const nb::object array = nb::module_::import_("trtlab._arrays")
                                 .attr("as_array")(value, std::string(core::name_of(spec.dtype)), model_.name,
                                                   direction_, spec.name, spec.to_string());
    if (PyObject_CheckBuffer(array.ptr()) == 0 || !from_buffer(array, spec, tensor)) {
        refuse(spec, "a " + name_of_type(value) + " that is no array of numbers");
    }
    if (in_ml_dtypes(spec.dtype)) {
        return core::Tensor(core::TensorView(tensor.data(), spec.dtype, tensor.shape(), tensor.strides_bytes()),
                            tensor.owner());
    }
    return tensor;
}

}  // namespace trtlab::bindings
