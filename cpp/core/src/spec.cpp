#include "trtlab/core/spec.hpp"

#include <algorithm>
#include <set>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

std::size_t index_of(const std::vector<TensorSpec>& specs, std::string_view name, const std::string& model,
                     const char* direction) {
    for (std::size_t i = 0; i < specs.size(); ++i) {
        if (specs[i].name == name) return i;
    }
    std::string message = "model '" + model + "' has no " + direction + " '" + std::string(name) + "'; it has";
    const char* separator = " ";
    for (const TensorSpec& spec : specs) {
        message.append(separator).append("'").append(spec.name).append("' ").append(spec.to_string());
        separator = ", ";
    }
    if (specs.empty()) message += " none";
    throw NotFound(message);
}

void validate_tensors(const std::vector<TensorSpec>& specs, const std::string& model, const char* direction) {
    std::set<std::string_view> seen;
    for (const TensorSpec& spec : specs) {
        if (spec.name.empty()) throw InvalidArgument("model '" + model + "' has an " + direction + " without a name");
        if (!seen.insert(spec.name).second) {
            throw InvalidArgument("model '" + model + "' has two " + direction + "s called '" + spec.name + "'");
        }
        if (spec.shape.size() > kMaxRank) {
            throw InvalidArgument("model '" + model + "', " + direction + " '" + spec.name + "': rank " +
                                  std::to_string(spec.shape.size()) + " is above the supported " +
                                  std::to_string(kMaxRank));
        }
        for (const Dimension& dimension : spec.shape) {
            if (dimension.min < 0 || dimension.max < dimension.min) {
                throw InvalidArgument("model '" + model + "', " + direction + " '" + spec.name +
                                      "': an axis accepts nothing: " + dimension.to_string());
            }
        }
    }
}

[[noreturn]] void refuse(const ModelSpec& model, const TensorSpec& spec, std::string_view direction,
                         const std::string& problem) {
    throw InvalidArgument("model '" + model.name + "', " + std::string(direction) + " '" + spec.name + "': expected " +
                          spec.to_string() + ", got " + problem);
}

}  // namespace

std::string Dimension::to_string() const {
    if (!dynamic()) return std::to_string(min);
    if (min <= 1 && max == kUnbounded) return min == 0 ? "?" : "1..";
    return std::to_string(min) + ".." + (max == kUnbounded ? "" : std::to_string(max));
}

bool TensorSpec::dynamic() const noexcept {
    return any_rank || std::any_of(shape.begin(), shape.end(), [](const Dimension& d) { return d.dynamic(); });
}

Shape TensorSpec::static_shape() const {
    if (dynamic()) throw InvalidArgument("tensor '" + name + "' " + to_string() + " has no static shape");
    std::vector<std::int64_t> dims;
    for (const Dimension& dimension : shape) dims.push_back(dimension.min);
    return Shape(dims);
}

std::string TensorSpec::to_string() const {
    std::string text(name_of(dtype));
    if (any_rank) return text + "[...]";
    text += "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        if (i != 0) text += ", ";
        text += shape[i].to_string();
    }
    return text + "]";
}

std::size_t ModelSpec::input_index(std::string_view input_name) const {
    return index_of(inputs, input_name, name, "input");
}
std::size_t ModelSpec::output_index(std::string_view output_name) const {
    return index_of(outputs, output_name, name, "output");
}

void ModelSpec::validate() const {
    validate_tensors(inputs, name, "input");
    validate_tensors(outputs, name, "output");
    if (max_batch_size < 0) throw InvalidArgument("model '" + name + "': max_batch_size is negative");
}

void check_tensor(const ModelSpec& model, const TensorSpec& spec, const TensorView& tensor,
                  std::string_view direction) {
    if (tensor.dtype() != spec.dtype) [[unlikely]] {
        refuse(model, spec, direction,
               std::string(name_of(tensor.dtype())) + tensor.shape().to_string() + ": convert it to " +
                   std::string(name_of(spec.dtype)));
    }
    if (tensor.data() == nullptr && tensor.elements() > 0) [[unlikely]] {
        refuse(model, spec, direction, "a null address");
    }
    if (!tensor.device().host_accessible() && std::find(model.cuda_devices.begin(), model.cuda_devices.end(),
                                                        tensor.device().index) == model.cuda_devices.end())
        [[unlikely]] {
        std::string readable = "host memory";
        for (const std::int32_t index : model.cuda_devices) readable += " or cuda:" + std::to_string(index);
        refuse(model, spec, direction,
               "memory of " + tensor.device().to_string() + ": the model reads " + readable + ", copy it there first");
    }
    if (spec.any_rank) return;
    if (tensor.shape().rank() != spec.shape.size()) [[unlikely]] {
        refuse(model, spec, direction,
               "rank " + std::to_string(tensor.shape().rank()) + ", shape " + tensor.shape().to_string());
    }
    for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
        if (!spec.shape[axis].accepts(tensor.shape()[axis])) [[unlikely]] {
            refuse(model, spec, direction,
                   "shape " + tensor.shape().to_string() + ": axis " + std::to_string(axis) + " accepts " +
                       spec.shape[axis].to_string() + ", not " + std::to_string(tensor.shape()[axis]));
        }
    }
}

}  // namespace trtlab::core
