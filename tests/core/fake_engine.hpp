#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <vector>

#include "trtlab/core/budget.hpp"

namespace trtlab::core::testing {

class FakeJob;

/// An engine that does nothing until the test completes a job, and writes down what happens.
class FakeEngine {
public:
    std::vector<int> staged() const { return read(staged_); }
    std::vector<int> launched() const { return read(launched_); }
    std::vector<int> discarded() const { return read(discarded_); }
    std::vector<int> abandoned() const { return read(abandoned_); }

private:
    friend class FakeJob;
    std::vector<int> read(const std::vector<int>& events) const {
        std::lock_guard lock(mutex_);
        return events;
    }
    void write(std::vector<int>& events, int id) {
        std::lock_guard lock(mutex_);
        events.push_back(id);
    }

    mutable std::mutex mutex_;
    std::vector<int> staged_, launched_, discarded_, abandoned_;
};

class FakeJob final : public Job {
public:
    FakeJob(ExecutionBudget& budget, FakeEngine& engine, int id) : budget_(budget), engine_(engine), id_(id) {}

    /// Called in `check_open`, `stage` and `launch`, which throw what these throw, and at the end of the job, however it ends.
    std::function<void()> on_check_open, on_stage, on_launch;
    std::function<void(FakeJob&)> on_end;
    Staging staging = Staging::done;
    std::atomic<bool> is_wanted{true};
    std::atomic<int> ends{0};
    std::exception_ptr error;

    int id() const { return id_; }
    std::exception_ptr admit(const void* owner = nullptr, const WaitOptions& wait = std::chrono::seconds(0)) {
        return budget_.admit(*this, owner, "fake", wait);
    }

    /// The engine is done with its scratch memory.
    void finish_execution() {
        if (budget_.give_back_execution()) budget_.pump();
    }
    /// The outputs are published.
    void finish_buffer() {
        const bool more = budget_.give_back_buffer();
        end();
        if (more) budget_.pump();
    }
    void finish() {
        ExecutionBudget& budget = budget_;  // whoever ends the job may destroy it
        const bool more = budget.give_back_both();
        end();
        if (more) budget.pump();
    }

    Staging stage() override {
        engine_.write(engine_.staged_, id_);
        if (on_stage) on_stage();
        return staging;
    }
    void launch() override {
        engine_.write(engine_.launched_, id_);
        if (on_launch) on_launch();
    }
    bool wanted() const noexcept override { return is_wanted; }
    void check_open() const override {
        if (on_check_open) on_check_open();
    }
    void abandon(std::exception_ptr why) noexcept override {
        engine_.write(engine_.abandoned_, id_);
        error = std::move(why);
        end();
    }
    void discard() noexcept override {
        engine_.write(engine_.discarded_, id_);
        end();
    }

private:
    void end() {
        ++ends;
        if (on_end) on_end(*this);
    }

    ExecutionBudget& budget_;
    FakeEngine& engine_;
    const int id_;
};

}  // namespace trtlab::core::testing
