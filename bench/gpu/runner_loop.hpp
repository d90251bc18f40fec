#pragma once

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "reference_loop.hpp"
#include "trtlab/core/budget.hpp"
#include "trtlab/core/tensor.hpp"
#include "trtlab/tensorrt/runner.hpp"

namespace trtlab::bench {

/// The shapes of a plan that has no dynamic ones.
inline std::vector<core::Shape> static_shapes(const tensorrt::Engine& engine) {
    std::vector<core::Shape> shapes;
    for (const tensorrt::TensorInfo& tensor : engine.tensors()) {
        if (!tensor.input) continue;
        if (std::any_of(tensor.shape.begin(), tensor.shape.end(), [](std::int64_t extent) { return extent < 0; })) {
            throw core::InvalidArgument("plan '" + engine.name() + "', input '" + tensor.name + "': " +
                                        tensor.shape.to_string() + " is dynamic; expected a plan of fixed shapes");
        }
        shapes.push_back(tensor.shape);
    }
    return shapes;
}

/// A `Runner` under the load of one thread, which asks ahead and takes the answers in order: what a user would write.
class RunnerLoop {
public:
    enum class Inputs { device, pinned, pageable };

    /// As many sets of inputs as requests are outstanding, each with memory of its own, as the bare loop's slots have.
    /// Answers are on the host, where callers want them, also where the bare loop leaves its own on the device.
    RunnerLoop(const std::shared_ptr<tensorrt::Engine>& engine, Inputs place, std::size_t executions)
        : engine_(engine),
          stream_(engine->runtime()->device()),
          device_memory_(std::make_shared<cuda::DeviceMemory>(stream_.device())),
          pinned_memory_(std::make_shared<cuda::PinnedMemory>(stream_.device())) {
        tensorrt::Runner::Options options;
        options.name = engine->name();
        options.budget =
            std::make_shared<core::ExecutionBudget>(core::ExecutionBudget::Options{.max_executions = executions});
        runner_ = tensorrt::Runner::serve(engine, options);
        std::mt19937_64 random(std::random_device{}());
        for (std::size_t i = 0; i < 2 * executions + 2; ++i) {
            std::vector<Bytes> values;
            const std::vector<core::Shape> shapes = static_shapes(*engine);
            for (std::size_t k = 0; k < shapes.size(); ++k) {
                values.push_back(random_bytes(engine->tensors()[k].dtype, shapes[k].elements(), random));
            }
            sets_.push_back(tensors(values, place));
        }
        (void)throughput(Seconds(0.3));  // until the pairs of tokens and buffers have met
    }

    const std::shared_ptr<tensorrt::Runner>& runner() const noexcept { return runner_; }
    const std::vector<core::Tensor>& inputs() const noexcept { return sets_.front(); }

    /// Requests a second, of `time`'s worth of requests.
    double throughput(Seconds time) {
        std::vector<std::optional<core::Future<core::Tensors>>> pending(sets_.size());
        const auto begin = Clock::now();
        const auto until = begin + std::chrono::duration_cast<Clock::duration>(time);
        std::uint64_t count = 0;
        for (std::size_t i = 0; i < sets_.size(); ++i) pending[i] = runner_->infer(sets_[i]);
        for (std::size_t i = 0; Clock::now() < until; i = (i + 1) % sets_.size(), ++count) {
            (void)pending[i]->get();
            pending[i].reset();
            pending[i] = runner_->infer(sets_[i]);
        }
        for (auto& answer : pending) (void)answer->get(), ++count;
        return static_cast<double>(count) / Seconds(Clock::now() - begin).count();
    }

    /// One request at a time, from `infer` until its answer is there. Nanoseconds each.
    std::vector<double> latencies(std::size_t requests) {
        std::vector<double> samples;
        samples.reserve(requests);
        for (std::size_t i = 0; i < requests; ++i) {
            const auto begin = Clock::now();
            const core::Future<core::Tensors> answer = runner_->infer(sets_.front());
            (void)answer.get();
            samples.push_back(std::chrono::duration<double, std::nano>(Clock::now() - begin).count());
        }
        return samples;
    }

    /// What it computes of these inputs. The memory of earlier answers, which is used again, is poisoned before.
    std::vector<Bytes> answer(const std::vector<Bytes>& values, Inputs place) {
        const std::vector<core::Tensor> inputs = tensors(values, place);
        {
            // More than are ever idle between requests of one at a time, so that the next answer gets one of these.
            std::vector<core::Future<core::Tensors>> earlier;
            for (std::size_t i = 0; i < sets_.size(); ++i) earlier.push_back(runner_->infer(sets_[i]));
            for (const auto& future : earlier) {
                for (const core::Tensor& output : future.get()) {
                    if (output.device().host_accessible()) {
                        std::memset(output.data(), 0xFF, output.size_bytes());
                    } else {
                        stream_.fill({output.data(), output.size_bytes(), output.device()}, 0xFF);
                    }
                }
            }
            stream_.synchronize();
        }
        const core::Future<core::Tensors> future = runner_->infer(inputs);
        std::vector<Bytes> outputs;
        for (const core::Tensor& output : future.get()) {
            outputs.emplace_back(output.size_bytes());
            stream_.copy_unchecked(outputs.back().data(), output.data(), output.size_bytes());
        }
        stream_.synchronize();
        return outputs;
    }

    /// The count of graphs and copies so far, in words.
    std::string counters() const {
        std::string text;
        for (const auto& [name, value] : runner_->counters()) {
            text += (text.empty() ? "" : ", ") + name + " " + std::to_string(value);
        }
        return text;
    }

private:
    /// Tensors at `place` with these values. Their memory stays as long as the loop.
    std::vector<core::Tensor> tensors(const std::vector<Bytes>& values, Inputs place) {
        std::vector<core::Tensor> made;
        const std::vector<core::Shape> shapes = static_shapes(*engine_);
        for (std::size_t i = 0; i < values.size(); ++i) {
            const core::DType dtype = engine_->tensors()[i].dtype;
            if (place == Inputs::pageable) {
                made.push_back(core::Tensor::allocate(dtype, shapes[i]));
                std::memcpy(made.back().data(), values[i].data(), values[i].size());
                continue;
            }
            const auto& memory = place == Inputs::device ? device_memory_ : pinned_memory_;
            const core::Buffer& buffer = buffers_.emplace_back(memory, values[i].size());
            stream_.copy_unchecked(buffer.data(), values[i].data(), values[i].size());
            made.emplace_back(core::TensorView(buffer.data(), dtype, shapes[i], buffer.device()));
        }
        stream_.synchronize();
        return made;
    }

    const std::shared_ptr<tensorrt::Engine> engine_;
    const cuda::Stream stream_;
    const std::shared_ptr<core::MemoryResource> device_memory_, pinned_memory_;
    std::deque<core::Buffer> buffers_;
    std::vector<std::vector<core::Tensor>> sets_;
    std::shared_ptr<tensorrt::Runner> runner_;  // last: what it still reads goes after it
};

}  // namespace trtlab::bench
