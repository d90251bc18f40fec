#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/tensor.hpp"

namespace trtlab::core {

/// The extents that one axis accepts: [min, max].
struct Dimension {
    static constexpr std::int64_t kUnbounded = std::numeric_limits<std::int64_t>::max();

    Dimension() = default;  ///< dynamic: anything from 0 up
    Dimension(std::int64_t extent) : min(extent), max(extent) {}
    Dimension(std::int64_t min_, std::int64_t max_) : min(min_), max(max_) {}

    bool dynamic() const noexcept { return min != max; }
    bool accepts(std::int64_t extent) const noexcept { return min <= extent && extent <= max; }
    /// "224", "?" (unbounded) or "1..32".
    std::string to_string() const;
    friend bool operator==(const Dimension&, const Dimension&) = default;

    std::int64_t min = 0;
    std::int64_t max = kUnbounded;
};

/// What a model says of one of its inputs or outputs.
struct TensorSpec {
    std::string name;
    DType dtype = DType::float32;
    std::vector<Dimension> shape = {};
    bool any_rank = false;  ///< the rank itself is unknown; `shape` is empty then

    bool dynamic() const noexcept;
    /// Throws InvalidArgument if an extent is dynamic.
    Shape static_shape() const;
    /// "float32[?, 3, 224, 224]"
    std::string to_string() const;
    friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

/// What a model says of itself. Fixed once the model exists.
struct ModelSpec {
    std::string name;
    std::string platform = {};  ///< "openvino", "function", ...
    std::vector<TensorSpec> inputs = {};
    std::vector<TensorSpec> outputs = {};
    std::int64_t max_batch_size =
        0;  ///< the largest extent of the leading axis if that is a batch axis; 0 if there is none
    /// GPUs whose memory the model reads; every model reads host memory.
    std::vector<std::int32_t> cuda_devices = {};

    /// Position of an input. Throws NotFound, listing the names there are.
    std::size_t input_index(std::string_view input_name) const;
    std::size_t output_index(std::string_view output_name) const;

    /// Throws InvalidArgument if a name is empty or given twice, or a rank is above `kMaxRank`.
    void validate() const;
};

/// Throws InvalidArgument naming the model, the tensor, what is expected and got, unless `tensor` fits `spec` and lies in
/// memory that the model reads.
/// `direction` is "input" or "output".
void check_tensor(const ModelSpec& model, const TensorSpec& spec, const TensorView& tensor, std::string_view direction);

/// The tensors of one answer, in the order and under the names of the model's outputs.
class Tensors {
public:
    Tensors() = default;
    Tensors(std::shared_ptr<const ModelSpec> spec, std::vector<Tensor> values)
        : spec_(std::move(spec)), values_(std::move(values)) {}

    std::size_t size() const noexcept { return values_.size(); }
    const Tensor& operator[](std::size_t index) const { return values_.at(index); }
    /// Throws NotFound, listing the names there are.
    const Tensor& operator[](std::string_view name) const { return values_.at(spec_->output_index(name)); }
    const std::string& name(std::size_t index) const { return spec_->outputs.at(index).name; }
    auto begin() const noexcept { return values_.begin(); }
    auto end() const noexcept { return values_.end(); }

    /// For models that recycle: drops the tensors, keeps the capacity.
    void clear() noexcept { values_.clear(); }
    void assign_spec(std::shared_ptr<const ModelSpec> spec) noexcept { spec_ = std::move(spec); }
    void push_back(Tensor tensor) { values_.push_back(std::move(tensor)); }

private:
    std::shared_ptr<const ModelSpec> spec_;
    std::vector<Tensor> values_;
};

}  // namespace trtlab::core
