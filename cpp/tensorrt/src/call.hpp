#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "interfaces.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/tensorrt/runtime.hpp"

namespace trtlab::tensorrt {

class Call;

/// What was allocated for the weights of one engine. Guarded by the allocator that knows the blocks.
struct Weights {
    std::shared_ptr<core::MemoryResource> memory;  ///< null: the allocator's own
    std::vector<core::BufferView> blocks;
    std::size_t size_bytes = 0;
};

/// TensorRT's logger: a line belongs to the call that is under way on its thread, or else, as TensorRT has threads of its
/// own, to the one call of this runtime that reaches everywhere. What belongs to none goes to the user.
/// Threads: lines may come from any.
class Log {
public:
    Log(Severity severity, LogLine line)
        : severity_(severity), user_(std::move(line)), old_(*this), versioned_(*this) {}
    Log(const Log&) = delete;
    Log& operator=(const Log&) = delete;

    /// The object to give to a library.
    void* interface(Generation generation) noexcept {
        return abi::versioned(generation) ? static_cast<void*>(&versioned_) : static_cast<void*>(&old_);
    }
    /// To the user's function, or to core::log if there is none. Never throws.
    void tell(Severity severity, std::string_view message) const noexcept;

private:
    friend class Call;
    void write(Severity severity, const char* message) noexcept;

    template <class Interface>
    class As final : public Interface {
    public:
        explicit As(Log& log) : log_(log) {}
        void log(Severity severity, const char* message) noexcept override { log_.write(severity, message); }

    private:
        Log& log_;
    };

    const Severity severity_;
    const LogLine user_;
    As<abi::OldLogger> old_;
    As<abi::VersionedLogger> versioned_;
    std::mutex mutex_;  // guards what follows, and the content of the calls
    Call* everywhere_ = nullptr;
};

/// One call into TensorRT, for the length of a scope: what it logs and what it fails to allocate stands in the exception that
/// it ends with.
/// Cost: without a line nothing is allocated.
class Call {
public:
    enum class Reach {
        thread,      ///< what happens on this thread
        everywhere,  ///< and on threads that have no call of their own; one at a time for a log
    };
    explicit Call(Log& log, Reach reach = Reach::thread, std::shared_ptr<Weights> weights = {});
    /// Errors that no exception has taken along are told to the user.
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    /// For the allocator: where the memory asked for now belongs. Null where it is nobody's weights.
    static std::shared_ptr<Weights> weights_for(Log& log);
    /// For allocators: why TensorRT gets no memory. Never throws.
    static void could_not_allocate(Log& log, std::string why, bool out_of_memory) noexcept;

    bool has_errors() noexcept;
    /// Nobody needs to know what was logged.
    void forget() noexcept;
    /// TensorRT's errors, or else its warnings, one after another; empty without any.
    std::string words();
    /// Throws OutOfMemory if memory could not be had, else EngineError: `what`, then why, then TensorRT's words.
    [[noreturn]] void fail(const std::string& what);
    /// The same as InvalidArgument.
    [[noreturn]] void refuse(const std::string& what);

private:
    friend class Log;
    struct Line {
        Severity severity;
        std::string text;
    };
    static constexpr std::ptrdiff_t kMostLines = 32;  ///< of errors, and of warnings

    static Call* current(Log& log) noexcept;
    void leave() noexcept;
    std::string explain(const std::string& what);

    Log& log_;
    Call* const before_;
    const Reach reach_;
    const std::shared_ptr<Weights> weights_;
    bool left_ = false;
    std::vector<Line> lines_;
    std::string allocation_;
    bool out_of_memory_ = false;
};

/// TensorRT's message without the places in its sources, which say nothing to who has not got them:
/// "[runtime.cpp::deserialize::71] Error Code 1: ... at /_src/runtime.cpp:71" -> "Error Code 1: ...".
std::string without_sources(std::string_view message);

}  // namespace trtlab::tensorrt
