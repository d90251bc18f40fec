#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace fake_nvinfer {

/// What a test can tell the fake TensorRT, and learn from it. One for the library.
///
/// The fake is whichever release `version` says, in the numbers of getInferLibVersion, at the moment when a runtime is made:
/// its tables of functions are built then, from the verified facts. The environment variables FAKE_NVINFER_VERSION and
/// FAKE_NVINFER_CUDART set what a process begins with. Its engines are made of plans in text:
///
///     trtlab fake plan 1
///     name twice
///     requires 101601              (optional: the only version that takes it)
///     layer double                 (any number)
///     input x float32 -1x4         (then "shape": read on the host, decides about shapes; or "vectorized")
///     output y float32 -1x4 = double x
///     profile x 1x4 2x4 8x4        (min, opt, max; the k-th line for a tensor is profile k)
///     values s 1x4 2x4 8x4         (of a shape input, in the same way)
///     weights 1024                 (bytes of one block; any number)
///     activation 64                (bytes of scratch memory for an element of the first input)
///     aux_streams 1
///     streamable 4096
///     end
///
/// Operations: `double x` (float32, int8, uint8, int32, int64; the factor lies in the weights), `add a b` (the same types),
/// `copy x` (any; an output with "shape", of such an input, is written by the host), `nonzero x` (the indices, int64: how many depends on data), `fill x s` (the shape that s holds, of 2 * x[0]).
/// They run in the stream of the fake CUDA runtime, and look after their scratch memory: if somebody else writes there, the
/// outputs are filled with 0xEE and `violations` has a line.
class Control {
public:
    Control() { reset(); }

    std::atomic<int> version;
    /// No driver: TensorRT makes no runtime, TensorRT-RTX makes one, and no engine.
    std::atomic<bool> no_driver{false};
    /// So many enqueues succeed, and then one fails. -1: none fails.
    std::atomic<int> enqueues_until_failure{-1};
    /// An enqueue into a stream that is being captured fails.
    std::atomic<bool> refuse_capture{false};
    /// What RTX's isStreamCapturable answers.
    std::atomic<bool> stream_capturable{true};
    /// Only the first context of an engine gets profile 0, and the others none, as in older releases.
    std::atomic<bool> profile_for_first_context_only{false};
    /// Allocated through the application's allocator by each context, and kept.
    std::atomic<int> context_bytes{0};
    /// Allocated, and given back, in the order of the stream by each enqueue.
    std::atomic<int> enqueue_bytes{0};

    /// The reason with which the next deserialization, context or runtime fails. Empty: none.
    void fail_deserialize(const std::string& why) { set(deserialize_error_, why); }
    void fail_context(const std::string& why) { set(context_error_, why); }
    /// Logged, as an error, by a thread of TensorRT's own in each deserialization. Empty: nothing.
    void log_on_other_thread(const std::string& line) { set(other_thread_line_, line); }
    /// Logged so many times in each deserialization at the severity given, which succeeds all the same.
    void log_in_deserialize(int severity, const std::string& line, int times = 1) {
        const std::lock_guard lock(mutex_);
        severity_ = severity;
        line_ = line;
        times_ = times;
    }
    /// The file of the CUDA runtime in whose streams executions run. Empty: what it was built with.
    void use_cudart(const std::string& path) { set(cudart_, path); }

    std::atomic<int> runtimes{0}, engines{0}, contexts{0}, kernel_caches{0};  ///< alive
    std::atomic<int> enqueues{0};             ///< that succeeded, those captured included
    std::atomic<int> captured{0};             ///< of them into a captured stream
    std::atomic<int> executions{0};           ///< that have run, replays included
    std::atomic<int> contexts_with_cache{0};  ///< ever made with a kernel cache
    std::atomic<int> max_threads{0};          ///< what was asked for last
    std::atomic<bool> host_code_allowed{false};

    /// What an application must not do and did: a call through a slot that has no function, an engine that dies before its
    /// contexts, memory that is shared by two executions.
    std::vector<std::string> violations() {
        const std::lock_guard lock(mutex_);
        return violations_;
    }
    void violation(const std::string& what) {
        const std::lock_guard lock(mutex_);
        violations_.push_back(what);
    }

    /// Everything as it was at first, but for the counts of what is alive.
    void reset() {
        const char* wanted = std::getenv("FAKE_NVINFER_VERSION");
        version = wanted != nullptr ? std::atoi(wanted) : 101601;
        no_driver = refuse_capture = profile_for_first_context_only = host_code_allowed = false;
        stream_capturable = true;
        enqueues_until_failure = -1;
        context_bytes = enqueue_bytes = enqueues = captured = executions = contexts_with_cache = max_threads = 0;
        const std::lock_guard lock(mutex_);
        deserialize_error_ = context_error_ = other_thread_line_ = line_ = "";
        const char* file = std::getenv("FAKE_NVINFER_CUDART");
        cudart_ = file != nullptr ? file : "";
        violations_.clear();
    }

    std::string take_deserialize_error() { return take(deserialize_error_); }
    std::string take_context_error() { return take(context_error_); }
    std::string other_thread_line() { return get(other_thread_line_); }
    std::string cudart() { return get(cudart_); }
    std::string line(int& severity, int& times) {
        const std::lock_guard lock(mutex_);
        severity = severity_;
        times = times_;
        return line_;
    }

private:
    void set(std::string& where, const std::string& what) {
        const std::lock_guard lock(mutex_);
        where = what;
    }
    std::string get(const std::string& where) {
        const std::lock_guard lock(mutex_);
        return where;
    }
    std::string take(std::string& where) {
        const std::lock_guard lock(mutex_);
        return std::exchange(where, {});
    }

    std::mutex mutex_;
    std::string deserialize_error_, context_error_, other_thread_line_, line_, cudart_;
    int severity_ = 1, times_ = 1;
    std::vector<std::string> violations_;
};

/// The control of the library at `path`, which it opens.
inline Control& control(const std::string& path) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) throw std::runtime_error(dlerror());
    auto* get = reinterpret_cast<Control* (*)()>(dlsym(handle, "fake_nvinfer_control"));
    if (get == nullptr) throw std::runtime_error(path + " is not the fake TensorRT");
    return *get();
}

}  // namespace fake_nvinfer
