#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <latch>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "fixture.hpp"
#include "trtlab/core/budget.hpp"
#include "trtlab/core/future.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/tensor.hpp"
#include "trtlab/cuda/fence.hpp"
#include "trtlab/tensorrt/runner.hpp"

namespace trtlab::tensorrt::test {

using core::DType;
using core::Future;
using core::Shape;
using core::Tensor;
using core::Tensors;

/// A block of any kind of memory with a tensor's elements, `offset_bytes` behind its beginning.
class Block final : public core::RefCounted {
public:
    Block(std::shared_ptr<core::MemoryResource> memory, std::size_t size_bytes)
        : buffer(std::move(memory), size_bytes) {}
    core::Buffer buffer;
};

/// Tensor in memory of `memory`, which it owns.
template <class T>
Tensor place(const cuda::Device& device, std::shared_ptr<core::MemoryResource> memory, DType dtype, const Shape& shape,
             const std::vector<T>& values, std::size_t offset_bytes = 0) {
    const core::Device where = memory->device();
    auto block = core::make_ref<Block>(std::move(memory), values.size() * sizeof(T) + offset_bytes + 1);
    auto* const data = static_cast<std::byte*>(block->buffer.data()) + offset_bytes;
    if (where.host_accessible()) {
        if (!values.empty()) std::memcpy(data, values.data(), values.size() * sizeof(T));
    } else {
        const cuda::Stream stream(device);
        stream.copy_unchecked(data, values.data(), values.size() * sizeof(T));
        stream.synchronize();
    }
    return Tensor(core::TensorView(data, dtype, shape, where), std::move(block));
}

/// In pageable host memory of its own.
template <class T>
Tensor tensor(DType dtype, const Shape& shape, const std::vector<T>& values) {
    Tensor made = Tensor::allocate(dtype, shape);
    if (!values.empty()) std::memcpy(made.data(), values.data(), values.size() * sizeof(T));
    return made;
}
inline Tensor floats(const Shape& shape, const std::vector<float>& values) {
    return tensor<float>(DType::float32, shape, values);
}
/// `rows` rows of four, all `value`: what `twice` takes.
inline Tensor rows_of(std::int64_t rows, float value) {
    return floats({rows, 4}, std::vector<float>(static_cast<std::size_t>(rows) * 4, value));
}

/// The elements of a dense tensor, wherever it is.
template <class T = float>
std::vector<T> values_of(const Tensor& tensor) {
    std::vector<T> values(tensor.elements());
    if (tensor.device().host_accessible()) {
        tensor.copy_to(values.data());
    } else {
        const cuda::Stream stream(cuda::Device(cuda_library(), tensor.device().index));
        stream.copy_unchecked(values.data(), tensor.data(), values.size() * sizeof(T));
        stream.synchronize();
    }
    return values;
}

/// Whether `condition` comes true before a minute is over; gives way to whoever makes it so.
template <class Condition>
bool comes_true(Condition&& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::yield();
    }
    return true;
}

/// What the future fails with; fails the test if it is of another type, or is an answer.
template <class Error>
std::string failure_of(const Future<Tensors>& future) {
    return message_of<Error>([&] { (void)future.get(std::chrono::minutes(1)); });
}

/// A stream that stands still until it is opened, while all others go on: what carries its fence waits with it.
class StandingStream {
public:
    explicit StandingStream(const cuda::Device& device) : stream_(device) {
        std::latch stands(1);
        fake_cuda().hold();
        fake_cuda().enqueue(stream_.handle(), [&, this] {
            stands.count_down();
            opened_.wait();
        });
        thread_ = std::jthread([this] {
            fake_cuda().step(1, stream_.handle());
            fake_cuda().release();  // runs what waited for it
        });
        stands.wait();
        fence_ = cuda::EventFence::record(stream_);
        fake_cuda().release();
    }
    ~StandingStream() { open(); }
    StandingStream(const StandingStream&) = delete;
    StandingStream& operator=(const StandingStream&) = delete;

    /// The tensor as one that may be read when the stream was opened.
    Tensor behind(Tensor tensor) const {
        tensor.set_fence(fence_);
        return tensor;
    }
    void open() {
        if (!thread_.joinable()) return;
        opened_.count_down();
        thread_.join();
    }

private:
    cuda::Stream stream_;
    std::latch opened_{1};
    core::Ref<const cuda::EventFence> fence_;
    std::jthread thread_;
};

class RunnerOfRelease : public Fake {
protected:
    ~RunnerOfRelease() override { EXPECT_TRUE(nothing_is_left()); }

    /// Whoever publishes the last answer lets go of the model a little later, on the queue's thread.
    static bool nothing_is_left() {
        return comes_true(
            [] { return fake_cuda().live_objects() == 0 && fake().contexts == 0 && fake().runtimes == 0; });
    }

    static std::shared_ptr<core::ExecutionBudget> budget_of(std::size_t executions, std::size_t buffers = 0,
                                                            std::size_t queue = 1024) {
        return std::make_shared<core::ExecutionBudget>(
            core::ExecutionBudget::Options{.max_executions = executions, .max_buffers = buffers, .max_queue = queue});
    }

    /// Not warmed up, so that a test sees what its own requests do, and without graphs unless it asks for them.
    static Runner::Options cold(std::shared_ptr<core::ExecutionBudget> budget = {}, const std::string& name = "m") {
        Runner::Options options;
        options.name = name;
        options.budget = std::move(budget);
        options.graphs = false;
        options.skip_warm_up = true;
        return options;
    }

    std::shared_ptr<Runner> load(std::string_view plan, const Runner::Options& options) const {
        return Runner::load_from_memory(library(), device(), bytes_of(plan), options);
    }
    std::shared_ptr<Runner> load(std::string_view plan = kTwice) const { return load(plan, cold()); }

    static Future<Tensors> ask(core::Model& model, const std::vector<Tensor>& inputs) {
        return model.infer(std::span<const Tensor>(inputs));
    }
    static Tensors answer(core::Model& model, const std::vector<Tensor>& inputs) {
        return ask(model, inputs).get(std::chrono::minutes(1));
    }
    static std::uint64_t counter(const core::Model& model, const std::string& name) {
        for (const auto& [key, value] : model.counters()) {
            if (key == name) return value;
        }
        ADD_FAILURE() << "no counter " << name;
        return 0;
    }
    /// Of all uses of that name together.
    static std::size_t bytes_for(const std::vector<core::MemoryUse>& uses, const std::string& what) {
        std::size_t bytes = 0;
        for (const core::MemoryUse& use : uses) bytes += use.what == what ? use.size_bytes : 0;
        return bytes;
    }

    std::shared_ptr<core::MemoryResource> device_memory(int ordinal = 0) const {
        return std::make_shared<cuda::DeviceMemory>(cuda::Device(cuda_library(), ordinal));
    }
    std::shared_ptr<core::MemoryResource> pinned_memory() const {
        return std::make_shared<cuda::PinnedMemory>(device());
    }
    std::shared_ptr<core::MemoryResource> managed_memory() const {
        return std::make_shared<cuda::ManagedMemory>(device());
    }
    Tensor on_device(const Shape& shape, const std::vector<float>& values, std::size_t offset_bytes = 0) const {
        return place(device(), device_memory(), DType::float32, shape, values, offset_bytes);
    }
    Tensor pinned(const Shape& shape, const std::vector<float>& values) const {
        return place(device(), pinned_memory(), DType::float32, shape, values);
    }
};

/// TensorRT and TensorRT-RTX, where a test does not depend on the release.
inline auto two_releases() { return testing::Values(101601, 10400); }

}  // namespace trtlab::tensorrt::test
