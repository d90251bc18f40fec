#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "compiled_model.hpp"
#include "trtlab/core/ref_counted.hpp"

namespace trtlab::openvino {

/// The memory of one output: an OpenVINO tensor, which grows with the results that OpenVINO writes into it.
class OutputMemory;

/// What a lane computes with, used by its thread only.
struct LaneTools {
    explicit LaneTools(std::atomic<std::uint32_t>& finishing) : finishing_(finishing) {}

    /// The task has done its computing, and will be done once it has told of it: the lane is as good as free.
    void finish() noexcept {
        finishes_ = true;
        finishing_.fetch_add(1, std::memory_order_relaxed);  // a hint
    }

    Handle<ov_infer_request_t> request{nullptr, nullptr};
    std::vector<core::Ref<OutputMemory>> outputs;  ///< of the request being computed

private:
    friend class Lanes;
    std::atomic<std::uint32_t>& finishing_;
    bool finishes_ = false;
};

/// Work for a lane; an intrusive queue node.
class LaneTask {
public:
    virtual void run(LaneTools& tools) noexcept = 0;

protected:
    ~LaneTask() = default;

private:
    friend class Lanes;
    LaneTask* next_ = nullptr;
};

/// Threads that compute, one for each request that executes at the same time, made when they are first needed.
///
/// Not a `core::ThreadPool`, because each thread has an infer request of its own, and because what a lane launches while
/// it completes a request it takes up itself: without a wake-up, which costs more than a small model.
/// Threads: `submit` from any thread. The destructor may run on a lane, which then ends by itself.
class Lanes {
public:
    /// Makes the first lane, so that a model which can't run fails here. Throws EngineError.
    Lanes(std::shared_ptr<const CompiledModel> model, std::size_t max_lanes);
    ~Lanes();
    Lanes(const Lanes&) = delete;
    Lanes& operator=(const Lanes&) = delete;

    /// Has `task` run on a lane. At most `max_lanes` tasks may be on their way, without those that are finishing. Throws
    /// EngineError if a lane is needed and can't be made; `task` is then untouched.
    void submit(LaneTask& task);

private:
    struct Lane;
    struct State;
    bool try_submit(LaneTask& task, bool wait_for_finishing);
    static void make_lane(const std::shared_ptr<State>& state, LaneTask* first);
    static void serve(const std::shared_ptr<State>& state, Lane& lane);
    std::shared_ptr<State> state_;  // shared with the threads: a lane that destroys the Lanes outlives them
};

}  // namespace trtlab::openvino
