#include "lanes.hpp"

#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <system_error>
#include <utility>

#include "binding.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/signal_mask.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::openvino {
namespace {

using Clock = std::chrono::steady_clock;

// A lane that has just become idle looks out for work for so long before it parks: about what parking and waking cost
// (40 us on a virtual machine of 2 CPUs, 5 us on bare metal), so that it never wastes more than it may save.
constexpr std::chrono::microseconds kSpin{50};
constexpr int kPausesPerLook = 64;  // some 3 us between looks at the clock

// Whoever answers to an answer is often faster than the lane that gave it is idle: for so long a task waits for that lane
// before another is woken, or made. Far more than finishing takes, unless it runs a long callback.
constexpr std::chrono::microseconds kFinishing{3};

enum Signal : std::uint32_t { kIdle, kParked, kWork, kStop };

}  // namespace

struct Lanes::Lane {
    Lane(const State* owner_, std::atomic<std::uint32_t>& finishing) : owner(owner_), tools(finishing) {}

    const State* const owner;
    LaneTools tools;
    LaneTask* mine = nullptr;    // launched by this lane while it completed another: this thread only
    LaneTask* handed = nullptr;  // written before `signal` becomes kWork
    std::atomic<std::uint32_t> signal{kIdle};
    std::thread thread;

    bool parked() const noexcept { return signal.load(std::memory_order_relaxed) == kParked; }  // a hint

    /// Makes the lane's thread, which is idle or about to be, see `what`.
    void send(Signal what) noexcept {
        // Release pairs with the acquires in await: `handed` is visible.
        if (signal.exchange(what, std::memory_order_acq_rel) == kParked) core::futex_wake_one(signal);
    }

    /// Waits for work; null when there will be none any more.
    LaneTask* await(bool spin) noexcept {
        std::uint32_t seen = signal.load(std::memory_order_acquire);
        if (spin && seen == kIdle) {
            const auto give_up = Clock::now() + kSpin;
            do {
                for (int i = 0; i < kPausesPerLook && seen == kIdle; ++i) {
                    core::spin_pause();
                    seen = signal.load(std::memory_order_acquire);
                }
                // Whoever would send work may be waiting for this very CPU, because others hold the rest.
                if (seen == kIdle) sched_yield();
            } while (seen == kIdle && Clock::now() < give_up);
        }
        if (seen == kIdle && signal.compare_exchange_strong(seen, kParked, std::memory_order_acq_rel)) seen = kParked;
        while (seen == kParked) {
            core::futex_wait(signal, kParked, core::Deadline(core::kForever));
            seen = signal.load(std::memory_order_acquire);
        }
        return seen == kWork ? handed : nullptr;
    }
};

struct Lanes::State {
    std::shared_ptr<const CompiledModel> model;
    std::size_t max_lanes = 0;
    bool spin = false;
    std::atomic<std::uint32_t> finishing{0};  // lanes between LaneTools::finish and idle

    std::mutex mutex;  // leaf: guards what follows
    bool stopping = false;
    std::vector<std::unique_ptr<Lane>> lanes;
    std::vector<Lane*> idle;   // the last to become idle is the first to be used: it may still be looking out
    LaneTask* head = nullptr;  // submitted while every lane was busy, one of them about to be done
    LaneTask* tail = nullptr;
};

namespace {
thread_local void* this_lane = nullptr;  // Lane*, whose type is private
}

Lanes::Lanes(std::shared_ptr<const CompiledModel> model, std::size_t max_lanes) : state_(std::make_shared<State>()) {
    state_->model = std::move(model);
    state_->max_lanes = max_lanes;
    state_->spin = core::usable_cpus() > 1;
    state_->lanes.reserve(max_lanes);
    state_->idle.reserve(max_lanes);
    std::lock_guard lock(state_->mutex);
    make_lane(state_, nullptr);
}

Lanes::~Lanes() {
    {
        std::lock_guard lock(state_->mutex);
        state_->stopping = true;
        for (Lane* lane : state_->idle) lane->send(kStop);
        state_->idle.clear();
    }
    // No lane is added once `stopping` is set, so the list can be read without the lock that the lanes need to end.
    for (const std::unique_ptr<Lane>& lane : state_->lanes) {
        if (lane.get() == this_lane) {
            lane->thread.detach();
        } else {
            lane->thread.join();
        }
    }
}

void Lanes::submit(LaneTask& task) {
    auto* self = static_cast<Lane*>(this_lane);
    if (self != nullptr && self->owner == state_.get() && self->mine == nullptr) {
        self->mine = &task;
        return;
    }
    if (try_submit(task, state_->spin)) return;
    const auto give_up = Clock::now() + kFinishing;
    while (state_->finishing.load(std::memory_order_relaxed) != 0 && Clock::now() < give_up) core::spin_pause();
    (void)try_submit(task, false);
}

/// False if `wait_for_finishing`, and it is worth it.
bool Lanes::try_submit(LaneTask& task, bool wait_for_finishing) {
    Lane* lane = nullptr;
    {
        std::lock_guard lock(state_->mutex);
        const bool may_wait = wait_for_finishing && state_->finishing.load(std::memory_order_relaxed) != 0;
        if (!state_->idle.empty()) {
            lane = state_->idle.back();
            if (may_wait && lane->parked()) return false;
            state_->idle.pop_back();
        } else if (state_->lanes.size() < state_->max_lanes) {
            if (may_wait) return false;
            make_lane(state_, &task);
            return true;
        } else {
            task.next_ = nullptr;
            (state_->tail != nullptr ? state_->tail->next_ : state_->head) = &task;
            state_->tail = &task;
            return true;
        }
    }
    lane->handed = &task;
    lane->send(kWork);
    return true;
}

/// Under the lock.
void Lanes::make_lane(const std::shared_ptr<State>& state, LaneTask* first) {
    auto lane = std::make_unique<Lane>(state.get(), state->finishing);
    lane->tools.request = state->model->make_request();
    lane->tools.outputs.resize(state->model->spec->outputs.size());
    lane->mine = first;
    Lane* const raw = lane.get();
    const core::SignalsBlocked blocked;
    try {
        raw->thread = std::thread([state, raw] { serve(state, *raw); });
    } catch (const std::system_error& error) {
        throw core::EngineError("model '" + state->model->spec->name + "': no thread to compute on: " + error.what());
    }
    state->lanes.push_back(std::move(lane));  // reserved for max_lanes
}

void Lanes::serve(const std::shared_ptr<State>& state, Lane& lane) {
    pthread_setname_np(pthread_self(), "trtlab-openvino");
    this_lane = &lane;
    for (;;) {
        LaneTask* task = std::exchange(lane.mine, nullptr);
        const bool finished = std::exchange(lane.tools.finishes_, false);
        if (task == nullptr) {
            std::lock_guard lock(state->mutex);
            if (state->head != nullptr) {
                task = state->head;
                state->head = task->next_;
                if (state->head == nullptr) state->tail = nullptr;
            } else if (state->stopping) {
                break;
            } else {
                lane.signal.store(kIdle, std::memory_order_relaxed);  // ordered by the lock before any send
                state->idle.push_back(&lane);
            }
        }
        if (finished) state->finishing.fetch_sub(1, std::memory_order_relaxed);  // after the lane is seen to be idle
        if (task == nullptr) task = lane.await(state->spin);
        if (task == nullptr) break;
        task->run(lane.tools);
    }
    this_lane = nullptr;
}

}  // namespace trtlab::openvino
