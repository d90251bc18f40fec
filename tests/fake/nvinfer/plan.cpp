#include "plan.hpp"

#include <algorithm>
#include <sstream>
#include <stdexcept>

namespace fake_nvinfer {
namespace {

constexpr std::string_view kMagic = "trtlab fake plan 1\n";

struct Type {
    std::string_view name;
    std::size_t size;
};
// In the order of TensorRT's numbers.
constexpr Type kTypes[] = {{"float32", 4}, {"float16", 2},  {"int8", 1},  {"int32", 4}, {"bool", 1}, {"uint8", 1},
                           {"float8", 1},  {"bfloat16", 2}, {"int64", 8}, {"int4", 0},  {"fp4", 0},  {"e8m0", 1}};

[[noreturn]] void refuse(const std::string& why) {
    throw std::runtime_error("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion " +
                             why + " failed. In deserialize at /_src/fake/plan.cpp:42)");
}

Extents extents(const std::string& text) {
    Extents result;
    if (text == "()") return result;
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, 'x');) result.push_back(std::stoll(part));
    return result;
}

int type_number(const std::string& name) {
    const auto* found =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](const Type& type) { return type.name == name; });
    if (found == std::end(kTypes)) refuse("type " + name);
    return static_cast<int>(found - std::begin(kTypes));
}

PlanTensor parse_tensor(std::istringstream& words, bool input) {
    PlanTensor tensor;
    tensor.input = input;
    std::string type, shape;
    words >> tensor.name >> type >> shape;
    tensor.type = type_number(type);
    tensor.shape = extents(shape);
    for (std::string word; words >> word;) {
        if (word == "shape") tensor.on_host = true;
        if (word == "vectorized") tensor.vectorized = true;
        if (word != "=") continue;
        words >> tensor.operation;
        for (std::string operand; words >> operand;) tensor.operands.push_back(operand);
    }
    return tensor;
}

}  // namespace

std::size_t size_of_type(int type) { return kTypes[type].size; }

std::size_t elements_of(const Extents& shape) {
    std::size_t count = 1;
    for (const std::int64_t extent : shape) count *= static_cast<std::size_t>(extent);
    return count;
}

int Plan::profiles() const {
    std::size_t most = 1;
    for (const PlanTensor& tensor : tensors) most = std::max({most, tensor.profiles.size(), tensor.values.size()});
    return static_cast<int>(most);
}

const PlanTensor* Plan::find(std::string_view tensor) const {
    for (const PlanTensor& one : tensors) {
        if (one.name == tensor) return &one;
    }
    return nullptr;
}

Plan parse(std::string_view text) {
    if (!text.starts_with(kMagic)) refuse("header.magicTag == kEXPECTED_MAGIC_TAG");
    Plan plan;
    plan.text = text;
    bool ended = false;
    std::istringstream lines{std::string(text.substr(kMagic.size()))};
    for (std::string line; !ended && std::getline(lines, line);) {
        std::istringstream words(line);
        std::string key, word;
        words >> key;
        if (key == "name") words >> plan.name;
        if (key == "requires") words >> plan.requires_version;
        if (key == "layer" && words >> word) plan.layers.push_back(word);
        if (key == "input") plan.tensors.push_back(parse_tensor(words, true));
        if (key == "output") plan.tensors.push_back(parse_tensor(words, false));
        if (key == "weights") plan.weights.push_back(static_cast<std::size_t>((words >> word, std::stoull(word))));
        if (key == "activation") words >> plan.activation;
        if (key == "aux_streams") words >> plan.aux_streams;
        if (key == "streamable") words >> plan.streamable;
        if (key == "refittable") plan.refittable = true;
        if (key == "profile" || key == "values") {
            std::string name, min, opt, max;
            words >> name >> min >> opt >> max;
            const auto found =
                std::find_if(plan.tensors.begin(), plan.tensors.end(), [&](auto& t) { return t.name == name; });
            if (found == plan.tensors.end()) refuse("tensor " + name);
            (key == "profile" ? found->profiles : found->values).push_back({extents(min), extents(opt), extents(max)});
        }
        ended = key == "end";
    }
    if (!ended) refuse("sizeRead == static_cast<uint64_t>(mEnd - mCurrent)");
    return plan;
}

}  // namespace fake_nvinfer
