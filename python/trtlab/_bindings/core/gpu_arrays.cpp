// GPU memory on its way in: which of it a model reads, and what its exporters are asked and told.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <vector>

#include "bridge_registry.hpp"
#include "convert.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;
using core::Device;
using core::DeviceType;
using core::DType;

namespace {

/// The newest major version of DLPack whose tensors are understood.
constexpr std::uint32_t kDlpackMajor = 1;

/// A type string of numpy's, such as "<f4".
std::optional<DType> dtype_of(std::string_view typestr) {
    int size = 0;
    if (typestr.size() != 3 || std::string_view("<|=").find(typestr[0]) == std::string_view::npos ||
        std::from_chars(typestr.data() + 2, typestr.data() + 3, size).ec != std::errc() || size == 0 ||
        (size & (size - 1)) != 0) {
        return std::nullopt;
    }
    const std::string bits = std::to_string(8 * size);
    switch (typestr[1]) {
        case 'b':
            return size == 1 ? std::optional(DType::boolean) : std::nullopt;
        case 'i':
            return core::dtype_from_name("int" + bits);
        case 'u':
            return core::dtype_from_name("uint" + bits);
        case 'f':
            return size > 1 ? std::optional(core::dtype_from_name("float" + bits)) : std::nullopt;
        default:
            return std::nullopt;
    }
}

/// What a `__cuda_array_interface__` says, https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
class CudaArray {
public:
    /// Throws InvalidArgument with what is wrong.
    explicit CudaArray(nb::handle interface) {
        if (!nb::isinstance<nb::dict>(interface)) broken("is no dict");
        entries_ = nb::borrow<nb::dict>(interface);
        if (!nb::try_cast(entry("version"), version) || version < 2 || version > 3) {
            broken("has version " + shown("version") + ": expected 2 or 3");
        }
        if (!entry("mask").is_none()) broken("has a mask: expected an array without one");
        std::string typestr;
        if (!nb::try_cast(entry("typestr"), typestr)) broken("has typestr " + shown("typestr"));
        if (typestr.starts_with('>')) broken("has the other byte order (typestr '" + typestr + "')");
        const std::optional<DType> dtype = dtype_of(typestr);
        if (!dtype) broken("has an element type without equivalent here (typestr '" + typestr + "')");
        read_layout(*dtype);
        read_stream();
    }

    core::TensorView view;
    int version = 0;
    std::uintptr_t stream = 0;  ///< 0: none

private:
    [[noreturn]] static void broken(const std::string& how) { throw core::InvalidArgument(how); }

    nb::object entry(const char* key) const {
        return entries_.contains(key) ? nb::object(entries_[key]) : nb::object(nb::none());
    }
    std::string shown(const char* key) const { return nb::cast<std::string>(nb::str(nb::repr(entry(key)))); }

    void read_layout(DType dtype) {
        std::vector<std::int64_t> shape, strides;
        if (!nb::try_cast(entry("shape"), shape)) broken("has shape " + shown("shape") + ": expected a tuple of ints");
        const bool dense = entry("strides").is_none();
        if (!dense && (!nb::try_cast(entry("strides"), strides) || strides.size() != shape.size())) {
            broken("has strides " + shown("strides") + " for the shape " + shown("shape"));
        }
        std::uintptr_t address = 0;
        bool read_only = false;
        const nb::object data = entry("data");
        if (!nb::isinstance<nb::tuple>(data) || nb::len(data) != 2 || !nb::try_cast(nb::object(data[0]), address) ||
            !nb::try_cast(nb::object(data[1]), read_only)) {
            broken("has data " + shown("data") + ": expected (address, read-only)");
        }
        void* const at = reinterpret_cast<void*>(address);
        view = dense ? core::TensorView(at, dtype, core::Shape(shape))
                     : core::TensorView(at, dtype, core::Shape(shape), core::Shape(strides));
        if (at == nullptr && view.elements() > 0) broken("has a null address");
    }

    void read_stream() {
        const nb::object value = entry("stream");
        if (!value.is_none()) {
            if (!nb::try_cast(value, stream) || stream == 0) {
                broken("has stream " + shown("stream") + ": expected None, 1, 2 or a stream's handle");
            }
        } else if (version == 2) {
            // It could not tell its stream: the one that all others waited for in its time.
            stream = 1;
        }
    }

    nb::dict entries_;
};

}  // namespace

std::string name_of_type(nb::handle value) { return nb::cast<std::string>(nb::str(nb::type_name(value.type()))); }

void Conversion::refuse_export(nb::handle value, const core::TensorSpec& spec, const std::string& problem) const {
    refuse(spec, "a " + name_of_type(value) + " whose DLPack export " + problem);
}

void Conversion::refuse_device(nb::handle value, const core::TensorSpec& spec, const std::string& where) const {
    std::string readable = "this model reads host memory";
    for (const std::int32_t index : model_.cuda_devices) readable += " or cuda:" + std::to_string(index);
    refuse(spec, "a " + name_of_type(value) + " in memory of another device (" + where + "): " + readable +
                     ", copy it there first");
}

Device Conversion::readable(nb::handle value, const core::TensorSpec& spec, int type, int index) const {
    switch (type) {
        case nb::device::cpu::value:
            return {};
        case nb::device::cuda_host::value:
            return {DeviceType::cuda_host, 0};
        case nb::device::cuda::value:
        case nb::device::cuda_managed::value: {
            const Device device{static_cast<DeviceType>(type), index};
            const auto& read = model_.cuda_devices;
            if (std::find(read.begin(), read.end(), index) != read.end()) return device;
            if (!read.empty()) refuse_device(value, spec, device.to_string());
        }
    }
    refuse_device(value, spec, "DLPack device type " + std::to_string(type));
}

Device Conversion::dlpack_device(nb::handle value, const core::TensorSpec& spec) const {
    int type = 0, index = 0;
    try {
        const nb::object told = value.attr("__dlpack_device__")();
        if (!nb::isinstance<nb::tuple>(told) || nb::len(told) != 2 || !nb::try_cast(nb::object(told[0]), type) ||
            !nb::try_cast(nb::object(told[1]), index)) {
            refuse_export(value, spec, "tells no device: __dlpack_device__() is no (type, index)");
        }
    } catch (nb::python_error& error) {
        if (!error.matches(PyExc_Exception)) throw;  // Ctrl-C, for example
        refuse_export(value, spec, "tells no device: " + describe(error.value()));
    }
    return readable(value, spec, type, index);
}

nb::object Conversion::dlpack_capsule(nb::handle value, const core::TensorSpec& spec, std::uintptr_t stream) const {
    nb::object capsule;
    try {
        const nb::object exporter = value.attr("__dlpack__");
        try {
            capsule = exporter(nb::arg("stream") = stream);
        } catch (nb::python_error& error) {
            // Who cannot say in the old format that memory is read-only refuses it.
            if (!error.matches(PyExc_BufferError)) throw;
            try {
                capsule =
                    exporter(nb::arg("stream") = stream, nb::arg("max_version") = nb::make_tuple(kDlpackMajor, 0));
            } catch (nb::python_error& again) {
                // The first refusal tells more than that of an exporter which does not know the argument.
                if (!again.matches(PyExc_TypeError)) throw;
                refuse_export(value, spec, "failed: " + describe(error.value()));
            }
        }
    } catch (nb::python_error& error) {
        if (!error.matches(PyExc_Exception)) throw;
        refuse_export(value, spec, "failed: " + describe(error.value()));
    }
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
        const auto* version =
            static_cast<const std::uint32_t*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
        if (*version > kDlpackMajor) {
            refuse_export(value, spec,
                          "is of version " + std::to_string(*version) + ": expected " + std::to_string(kDlpackMajor) +
                              " or older");
        }
    } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor") == 0) {
        refuse_export(value, spec, "gave no new capsule, but " + nb::cast<std::string>(nb::str(nb::repr(capsule))));
    }
    return capsule;
}

core::Tensor Conversion::from_cuda_array(nb::handle value, nb::handle interface, const core::TensorSpec& spec) {
    std::optional<CudaArray> array;
    try {
        array.emplace(interface);
    } catch (const core::InvalidArgument& error) {
        refuse(spec, "a " + name_of_type(value) + " whose __cuda_array_interface__ " + error.what());
    }
    if (model_.cuda_devices.empty()) refuse_device(value, spec, "by its __cuda_array_interface__");
    core::TensorView& view = array->view;
    // Where nothing is, it is where it is wanted: exporters give no address then.
    Device device{DeviceType::cuda, model_.cuda_devices.front()};
    core::Ref<const core::Fence> fence;
    if (view.elements() > 0) {
        DeviceBridge& bridge = device_bridge();
        const Device found = bridge.device_of(view.data());
        if (found.type == DeviceType::cpu) refuse_device(value, spec, "an address that CUDA does not know");
        const int at = on_gpu(found) ? found.index : device.index;
        device = readable(value, spec, static_cast<int>(found.type), found.index);
        if (array->stream != 0) fence = bridge.fence_after(at, array->stream);
    }
    core::Tensor tensor(core::TensorView(view.data(), view.dtype(), view.shape(), view.strides_bytes(), device),
                        core::make_ref<HeldObject>(nb::borrow(value)));
    tensor.set_fence(std::move(fence));
    return tensor;
}

}  // namespace trtlab::bindings
