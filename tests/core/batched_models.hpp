#pragma once

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "echo_model.hpp"
#include "held_models.hpp"
#include "trtlab/core/batcher.hpp"
#include "trtlab/core/function_model.hpp"

namespace trtlab::core::testing {

/// x: float32[?, ?] -> y: float32[?, ?], twice as much; what it was asked is written down. Closed gates hold it.
class DoublingModel {
    mutable std::mutex mutex_;
    std::vector<std::string> asked_;

public:
    using Shapes = std::vector<std::string>;

    explicit DoublingModel(bool gated = false, const FunctionModel::Options& options = {})
        : model(std::make_shared<FunctionModel>(
              spec(), [this](std::span<const Tensor> in) { return run(in); }, options)) {
        if (!gated) gate.open();
    }
    ~DoublingModel() { gate.open(); }

    static ModelSpec spec() {
        return {.name = "doubling",
                .inputs = {{.name = "x", .shape = {{}, {}}}},
                .outputs = {{.name = "y", .shape = {{}, {}}}}};
    }
    /// The shapes that it was asked, in order.
    Shapes asked() const {
        std::lock_guard lock(mutex_);
        return asked_;
    }

    Barrier gate;
    std::atomic<int> running{0};
    std::shared_ptr<FunctionModel> model;  // last: joined before the rest goes

private:
    std::vector<Tensor> run(std::span<const Tensor> inputs) {
        {
            std::lock_guard lock(mutex_);
            asked_.push_back(inputs[0].shape().to_string());
        }
        ++running;
        gate.wait();
        Tensor y = Tensor::copy_of(inputs[0]);
        for (std::size_t i = 0; i < y.elements(); ++i) {
            float& value = y.data_as<float>()[i];
            if (value == -13) throw std::runtime_error("-13 is bad luck");
            value *= 2;
        }
        return {y};
    }
};

/// `rows` x `columns`, counting up from `first`.
inline Tensor matrix(std::int64_t rows, std::int64_t columns, float first) {
    Tensor tensor = Tensor::allocate(DType::float32, {rows, columns});
    for (std::size_t i = 0; i < tensor.elements(); ++i) tensor.data_as<float>()[i] = first + static_cast<float>(i);
    return tensor;
}

inline std::vector<float> values_of(const Tensor& tensor) {
    std::vector<float> values(tensor.elements());
    tensor.copy_to(values.data());
    return values;
}

inline Future<Tensors> ask(Batcher& batcher, const Tensor& x, const RequestOptions& options = {}) {
    return batcher.submit(std::vector<Tensor>{x}, options);
}

}  // namespace trtlab::core::testing
