#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "answer_memory.hpp"
#include "device_resources.hpp"
#include "dynamic_output.hpp"
#include "launcher.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/pipeline.hpp"
#include "trtlab/tensorrt/runner.hpp"

namespace trtlab::tensorrt {

/// What the requests of one model share.
struct Runner::Impl final : core::Pipeline {
    Impl(std::shared_ptr<Engine> engine_, std::shared_ptr<core::ExecutionBudget> budget_,
         std::shared_ptr<DeviceResources> resources_, const Options& options);

    /// Names tensor, dimension, got and min/opt/max, where the spec alone could not.
    void check_inputs(std::span<const core::Tensor> inputs) const override;
    /// Throws if the device was lost.
    void check_device() const;
    /// What `status` of CUDA's means, as an exception.
    std::exception_ptr failure(int status, const char* call) noexcept;
    /// A device that is lost stays lost: every later request fails at once.
    void note(const core::CudaError& error) noexcept;
    /// Made when the buffer is first used for it.
    DynamicOutputs& dynamic_outputs(const IoBuffer& buffer);

    const std::shared_ptr<Engine> engine;
    const std::shared_ptr<DeviceResources> resources;
    const bool outputs_on_device;
    const bool timing;
    const std::size_t input_count;
    const std::shared_ptr<std::atomic<std::size_t>> answer_bytes;
    Launcher launcher;
    const core::Ref<core::Recycler<AnswerMemory>> answers;
    std::atomic<std::size_t> dynamic_bytes{0};
    std::vector<DynamicOutputs> dynamic;  ///< of each IO buffer; an entry is its holder's
    std::atomic<bool> lost{false};
    std::atomic<std::uint64_t> in_place{0}, copied{0};
};

/// The way of a request, top to bottom: admitted by `infer`; then `stage`, `launch`, and `reached` when the GPU has done.
struct Runner::Request final : core::PipelineRequest, cuda::Completion {
    explicit Request(const Impl& impl);

    core::Staging stage() override;
    void launch() override;
    void reached(int status) noexcept override;
    /// Also where the budget gives up a request that is staged.
    void release_scratch() noexcept override { let_go(); }

private:
    Impl& impl() const noexcept { return static_cast<Impl&>(pipeline()); }
    bool copies_much() const noexcept;
    void bring_inputs();
    bool read_in_place(const core::TensorView& input) const noexcept;
    void place_input(std::size_t index, std::size_t offset);
    void begin_reading(const core::Tensor& input, std::byte* destination);
    void compute();
    void wind_up() noexcept;
    void fetch_outputs();
    void return_token() noexcept;
    void assemble();
    void finish(std::exception_ptr error) noexcept;
    /// Waits for what was put into the stream, so that nothing of it reads or writes what is about to be let go.
    void let_go() noexcept;
    void give_back() noexcept;

    IoBuffer* io_ = nullptr;
    Token* token_ = nullptr;
    std::shared_ptr<const ShapePlan> plan_;
    std::vector<std::int64_t> values_;   ///< of the inputs that decide about shapes
    std::vector<void*> addresses_;       ///< of all tensors, then of the scratch memory
    bool fetched_with_launch_ = false;   ///< the launch copies the outputs to the IO buffer
    DynamicOutputs* dynamic_ = nullptr;  ///< if there are outputs whose shape only the computation tells
    Layout staged_, fetched_;            ///< of the inputs, and of the outputs whose shapes came out
    core::Ref<AnswerMemory> answer_;
    core::RequestTimes::Clock::time_point first_look_;  ///< when its event is looked at for the first time
    bool outputs_asked_ = false;  ///< copies of the outputs are in the stream, or there are none to come
};

}  // namespace trtlab::tensorrt
