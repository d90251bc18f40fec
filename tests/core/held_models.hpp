#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <latch>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "echo_model.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/function_model.hpp"
#include "trtlab/core/recycler.hpp"

// Models whose answers a test holds in its hands.
namespace trtlab::core::testing {

inline ModelSpec spec_of(const std::string& name) {
    return {.name = name, .inputs = {{.name = "x", .shape = {4}}}, .outputs = {{.name = "y", .shape = {4}}}};
}

inline std::vector<Tensor> inputs() { return {Tensor::allocate(DType::float32, {4})}; }

inline std::shared_ptr<FunctionModel> model_of(FunctionModel::Function function,
                                               const FunctionModel::Options& options = {}) {
    return std::make_shared<FunctionModel>(spec_of("scripted"), std::move(function), options);
}

/// Answers when the test says so, on the thread that says so.
class HeldModel final : public Model {
public:
    explicit HeldModel(std::size_t most_held = SIZE_MAX) : most_held_(most_held) {}
    const std::shared_ptr<const ModelSpec>& shared_spec() const noexcept override { return spec_; }
    using Model::infer;
    Future<Tensors> infer(std::span<const Tensor>, const std::optional<WaitOptions>&) override {
        std::lock_guard lock(mutex_);
        if (held_.size() >= most_held_) throw Overloaded("the queue is full");
        held_.emplace_back();
        most_ = std::max(most_, held_.size());
        changed_.notify_all();
        return held_.back().future();
    }
    void close(Pending) override {}
    bool closed() const noexcept override { return false; }
    ModelStats stats() const noexcept override { return {}; }

    void wait_for(std::size_t held) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return held_.size() >= held; });
    }
    void answer_all() {
        std::vector<Promise<Tensors>> held;
        {
            std::lock_guard lock(mutex_);
            held.swap(held_);
        }
        for (auto& promise : held) promise.set_value();
    }
    std::size_t most() const {
        std::lock_guard lock(mutex_);
        return most_;
    }
    std::vector<Future<Tensors>> futures() const {
        std::lock_guard lock(mutex_);
        std::vector<Future<Tensors>> all;
        for (const auto& promise : held_) all.push_back(promise.future());
        return all;
    }

private:
    const std::size_t most_held_;
    const std::shared_ptr<const ModelSpec> spec_ = std::make_shared<const ModelSpec>(spec_of("held"));
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Promise<Tensors>> held_;
    std::size_t most_ = 0;
};

/// Answers each request when the next one comes, and allocates nothing for it. One thread only.
class RecyclingModel final : public Model {
public:
    const std::shared_ptr<const ModelSpec>& shared_spec() const noexcept override { return spec_; }
    using Model::infer;
    Future<Tensors> infer(std::span<const Tensor>, const std::optional<WaitOptions>&) override {
        Ref<Request> request = requests_->take();
        if (held_) held_->set_value();
        held_ = request;
        return Future<Tensors>(std::move(request));
    }
    void close(Pending) override {}
    bool closed() const noexcept override { return false; }
    ModelStats stats() const noexcept override { return {}; }

private:
    struct Request final : Recycled<Request, FutureState<Tensors>> {
        void recycle() noexcept {
            reset();
            value_.reset();
        }
    };
    const std::shared_ptr<const ModelSpec> spec_ = std::make_shared<const ModelSpec>(spec_of("recycling"));
    const Ref<Recycler<Request>> requests_ = make_ref<Recycler<Request>>(std::size_t{8}, [] { return new Request; });
    Ref<Request> held_;
};

/// A gate that, once open, stays open.
class Barrier {
public:
    void open() {
        if (!opened_.exchange(true)) latch_.count_down();
    }
    void wait() { latch_.wait(); }

private:
    std::atomic<bool> opened_{false};
    std::latch latch_{1};
};

}  // namespace trtlab::core::testing
