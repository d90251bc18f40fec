#include <algorithm>

#include "engine_state.hpp"
#include "trtlab/tensorrt/execution_context.hpp"

namespace trtlab::tensorrt {
namespace {

using abi::VCudaEngine;

struct Type {
    abi::DataType number;
    core::DType dtype;
};
constexpr Type kTypes[] = {
    {abi::DataType::kFLOAT, core::DType::float32},     {abi::DataType::kHALF, core::DType::float16},
    {abi::DataType::kINT8, core::DType::int8},         {abi::DataType::kINT32, core::DType::int32},
    {abi::DataType::kBOOL, core::DType::boolean},      {abi::DataType::kUINT8, core::DType::uint8},
    {abi::DataType::kBF16, core::DType::bfloat16},     {abi::DataType::kINT64, core::DType::int64},
    {abi::DataType::kFP8, core::DType::float8_e4m3fn},
};

bool dynamic(const core::Shape& shape) {
    return std::any_of(shape.begin(), shape.end(), [](std::int64_t extent) { return extent < 0; });
}

class Reader {
private:
    template <class Method, class... Arguments>
    auto ask(const Method& method, Arguments... arguments) {
        return engine_.abi().call(method, engine_.handle, arguments...);
    }

public:
    explicit Reader(Engine::State& engine) : engine_(engine), call_(engine.runtime_state().log) {}

    void read() {
        engine_.profiles = ask(VCudaEngine::getNbOptimizationProfiles);
        engine_.layers = ask(VCudaEngine::getNbLayers);
        engine_.aux_streams = ask(VCudaEngine::getNbAuxStreams);
        engine_.refittable = ask(VCudaEngine::isRefittable);
        if (engine_.name.empty()) {
            const char* its_name = ask(VCudaEngine::getName);
            engine_.name = its_name != nullptr && *its_name != '\0' ? its_name : "unnamed";
        }
        const std::int32_t count = ask(VCudaEngine::getNbIOTensors);
        for (std::int32_t i = 0; i < count; ++i) engine_.tensors.push_back(read_tensor(i));
        std::stable_partition(engine_.tensors.begin(), engine_.tensors.end(),
                              [](const TensorInfo& t) { return t.input; });
        engine_.data_dependent = data_dependent();
    }

private:
    core::Shape shape_of(const abi::Dims& dims, const std::string& tensor) {
        if (dims.nbDims < 0 || dims.nbDims > abi::Dims::kMax) {
            call_.fail(engine_.what() + ": tensor '" + tensor + "' has no shape" + engine_.hint());
        }
        return to_shape(dims);
    }

    TensorInfo read_tensor(std::int32_t index) {
        const char* const name = ask(VCudaEngine::getIOTensorName, index);
        if (name == nullptr) {
            call_.fail(engine_.what() + ": tensor " + std::to_string(index) + " has no name" + engine_.hint());
        }
        TensorInfo info;
        info.name = name;
        info.input = ask(VCudaEngine::getTensorIOMode, name) == abi::TensorIOMode::kINPUT;
        const abi::DataType type = ask(VCudaEngine::getTensorDataType, name);
        info.type_number = static_cast<int>(type);
        const auto* const known =
            std::find_if(std::begin(kTypes), std::end(kTypes), [&](const Type& one) { return one.number == type; });
        info.type_known = known != std::end(kTypes);
        if (info.type_known) info.dtype = known->dtype;
        info.shape = shape_of(ask(VCudaEngine::getTensorShape, name), info.name);
        info.on_host = ask(VCudaEngine::getTensorLocation, name) == abi::TensorLocation::kHOST;
        info.shape_input = info.input && ask(VCudaEngine::isShapeInferenceIO, name);
        for (int profile = 0; profile < std::max(engine_.profiles, 1); ++profile) {
            if (ask(VCudaEngine::getTensorFormatV2, name, profile) != abi::kLinearFormat ||
                ask(VCudaEngine::getTensorVectorizedDimV2, name, profile) >= 0) {
                info.linear = false;
            }
        }
        const char* const format = ask(VCudaEngine::getTensorFormatDescV2, name, 0);
        info.format = format != nullptr ? format : "";
        if (info.input) read_profiles(info);
        return info;
    }

    void read_profiles(TensorInfo& info) {
        for (int profile = 0; profile < engine_.profiles; ++profile) {
            if (!dynamic(info.shape)) {
                info.profiles.push_back({info.shape, info.shape, info.shape});
                continue;
            }
            const auto extents = [&](abi::OptProfileSelector which) {
                return shape_of(ask(VCudaEngine::getProfileShape, info.name.c_str(), profile, which), info.name);
            };
            info.profiles.push_back({extents(abi::OptProfileSelector::kMIN), extents(abi::OptProfileSelector::kOPT),
                                     extents(abi::OptProfileSelector::kMAX)});
        }
    }

    Engine::State::DataDependent data_dependent() const {
        using enum Engine::State::DataDependent;
        bool dynamic_input = false;
        bool dynamic_output = false;
        for (const TensorInfo& tensor : engine_.tensors) {
            if (tensor.input) dynamic_input = dynamic_input || tensor.shape_input || dynamic(tensor.shape);
            if (!tensor.input) dynamic_output = dynamic_output || dynamic(tensor.shape);
        }
        return !dynamic_output ? no : dynamic_input ? unknown : yes;
    }

    Engine::State& engine_;
    Call call_;
};

}  // namespace

core::Shape to_shape(const abi::Dims& dims) {
    return core::Shape(std::span(dims.d, static_cast<std::size_t>(dims.nbDims)));
}

abi::Dims to_dims(const core::Shape& shape) {
    abi::Dims dims;
    dims.nbDims = static_cast<std::int32_t>(shape.rank());
    std::copy(shape.begin(), shape.end(), dims.d);
    return dims;
}

void read(Engine::State& engine) { Reader(engine).read(); }

}  // namespace trtlab::tensorrt
