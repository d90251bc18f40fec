#pragma once

#include <openvino/c/openvino.h>

#include <memory>
#include <string>
#include <string_view>

#include "trtlab/core/dtype.hpp"
#include "trtlab/openvino/library.hpp"

namespace trtlab::openvino {

/// Every function of OpenVINO's C API that this layer calls, under its name less the prefix `ov_`.
#define TRTLAB_OPENVINO_FUNCTIONS(F)            \
    F(get_openvino_version)                     \
    F(version_free)                             \
    F(get_error_info)                           \
    F(get_last_err_msg)                         \
    F(free)                                     \
    F(core_create)                              \
    F(core_free)                                \
    F(core_read_model)                          \
    F(core_read_model_from_memory_buffer)       \
    F(core_compile_model_props)                 \
    F(core_get_property)                        \
    F(core_get_available_devices)               \
    F(available_devices_free)                   \
    F(model_free)                               \
    F(model_inputs_size)                        \
    F(model_const_input_by_index)               \
    F(compiled_model_free)                      \
    F(compiled_model_inputs_size)               \
    F(compiled_model_input_by_index)            \
    F(compiled_model_input_by_name)             \
    F(compiled_model_outputs_size)              \
    F(compiled_model_output_by_index)           \
    F(compiled_model_output_by_name)            \
    F(compiled_model_get_property)              \
    F(compiled_model_create_infer_request)      \
    F(port_get_any_name)                        \
    F(port_get_partial_shape)                   \
    F(port_get_element_type)                    \
    F(output_const_port_free)                   \
    F(partial_shape_free)                       \
    F(shape_free)                               \
    F(tensor_create)                            \
    F(tensor_create_from_host_ptr)              \
    F(tensor_create_from_string_array)          \
    F(tensor_get_shape)                         \
    F(tensor_get_byte_size)                     \
    F(tensor_data)                              \
    F(tensor_free)                              \
    F(infer_request_set_input_tensor_by_index)  \
    F(infer_request_set_output_tensor_by_index) \
    F(infer_request_infer)                      \
    F(infer_request_free)

struct Api {
#define TRTLAB_OPENVINO_DECLARE(name) decltype(&::ov_##name) name = nullptr;
    TRTLAB_OPENVINO_FUNCTIONS(TRTLAB_OPENVINO_DECLARE)
#undef TRTLAB_OPENVINO_DECLARE

    /// Returns if `status` is OK, else throws EngineError (OutOfMemory): "<what>: <OpenVINO's words>". The words are
    /// the last of the process: where two threads fail at once they may be the other's.
    void check(ov_status_e status, const char* what) const {
        if (status != ov_status_e::OK) [[unlikely]]
            throw_error(status, what);
    }
    [[noreturn]] void throw_error(ov_status_e status, std::string_view what) const;
};

struct Library::State {
    Api api;
    ov_core_t* core = nullptr;
    std::string version;
    std::string path;
    bool strings_readable = false;  ///< a STRING tensor's data are this compiler's std::string objects
};

/// OpenVINO's name for a dtype.
ov_element_type_e element_type(core::DType dtype) noexcept;
/// False for types that this project has no dtype for (4-bit integers, 8-bit floats, ...).
bool dtype_of(ov_element_type_e type, core::DType& dtype) noexcept;

/// An object of the C API that frees itself with the function it was given.
template <class T>
using Handle = std::unique_ptr<T, void (*)(T*)>;

}  // namespace trtlab::openvino
