#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "trtlab/core/error.hpp"
#include "trtlab/core/model.hpp"

namespace trtlab::core::testing {

inline std::exception_ptr lost_device(std::int32_t gpu) {
    return std::make_exception_ptr(CudaError("cuda:" + std::to_string(gpu) + " is lost", 719, true));
}

/// A model that holds every request until the test answers it, and says of itself what the test wants. What is public is
/// set before it is asked.
class FakeReplica final : public Model {
public:
    explicit FakeReplica(ModelSpec spec) : spec_(std::make_shared<const ModelSpec>(std::move(spec))) {}

    /// Called in `infer`, and in `prefetch` and `evict`, which throw what these throw.
    std::function<void()> on_infer;
    std::function<void(const char*)> on_move;
    std::chrono::nanoseconds patience = kQueueTimeout;
    std::vector<MemoryUse> uses;
    std::vector<std::pair<std::string, std::uint64_t>> counts;
    ModelStats told;

    const std::shared_ptr<const ModelSpec>& shared_spec() const noexcept override { return spec_; }
    using Model::infer;
    Future<Tensors> infer(std::span<const Tensor>, const std::optional<WaitOptions>& wait) override {
        std::lock_guard lock(mutex_);
        ++asked_;
        waits_.push_back(wait ? wait->timeout : patience);
        hook_ = wait ? wait->on_signal : nullptr;
        if (closed_) throw Closed("model '" + spec_->name + "' is closed");
        if (on_infer) on_infer();
        return held_.emplace_back().future();
    }
    void close(Pending) override {
        std::lock_guard lock(mutex_);
        closed_ = true;
    }
    bool closed() const noexcept override {
        std::lock_guard lock(mutex_);
        return closed_;
    }
    std::chrono::nanoseconds queue_timeout() const noexcept override { return patience; }
    ModelStats stats() const noexcept override { return told; }
    std::vector<std::pair<std::string, std::uint64_t>> counters() const override { return counts; }
    std::vector<MemoryUse> memory() const override { return uses; }
    void prefetch() override { on_move("prefetch "); }
    void evict() override { on_move("evict "); }

    /// Answers so many requests, the oldest first.
    void answer(std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) next().set_value();
    }
    void fail(std::exception_ptr error) { next().set_exception(std::move(error)); }

    std::size_t held() const {
        std::lock_guard lock(mutex_);
        return held_.size();
    }
    std::size_t asked() const {
        std::lock_guard lock(mutex_);
        return asked_;
    }
    std::vector<std::chrono::nanoseconds> waits() const {
        std::lock_guard lock(mutex_);
        return waits_;
    }
    SignalHook hook() const {
        std::lock_guard lock(mutex_);
        return hook_;
    }
    Future<Tensors> future(std::size_t index) const {
        std::lock_guard lock(mutex_);
        return held_.at(index).future();
    }

private:
    Promise<Tensors> next() {
        std::lock_guard lock(mutex_);
        Promise<Tensors> first = std::move(held_.front());
        held_.pop_front();
        return first;
    }

    const std::shared_ptr<const ModelSpec> spec_;
    mutable std::mutex mutex_;
    std::deque<Promise<Tensors>> held_;
    std::vector<std::chrono::nanoseconds> waits_;
    SignalHook hook_ = nullptr;
    std::size_t asked_ = 0;
    bool closed_ = false;
};

}  // namespace trtlab::core::testing
