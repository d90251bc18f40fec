#include "official_engine.hpp"

#include <nanobind/stl/string.h>

#include <string>
#include <string_view>
#include <typeinfo>

#include "python.hpp"
#include "trtlab/core/error.hpp"

// NVIDIA's bindings are made with pybind11, and their objects answer `_pybind11_conduit_v1_`, pybind11's protocol for other
// extensions (https://github.com/pybind/pybind11/pull/5296): given the name of the compiler's ABI and the type_info of a C++
// class, the object returns a capsule with the pointer, or None. So nothing here is made with pybind11, which would need an
// extension for each version of Python where the wheel has one for all, and nothing reads pybind11's instances, whose layout
// is its own affair. The method was seen in tensorrt 10.16.1 and 11.4.0 and in tensorrt_rtx 1.4.0 and 1.7.1, and not in
// tensorrt 10.7.0 and 10.13.3. That the pointer is an object of the library that is open is checked by Runtime::adopt.

namespace nvinfer1 {
/// Only its name counts: std::type_index compares types of different shared objects by it.
class ICudaEngine {};
}  // namespace nvinfer1

namespace trtlab::tensorrt {
namespace nb = nanobind;

namespace {

constexpr std::string_view kLocal = "__pybind11_module_local_v";
constexpr const char* kConduit = "_pybind11_conduit_v1_";

[[noreturn]] void refuse(nb::handle object, const std::string& why) {
    throw core::InvalidArgument("expected an ICudaEngine of NVIDIA's tensorrt or tensorrt_rtx, got a " +
                                nb::cast<std::string>(nb::str(nb::type_name(object.type()))) + ": " + why);
}

/// What pybind11 calls the compiler's ABI in that module: part of the name of an attribute of its types,
/// __pybind11_module_local_v11_system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_1__.
std::string abi_of(nb::handle type) {
    for (const nb::handle name : nb::borrow<nb::list>(nb::module_::import_("builtins").attr("dir")(type))) {
        const std::string text = nb::cast<std::string>(nb::str(name));
        if (!text.starts_with(kLocal) || !text.ends_with("__")) continue;
        const std::size_t begin = text.find_first_not_of("0123456789_", kLocal.size());
        if (begin != text.npos) return text.substr(begin, text.size() - begin - 2);
    }
    return "system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_1";
}

}  // namespace

void* official_engine(nb::handle object) {
    const nb::handle type = object.type();
    const std::string name = nb::cast<std::string>(nb::str(type.attr("__name__")));
    const std::string module = nb::cast<std::string>(nb::str(type.attr("__module__")));
    if (name != "ICudaEngine" || !module.starts_with("tensorrt")) refuse(object, "it is a " + module + "." + name);
    if (!nb::hasattr(object, kConduit)) {
        refuse(object, "it was made with a pybind11 that does not give pointers (no " + std::string(kConduit) +
                           "); install tensorrt 10.16 or newer, or load the bytes of its serialize()");
    }
    const std::type_info* const wanted = &typeid(nvinfer1::ICudaEngine);
    const nb::object capsule =
        nb::steal(PyCapsule_New(const_cast<std::type_info*>(wanted), typeid(std::type_info).name(), nullptr));
    if (!capsule.is_valid()) throw nb::python_error();
    const std::string abi = abi_of(type);
    const nb::object answer =
        object.attr(kConduit)(nb::bytes(abi.data(), abi.size()), capsule, nb::bytes("raw_pointer_ephemeral"));
    if (!PyCapsule_CheckExact(answer.ptr())) refuse(object, "it gives no pointer to who was compiled for " + abi);
    void* const pointer = PyCapsule_GetPointer(answer.ptr(), PyCapsule_GetName(answer.ptr()));
    if (pointer == nullptr) throw nb::python_error();
    return pointer;
}

}  // namespace trtlab::tensorrt
