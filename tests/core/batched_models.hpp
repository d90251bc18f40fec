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

/// The same shapes, answered when the test says so, with nothing allocated. One thread only.
class AnswerLaterModel final : public Model {
public:
    const std::shared_ptr<const ModelSpec>& shared_spec() const noexcept override { return spec_; }
    using Model::infer;
    Future<Tensors> infer(std::span<const Tensor> inputs, const std::optional<WaitOptions>&) override {
        Ref<Request> request = requests_->take();
        request->answer.push_back(outputs_.at(static_cast<std::size_t>(inputs[0].shape()[0])));
        held_ = request;
        return Future<Tensors>(std::move(request));
    }
    void answer() {
        const Ref<Request> request = std::move(held_);
        request->set_value(std::move(request->answer));
    }
    void close(Pending) override {}
    bool closed() const noexcept override { return false; }
    ModelStats stats() const noexcept override { return {}; }

private:
    struct Request final : Recycled<Request, FutureState<Tensors>> {
        void recycle() noexcept {
            reset();
            answer = std::move(*value_);
            value_.reset();
            answer.clear();
        }
        Tensors answer;
    };
    const std::shared_ptr<const ModelSpec> spec_ = std::make_shared<const ModelSpec>(DoublingModel::spec());
    const Ref<Recycler<Request>> requests_ = make_ref<Recycler<Request>>(std::size_t{8}, [] { return new Request; });
    // By the number of rows.
    const std::vector<Tensor> outputs_{Tensor(), Tensor::allocate(DType::float32, {1, 2}), Tensor(),
                                       Tensor::allocate(DType::float32, {3, 2})};
    Ref<Request> held_;
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
