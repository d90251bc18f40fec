#include "compiled_model.hpp"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "trtlab/core/error.hpp"

namespace trtlab::openvino {
namespace {

using Port = Handle<ov_output_const_port_t>;

Handle<ov_model_t> read_file(const Library::State& library, const std::string& path, const std::string& what) {
    ov_model_t* model = nullptr;
    library.api.check(library.api.core_read_model(library.core, path.c_str(), nullptr, &model),
                      (what + ": OpenVINO can't read '" + path + "'").c_str());
    return {model, library.api.model_free};
}

Handle<ov_model_t> read_bytes(const Library::State& library, const ModelSource& source, const std::string& what) {
    const Api& api = library.api;
    Handle<ov_tensor_t> weights(nullptr, api.tensor_free);
    if (!source.weights.empty()) {
        // OpenVINO goes on using the weights, and shares the tensor: so it gets one that owns its memory.
        auto extent = static_cast<std::int64_t>(source.weights.size());
        ov_tensor_t* raw = nullptr;
        void* data = nullptr;
        api.check(api.tensor_create(ov_element_type_e::U8, {1, &extent}, &raw),
                  (what + ": no memory for the weights").c_str());
        weights.reset(raw);
        api.check(api.tensor_data(raw, &data), (what + ": no memory for the weights").c_str());
        std::memcpy(data, source.weights.data(), source.weights.size());
    }
    ov_model_t* model = nullptr;
    api.check(api.core_read_model_from_memory_buffer(library.core, reinterpret_cast<const char*>(source.bytes.data()),
                                                     source.bytes.size(), weights.get(), &model),
              (what + ": OpenVINO can't read it").c_str());
    return {model, api.model_free};
}

core::Dimension dimension(const ov_dimension_t& dim) {
    // -1 is OpenVINO's "no limit".
    return {dim.min, dim.max < 0 ? core::Dimension::kUnbounded : dim.max};
}

/// One side of a model: its inputs or its outputs.
struct Side {
    const char* word;
    decltype(Api::compiled_model_inputs_size) count;
    decltype(Api::compiled_model_input_by_index) by_index;
    decltype(Api::compiled_model_input_by_name) by_name;
    const std::vector<std::string>& names;  ///< the format's own; empty if it has none
};

std::string port_name(const Api& api, ov_compiled_model_t* model, const Side& side, std::size_t index,
                      std::size_t count, ov_output_const_port_t* port) {
    // A tensor may have several names, and OpenVINO tells one of them, not always the one that the model's author gave to
    // the output. ONNX's order is kept, so the author's is taken where OpenVINO knows it.
    if (side.names.size() == count) {
        ov_output_const_port_t* named = nullptr;
        if (side.by_name(model, side.names[index].c_str(), &named) == ov_status_e::OK) {
            api.output_const_port_free(named);
            return side.names[index];
        }
    }
    char* name = nullptr;
    if (api.port_get_any_name(port, &name) == ov_status_e::OK && name != nullptr) {
        const Handle<const char> owner(name, api.free);
        if (*name != '\0') return name;
    }
    return side.word + std::to_string(index);  // IR may leave tensors without a name
}

core::TensorSpec describe_port(const Library::State& library, ov_compiled_model_t* model, const Side& side,
                               std::size_t index, std::size_t count, const std::string& what) {
    const Api& api = library.api;
    ov_output_const_port_t* raw = nullptr;
    api.check(side.by_index(model, index, &raw), what.c_str());
    const Port port(raw, api.output_const_port_free);

    core::TensorSpec spec;
    spec.name = port_name(api, model, side, index, count, raw);
    const std::string which = what + ", " + side.word + " '" + spec.name + "'";

    ov_element_type_e type{};
    api.check(api.port_get_element_type(raw, &type), which.c_str());
    if (!dtype_of(type, spec.dtype)) {
        throw core::EngineError(which + ": OpenVINO's element type number " + std::to_string(type) +
                                " has no counterpart in trtlab; convert it in the model");
    }
    if (spec.dtype == core::DType::bytes && !library.strings_readable) {
        throw core::EngineError(
            which + ": it holds strings, which this build of OpenVINO lays out in a way that can't be read");
    }
    ov_partial_shape_t shape{};
    api.check(api.port_get_partial_shape(raw, &shape), which.c_str());
    const std::unique_ptr<ov_partial_shape_t, void (*)(ov_partial_shape_t*)> owner(&shape, api.partial_shape_free);
    spec.any_rank = shape.rank.min != shape.rank.max;
    if (!spec.any_rank) {
        for (std::int64_t i = 0; i < shape.rank.min; ++i) spec.shape.push_back(dimension(shape.dims[i]));
    }
    return spec;
}

std::vector<core::TensorSpec> describe(const Library::State& library, ov_compiled_model_t* model, const Side& side,
                                       const std::string& what) {
    std::size_t count = 0;
    library.api.check(side.count(model, &count), what.c_str());
    std::vector<core::TensorSpec> specs;
    for (std::size_t i = 0; i < count; ++i) {
        core::TensorSpec spec = describe_port(library, model, side, i, count, what);
        // One tensor may be several outputs, all under its name.
        const auto same_name = [&](const core::TensorSpec& other) { return other.name == spec.name; };
        if (std::any_of(specs.begin(), specs.end(), same_name)) spec.name += ":" + std::to_string(i);
        specs.push_back(std::move(spec));
    }
    return specs;
}

/// The largest batch if every tensor has a dynamic leading axis, which then is taken for the batch; else 0.
std::int64_t max_batch_size(const core::ModelSpec& spec) {
    std::int64_t largest = core::Dimension::kUnbounded;
    const auto has_batch_axis = [&](const core::TensorSpec& tensor) {
        if (tensor.shape.empty() || !tensor.shape.front().dynamic()) return false;
        largest = std::min(largest, tensor.shape.front().max);
        return true;
    };
    const bool all = !spec.inputs.empty() && std::all_of(spec.inputs.begin(), spec.inputs.end(), has_batch_axis) &&
                     std::all_of(spec.outputs.begin(), spec.outputs.end(), has_batch_axis);
    return all ? largest : 0;
}

}  // namespace

Handle<ov_infer_request_t> CompiledModel::make_request() const {
    ov_infer_request_t* request = nullptr;
    api().check(api().compiled_model_create_infer_request(model.get(), &request),
                ("model '" + spec->name + "': OpenVINO can't make an infer request").c_str());
    return {request, api().infer_request_free};
}

std::string CompiledModel::property(const std::string& key) const {
    char* value = nullptr;
    api().check(api().compiled_model_get_property(model.get(), key.c_str(), &value),
                ("model '" + spec->name + "', property '" + key + "'").c_str());
    const Handle<const char> owner(value, api().free);
    return value;
}

std::shared_ptr<const CompiledModel> compile(const std::shared_ptr<Library>& library, const ModelSource& source,
                                             const std::string& name, const std::string& device,
                                             const Properties& properties) {
    const Library::State& state = library->state();
    const Api& api = state.api;
    const std::string what = "model '" + name + "'";

    ModelFormat format;
    if (source.path.empty()) {
        format = read_format(source.bytes, what);
    } else {
        const MappedFile file(source.path, what);
        format = read_format(file.bytes(), what + " ('" + source.path + "')");
    }
    if (format.kind == ModelFormat::Kind::onnx && !source.weights.empty()) {
        throw core::InvalidArgument(what + ": weights go with the bytes of an IR; an ONNX model holds its own");
    }
    const Handle<ov_model_t> model =
        source.path.empty() ? read_bytes(state, source, what) : read_file(state, source.path, what);

    std::vector<ov_property_t> settings;
    for (const auto& [key, value] : properties) settings.push_back({key.c_str(), value.c_str()});
    ov_compiled_model_t* raw = nullptr;
    const ov_status_e status =
        api.core_compile_model_props(state.core, model.get(), device.c_str(), settings.size(), settings.data(), &raw);
    if (status != ov_status_e::OK) {
        std::string available;
        for (const std::string& one : library->devices()) available += (available.empty() ? "" : ", ") + one;
        api.throw_error(
            status, what + ": OpenVINO can't compile it for device '" + device + "' (there are: " + available + ")");
    }

    auto compiled = std::make_shared<CompiledModel>();
    compiled->library = library;
    compiled->model = {raw, api.compiled_model_free};
    compiled->stateful = format.stateful;

    core::ModelSpec spec;
    spec.name = name;
    spec.platform = "openvino";
    spec.inputs = describe(state, raw,
                           {"input", api.compiled_model_inputs_size, api.compiled_model_input_by_index,
                            api.compiled_model_input_by_name, format.inputs},
                           what);
    spec.outputs = describe(state, raw,
                            {"output", api.compiled_model_outputs_size, api.compiled_model_output_by_index,
                             api.compiled_model_output_by_name, format.outputs},
                            what);
    spec.max_batch_size = max_batch_size(spec);
    spec.validate();
    compiled->spec = std::make_shared<const core::ModelSpec>(std::move(spec));
    return compiled;
}

}  // namespace trtlab::openvino
