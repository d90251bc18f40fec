#include "probe.hpp"

#include <array>
#include <cstring>
#include <string>
#include <string_view>

#include "trtlab/core/error.hpp"

namespace trtlab::openvino {
namespace {

/// The names of the element types in OpenVINO's own file format, in the order of DType.
constexpr std::array<std::string_view, core::kDTypeCount> kNames{
    "boolean", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f8e4m3", "f16", "bf16", "f32", "f64", "string"};

/// One input of each type, each its own output.
std::string model_of_all_types() {
    std::string layers;
    std::string edges;
    for (std::size_t i = 0; i < kNames.size(); ++i) {
        const std::string in = std::to_string(2 * i);
        const std::string out = std::to_string(2 * i + 1);
        layers += "<layer id=\"" + in + "\" name=\"p" + in +
                  "\" type=\"Parameter\" version=\"opset1\"><data shape=\"1\" element_type=\"" +
                  std::string(kNames[i]) +
                  "\"/><output><port id=\"0\" precision=\"FP32\"><dim>1</dim></port></output></layer>" +
                  "<layer id=\"" + out + "\" name=\"r" + out +
                  "\" type=\"Result\" version=\"opset1\"><input><port id=\"0\" "
                  "precision=\"FP32\"><dim>1</dim></port></input></layer>";
        edges += "<edge from-layer=\"" + in + "\" from-port=\"0\" to-layer=\"" + out + "\" to-port=\"0\"/>";
    }
    return "<?xml version=\"1.0\"?><net name=\"types\" version=\"11\"><layers>" + layers + "</layers><edges>" + edges +
           "</edges></net>";
}

}  // namespace

void probe_element_types(const Library::State& library) {
    const Api& api = library.api;
    const std::string description = model_of_all_types();
    ov_model_t* raw_model = nullptr;
    api.check(api.core_read_model_from_memory_buffer(library.core, description.data(), description.size(), nullptr,
                                                     &raw_model),
              "OpenVINO's element types could not be checked");
    const Handle<ov_model_t> model(raw_model, api.model_free);
    std::size_t inputs = 0;
    api.check(api.model_inputs_size(raw_model, &inputs), "OpenVINO's element types could not be checked");
    bool right = inputs == kNames.size();
    for (std::size_t i = 0; right && i < inputs; ++i) {
        ov_output_const_port_t* raw_port = nullptr;
        api.check(api.model_const_input_by_index(raw_model, i, &raw_port),
                  "OpenVINO's element types could not be checked");
        const Handle<ov_output_const_port_t> port(raw_port, api.output_const_port_free);
        ov_element_type_e type{};
        api.check(api.port_get_element_type(raw_port, &type), "OpenVINO's element types could not be checked");
        right = type == element_type(static_cast<core::DType>(i));
    }
    if (!right) {
        throw core::EngineError(
            "OpenVINO's library '" + library.path + "' (version " + library.version +
            ") numbers its element types differently from the headers that trtlab was built with; install the "
            "version that goes with this trtlab: pip install \"trtlab[cpu]\"");
    }
}

bool probe_strings(const Library::State& library) {
    // One string that libstdc++ keeps inside the object, and one that it does not.
    const std::array<std::string, 2> expected{"short", "a string that is too long to be kept inside of the object"};
    std::array<const char*, 2> pointers{expected[0].c_str(), expected[1].c_str()};
    std::int64_t extent = 2;
    const Api& api = library.api;
    ov_tensor_t* raw = nullptr;
    if (api.tensor_create_from_string_array(pointers.data(), pointers.size(), {1, &extent}, &raw) != ov_status_e::OK)
        return false;
    const Handle<ov_tensor_t> tensor(raw, api.tensor_free);
    std::size_t size_bytes = 0;
    void* data = nullptr;
    if (api.tensor_get_byte_size(raw, &size_bytes) != ov_status_e::OK || size_bytes != sizeof expected) return false;
    if (api.tensor_data(raw, &data) != ov_status_e::OK) return false;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        // Looked at as bytes before it is touched as an object: pointer and length, as libstdc++ has them.
        const char* object = static_cast<const char*>(data) + i * sizeof(std::string);
        const char* text = nullptr;
        std::size_t length = 0;
        std::memcpy(&text, object, sizeof text);
        std::memcpy(&length, object + sizeof text, sizeof length);
        if (length != expected[i].size() || (i == 0 && text != object + sizeof text + sizeof length)) return false;
        if (*reinterpret_cast<const std::string*>(object) != expected[i]) return false;
    }
    return true;
}

}  // namespace trtlab::openvino
