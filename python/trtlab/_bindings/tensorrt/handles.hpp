#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "python.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/wait.hpp"
#include "trtlab/tensorrt/engine.hpp"
#include "trtlab/tensorrt/execution_context.hpp"
#include "trtlab/tensorrt/runtime.hpp"

namespace trtlab::tensorrt {

/// What Python holds of an object on the GPU: its end may wait for the GPU, and so comes without the GIL; and in a forked
/// child, where CUDA is unusable, it does not come at all.
template <class Pointer>
class Held {
public:
    explicit Held(Pointer object) : object_(std::move(object)) {}
    Held(Held&&) noexcept = default;
    ~Held() {
        if (!object_) return;
        if (guard_.forked()) {
            new Pointer(std::move(object_));
            return;
        }
        const bindings::ReleasedGil unlocked;
        object_ = {};
    }
    /// Throws Closed in a forked child.
    const Pointer& get() const {
        if (guard_.forked()) {
            throw core::Closed(
                "this object belongs to the parent process, and CUDA does not survive a fork; open the library "
                "in the child only, or start processes with multiprocessing's 'spawn' method");
        }
        return object_;
    }

private:
    Pointer object_;
    core::ForkGuard guard_;
};

/// TensorRT's last lines, for whoever asks: its threads never need the GIL.
class LogLines {
public:
    struct Line {
        Severity severity;
        std::string text;
    };
    void add(Severity severity, std::string_view text) {
        const std::lock_guard lock(mutex_);
        lines_.push_back({severity, std::string(text)});
        if (lines_.size() > kMost) lines_.pop_front();
    }
    std::deque<Line> take() {
        const std::lock_guard lock(mutex_);
        return std::exchange(lines_, {});
    }

private:
    static constexpr std::size_t kMost = 1000;
    std::mutex mutex_;
    std::deque<Line> lines_;
};

struct RuntimeHandle {
    Held<std::shared_ptr<Runtime>> runtime;
    std::shared_ptr<LogLines> lines;
};

struct EngineHandle {
    Held<std::shared_ptr<Engine>> engine;
};

/// A context does one thing at a time; Python's threads take turns.
struct ContextHandle {
    Held<std::unique_ptr<ExecutionContext>> context;
    std::unique_ptr<std::mutex> turn = std::make_unique<std::mutex>();
};

}  // namespace trtlab::tensorrt
