#include "shape_plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "trtlab/core/error.hpp"

namespace trtlab::tensorrt {
namespace {

bool takes(const ProfileShape& profile, const core::Shape& shape) noexcept {
    if (shape.rank() != profile.min.rank()) return false;
    for (std::size_t axis = 0; axis < shape.rank(); ++axis) {
        if (shape[axis] < profile.min[axis] || shape[axis] > profile.max[axis]) return false;
    }
    return true;
}

/// How far `shape` is from what the profile was tuned for; 0 is exactly that.
double distance(const ProfileShape& profile, const core::Shape& shape) noexcept {
    double sum = 0;
    for (std::size_t axis = 0; axis < shape.rank(); ++axis) {
        const double got = static_cast<double>(std::max<std::int64_t>(shape[axis], 1));
        const double best = static_cast<double>(std::max<std::int64_t>(profile.opt[axis], 1));
        sum += std::abs(std::log(got / best));
    }
    return sum;
}

bool same_shapes(const ShapePlan& plan, std::span<const core::Tensor> inputs, std::span<const std::int64_t> values) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        if (!(plan.inputs[i] == inputs[i].shape())) return false;
    }
    return std::equal(values.begin(), values.end(), plan.values.begin(), plan.values.end());
}

}  // namespace

void Layout::add(std::size_t tensor_bytes) {
    offsets.push_back(size_bytes);
    const std::size_t padded =
        (tensor_bytes + core::MemoryResource::kAlignment - 1) & ~(core::MemoryResource::kAlignment - 1);
    if (padded < tensor_bytes || size_bytes + padded < size_bytes) {
        throw core::InvalidArgument("the tensors of a request are together larger than the address space");
    }
    size_bytes += padded;
}

int choose_profile(const Engine& engine, std::span<const core::Tensor> inputs) noexcept {
    int best = -1;
    double nearest = std::numeric_limits<double>::infinity();
    const std::vector<TensorInfo>& tensors = engine.tensors();
    for (int profile = 0; profile < engine.profile_count(); ++profile) {
        double sum = 0;
        bool fits = true;
        for (std::size_t i = 0; i < inputs.size() && fits; ++i) {
            const ProfileShape& shapes = tensors[i].profiles[static_cast<std::size_t>(profile)];
            fits = takes(shapes, inputs[i].shape());
            if (fits && engine.profile_count() > 1) sum += distance(shapes, inputs[i].shape());
        }
        if (fits && sum < nearest) {
            nearest = sum;
            best = profile;
        }
    }
    return best;
}

void check_profile(const std::string& model, const Engine& engine, std::span<const core::Tensor> inputs) {
    if (choose_profile(engine, inputs) >= 0) [[likely]]
        return;
    const std::vector<TensorInfo>& tensors = engine.tensors();
    std::string message;
    for (int profile = 0; profile < engine.profile_count(); ++profile) {
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            const ProfileShape& shapes = tensors[i].profiles[static_cast<std::size_t>(profile)];
            const core::Shape& got = inputs[i].shape();
            if (takes(shapes, got)) continue;
            message += (message.empty() ? "" : "; ") + std::string("input '") + tensors[i].name + "': ";
            for (std::size_t axis = 0; axis < got.rank() && got.rank() == shapes.min.rank(); ++axis) {
                if (got[axis] >= shapes.min[axis] && got[axis] <= shapes.max[axis]) continue;
                message += "axis " + std::to_string(axis) + " is " + std::to_string(got[axis]) + ", profile " +
                           std::to_string(profile) + " takes min " + std::to_string(shapes.min[axis]) + ", opt " +
                           std::to_string(shapes.opt[axis]) + ", max " + std::to_string(shapes.max[axis]);
                break;
            }
            if (got.rank() != shapes.min.rank()) {
                message += "rank " + std::to_string(got.rank()) + ", expected " + std::to_string(shapes.min.rank());
            }
            break;
        }
    }
    throw core::InvalidArgument("model '" + model + "': no optimization profile takes these shapes: " + message +
                                "; send other shapes, or build the plan with a profile for them");
}

void read_shape_values(const Engine& engine, std::span<const core::Tensor> inputs, std::vector<std::int64_t>& values) {
    values.clear();
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        if (!engine.tensors()[i].shape_input) continue;
        const core::Tensor dense = inputs[i].contiguous() ? inputs[i] : core::Tensor::copy_of(inputs[i]);
        for (std::size_t k = 0; k < dense.elements(); ++k) {
            values.push_back(dense.dtype() == core::DType::int32 ? dense.data_as<std::int32_t>()[k]
                                                                 : dense.data_as<std::int64_t>()[k]);
        }
    }
}

std::shared_ptr<const ShapePlan> ShapePlans::find(std::span<const core::Tensor> inputs,
                                                  std::span<const std::int64_t> values) const {
    std::lock_guard lock(mutex_);
    for (const auto& plan : plans_) {
        if (same_shapes(*plan, inputs, values)) return plan;
    }
    return nullptr;
}

std::shared_ptr<const ShapePlan> ShapePlans::add(std::shared_ptr<const ShapePlan> plan) {
    std::lock_guard lock(mutex_);
    for (const auto& known : plans_) {
        if (known->values == plan->values && known->inputs == plan->inputs) return known;
    }
    if (plans_.size() == kMost) plans_.pop_back();
    plans_.push_front(plan);
    return plan;
}

}  // namespace trtlab::tensorrt
