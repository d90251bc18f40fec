#include "trtlab/core/error.hpp"

#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>

namespace trtlab::core {

Error::~Error() = default;
InvalidArgument::~InvalidArgument() = default;
NotFound::~NotFound() = default;
Timeout::~Timeout() = default;
Closed::~Closed() = default;
Cancelled::~Cancelled() = default;
Overloaded::~Overloaded() = default;
OutOfMemory::~OutOfMemory() = default;
EngineError::~EngineError() = default;
CudaError::~CudaError() = default;

namespace {

struct SinkHolder {
    std::mutex mutex;
    std::shared_ptr<const LogSink> sink;
};

// Never destroyed: threads of engines may still log while static objects go away.
SinkHolder& holder() {
    static SinkHolder* instance = new SinkHolder;
    return *instance;
}

}  // namespace

void set_log_sink(LogSink sink) {
    auto next = sink ? std::make_shared<const LogSink>(std::move(sink)) : nullptr;
    std::lock_guard lock(holder().mutex);
    holder().sink.swap(next);
}

void log(std::string_view message) noexcept {
    try {
        std::shared_ptr<const LogSink> sink;
        {
            std::lock_guard lock(holder().mutex);
            sink = holder().sink;
        }
        if (sink) {
            (*sink)(message);
        } else {
            std::fprintf(stderr, "trtlab: %.*s\n", static_cast<int>(message.size()), message.data());
        }
    } catch (...) {
        // A sink that throws has nowhere left to say so.
    }
}

void log_current_exception(std::string_view where) noexcept {
    try {
        std::string message = "an exception left " + std::string(where) + " and was stopped: ";
        try {
            throw;
        } catch (const std::exception& error) {
            message += error.what();
        } catch (...) {
            message += "(not a std::exception)";
        }
        log(message);
    } catch (...) {
        log("an exception was stopped, and there was no memory to say which");
    }
}

}  // namespace trtlab::core
