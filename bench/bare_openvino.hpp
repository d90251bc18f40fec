#pragma once

#include <dlfcn.h>
#include <openvino/c/openvino.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/openvino/library.hpp"

namespace trtlab::bench {

/// $TRTLAB_OPENVINO_LIBRARY, or the library of the Python that this was configured with.
inline std::shared_ptr<openvino::Library> open_library() {
    openvino::Library::Options options;
    options.directories = {TRTLAB_OPENVINO_LIBRARY_DIR};
    return openvino::Library::open(options);
}

/// OpenVINO as its C API gives it, with nothing of trtlab in between: the rival. It is the very file that trtlab has
/// opened, so that both run the same engine in the same process. Nothing is freed: the process ends with the benchmark.
class BareOpenVino {
public:
    explicit BareOpenVino(const openvino::Library& library)
        : handle_(dlopen(library.path().c_str(), RTLD_NOW | RTLD_NOLOAD)) {
        if (handle_ == nullptr) throw std::runtime_error("dlopen " + library.path() + ": " + dlerror());
        resolve(core_create_, "ov_core_create");
        resolve(read_, "ov_core_read_model");
        resolve(read_memory_, "ov_core_read_model_from_memory_buffer");
        resolve(compile_, "ov_core_compile_model_props");
        resolve(create_request_, "ov_compiled_model_create_infer_request");
        resolve(error_, "ov_get_last_err_msg");
        resolve(tensor_create, "ov_tensor_create");
        resolve(tensor_create_from_host_ptr, "ov_tensor_create_from_host_ptr");
        resolve(tensor_data, "ov_tensor_data");
        resolve(tensor_free, "ov_tensor_free");
        resolve(set_input, "ov_infer_request_set_input_tensor_by_index");
        resolve(set_output, "ov_infer_request_set_output_tensor_by_index");
        resolve(get_output, "ov_infer_request_get_output_tensor_by_index");
        resolve(infer, "ov_infer_request_infer");
        resolve(start_async, "ov_infer_request_start_async");
        resolve(wait, "ov_infer_request_wait");
        check(core_create_(&core_), "ov_core_create");
    }

    ov_model_t* read(const std::string& path) const {
        ov_model_t* model = nullptr;
        check(read_(core_, path.c_str(), nullptr, &model), "ov_core_read_model");
        return model;
    }
    ov_model_t* read_memory(std::string_view text) const {
        ov_model_t* model = nullptr;
        check(read_memory_(core_, text.data(), text.size(), nullptr, &model), "ov_core_read_model_from_memory_buffer");
        return model;
    }

    /// With the settings that `openvino::Runner` asks for, so that the engine does the same work for both.
    ov_compiled_model_t* compile(const ov_model_t* model, std::size_t streams) const {
        const std::string count = std::to_string(streams);
        const std::array<ov_property_t, 3> properties{
            {{"NUM_STREAMS", count.c_str()}, {"ENABLE_CPU_PINNING", "NO"}, {"INFERENCE_PRECISION_HINT", "f32"}}};
        ov_compiled_model_t* compiled = nullptr;
        check(compile_(core_, model, "CPU", properties.size(), properties.data(), &compiled),
              "ov_core_compile_model_props");
        return compiled;
    }
    ov_infer_request_t* make_request(const ov_compiled_model_t* compiled) const {
        ov_infer_request_t* request = nullptr;
        check(create_request_(compiled, &request), "ov_compiled_model_create_infer_request");
        return request;
    }

    /// A tensor on memory of the caller's.
    ov_tensor_t* view(ov_element_type_e type, const std::vector<std::int64_t>& shape, void* data) const {
        std::vector<std::int64_t> dims = shape;
        ov_tensor_t* tensor = nullptr;
        check(tensor_create_from_host_ptr(type, {static_cast<std::int64_t>(dims.size()), dims.data()}, data, &tensor),
              "ov_tensor_create_from_host_ptr");
        return tensor;
    }

    void check(ov_status_e status, const char* what) const {
        if (status != ov_status_e::OK) throw std::runtime_error(std::string(what) + ": " + error_());
    }

    decltype(&::ov_tensor_create) tensor_create = nullptr;
    decltype(&::ov_tensor_create_from_host_ptr) tensor_create_from_host_ptr = nullptr;
    decltype(&::ov_tensor_data) tensor_data = nullptr;
    decltype(&::ov_tensor_free) tensor_free = nullptr;
    decltype(&::ov_infer_request_set_input_tensor_by_index) set_input = nullptr;
    decltype(&::ov_infer_request_set_output_tensor_by_index) set_output = nullptr;
    decltype(&::ov_infer_request_get_output_tensor_by_index) get_output = nullptr;
    decltype(&::ov_infer_request_infer) infer = nullptr;
    decltype(&::ov_infer_request_start_async) start_async = nullptr;
    decltype(&::ov_infer_request_wait) wait = nullptr;

private:
    template <class Function>
    void resolve(Function& function, const char* name) const {
        function = reinterpret_cast<Function>(dlsym(handle_, name));
        if (function == nullptr) throw std::runtime_error(std::string("OpenVINO's library has no ") + name);
    }

    void* handle_;
    ov_core_t* core_ = nullptr;
    decltype(&::ov_core_create) core_create_ = nullptr;
    decltype(&::ov_core_read_model) read_ = nullptr;
    decltype(&::ov_core_read_model_from_memory_buffer) read_memory_ = nullptr;
    decltype(&::ov_core_compile_model_props) compile_ = nullptr;
    decltype(&::ov_compiled_model_create_infer_request) create_request_ = nullptr;
    decltype(&::ov_get_last_err_msg) error_ = nullptr;
};

}  // namespace trtlab::bench
