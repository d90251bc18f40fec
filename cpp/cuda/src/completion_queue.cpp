#include "trtlab/cuda/completion_queue.hpp"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <time.h>

#include <atomic>
#include <system_error>
#include <thread>
#include <utility>

#include "api.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/signal_mask.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::cuda {
namespace {

// A look at an event is a call into the driver, 2 to 6 us on a busy H100: on two CPUs or less, looking all the time would take
// the CPU from the threads that have work for the GPU.
constexpr long kSleepNs = 50'000;
constexpr std::size_t kFewCpus = 2;
// A spinning sweep in so many gives way to whoever is runnable: a system call, which is as long as a look.
constexpr unsigned kSweepsPerYield = 16;

/// Stands in `incoming` while the thread is parked. Never called.
struct Parked final : Completion {
    void reached(int) noexcept override {}
};

}  // namespace

Completion::~Completion() = default;

struct CompletionQueue::State {
    explicit State(const Device& device_) : device(device_), sleeps(core::usable_cpus() <= kFewCpus) {}

    Completion* take(bool& closing) noexcept;
    void park() noexcept;
    void pause(bool progress) noexcept;

    const Device device;
    const bool sleeps;
    const core::ForkGuard fork;
    std::thread thread;

    // What was watched since the thread last looked, the newest first; &parked while the thread is parked or about to.
    std::atomic<Completion*> incoming{nullptr};
    // Changes whenever the parked thread has something to look at.
    std::atomic<std::uint32_t> calls{0};
    std::atomic<bool> closing{false};
    std::atomic<std::size_t> pending{0};
    Parked parked;
    unsigned idle_sweeps = 0;  // the thread's own
};

namespace {
thread_local const void* current_queue = nullptr;
}

/// Everything that came since the last time, the oldest first. `closing` is read before it: if set, then only the thread
/// itself watches anything from now on.
Completion* CompletionQueue::State::take(bool& closing_) noexcept {
    closing_ = closing.load(std::memory_order_acquire);  // pairs with the destructor's store
    Completion* newest = nullptr;
    // Acquire pairs with the release in `watch`, which wrote the nodes. Asked first, as a swap takes the cache line away
    // from whoever is about to watch.
    if (incoming.load(std::memory_order_relaxed) != nullptr)
        newest = incoming.exchange(nullptr, std::memory_order_acquire);
    Completion* oldest = nullptr;
    while (newest != nullptr) {
        Completion* const next = std::exchange(newest->next_, oldest);
        oldest = newest;
        newest = next;
    }
    return oldest;
}

void CompletionQueue::State::park() noexcept {
    // Read before the mark is set: whoever sees the mark changes the word afterwards, and the wait below does not begin.
    const std::uint32_t seen = calls.load(std::memory_order_acquire);  // pairs with the destructor's addition
    if (closing.load(std::memory_order_relaxed)) return;  // ordered by the line above: the destructor stores it first
    Completion* nothing = nullptr;
    // Release pairs with the acquire of the `watch` that finds the mark, which then sees `calls` no older than `seen`.
    if (!incoming.compare_exchange_strong(nothing, &parked, std::memory_order_release, std::memory_order_relaxed))
        return;
    // Relaxed: what took the mark's place is read by `take`, which acquires.
    while (incoming.load(std::memory_order_relaxed) == &parked && calls.load(std::memory_order_relaxed) == seen)
        core::futex_wait(calls, seen, core::Deadline(core::kForever));
    // The destructor wakes without taking the mark away.
    Completion* mark = &parked;
    incoming.compare_exchange_strong(mark, nullptr, std::memory_order_relaxed);  // nobody reads through null
}

void CompletionQueue::State::pause(bool progress) noexcept {
    idle_sweeps = progress ? 0 : idle_sweeps + 1;
    if (progress) return;
    if (sleeps) {
        const timespec a_while{0, kSleepNs};
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &a_while, nullptr);
    } else if (idle_sweeps % kSweepsPerYield == 0) {
        sched_yield();
    } else {
        core::spin_pause();
    }
}

CompletionQueue::CompletionQueue(const Device& device) : state_(std::make_shared<State>(device)) {
    const core::SignalsBlocked blocked;
    try {
        state_->thread = std::thread([state = state_] { serve(state); });
    } catch (const std::system_error& error) {
        throw core::EngineError("no thread to wait for " + device.to_string() + " on: " + error.what());
    }
}

CompletionQueue::~CompletionQueue() {
    if (state_->fork.forked()) {
        // The thread is the parent's, and can neither be joined nor let go here: the state stays for good.
        (void)new std::shared_ptr<State>(std::move(state_));
        return;
    }
    std::thread thread = std::move(state_->thread);
    state_->closing.store(true, std::memory_order_release);  // pairs with `take`
    state_->calls.fetch_add(1, std::memory_order_release);   // pairs with `park`, which then sees `closing`
    core::futex_wake_one(state_->calls);
    if (on_this_thread()) {
        thread.detach();
    } else {
        thread.join();
    }
}

void CompletionQueue::watch(const Event& event, Completion& completion,
                            std::chrono::steady_clock::time_point not_before) noexcept {
    // Shared, because the completion may be called, and its owner may end the queue, before this returns.
    const std::shared_ptr<State> state = state_;
    completion.event_ = &event;
    completion.not_before_ = not_before;
    state->pending.fetch_add(1, std::memory_order_relaxed);  // a number and no more; precedes the push below
    Completion* before = state->incoming.load(std::memory_order_relaxed);
    do {
        completion.next_ = before == &state->parked ? nullptr : before;
        // Release pairs with `take`, which reads the node; acquire pairs with the mark in `park`.
    } while (!state->incoming.compare_exchange_weak(before, &completion, std::memory_order_acq_rel,
                                                    std::memory_order_relaxed));
    if (before == &state->parked) {
        state->calls.fetch_add(1, std::memory_order_relaxed);  // after the mark was seen; read by the wait in `park`
        core::futex_wake_one(state->calls);
    }
}

bool CompletionQueue::on_this_thread() const noexcept { return current_queue == state_.get(); }

std::size_t CompletionQueue::pending() const noexcept { return state_->pending.load(std::memory_order_relaxed); }

void CompletionQueue::serve(const std::shared_ptr<State>& state) noexcept {
    pthread_setname_np(pthread_self(), "trtlab-cuda");
    // Else the kernel doubles a sleep of 50 us.
    if (state->sleeps) (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);
    current_queue = state.get();
    (void)state->device.bind_this_thread();
    try {
        state->device.make_current();
    } catch (const core::Error&) {
        core::log_current_exception("the thread that waits for " +
                                    state->device.to_string());  // queries will say it again
    }
    Completion* watched = nullptr;  // in the order of `watch`
    Completion** end = &watched;
    for (;;) {
        bool closing = false;
        *end = state->take(closing);
        while (*end != nullptr) end = &(*end)->next_;
        if (watched == nullptr) {
            if (closing) break;
            state->park();
            continue;
        }
        bool progress = false;
        const auto now = std::chrono::steady_clock::now();
        for (Completion** at = &watched; *at != nullptr;) {
            Completion* const completion = *at;
            if (completion->not_before_ > now) {
                at = &completion->next_;
                continue;
            }
            const int status = completion->event_->query();
            if (status == cudaErrorNotReady) {
                at = &completion->next_;
                continue;
            }
            // Unlinked before the call, which may watch it again or destroy it.
            *at = completion->next_;
            if (end == &completion->next_) end = at;
            state->pending.fetch_sub(1, std::memory_order_relaxed);  // a number and no more
            completion->reached(status);
            progress = true;
        }
        state->pause(progress);
    }
    current_queue = nullptr;
}

}  // namespace trtlab::cuda
