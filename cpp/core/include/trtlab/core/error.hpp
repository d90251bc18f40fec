#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace trtlab::core {

/// Base of everything that trtlab throws on purpose.
///
/// The destructors are defined in the library, so that each type has one identity across shared objects.
class [[gnu::visibility("default")]] Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
    ~Error() override;
};

/// The caller passed something that can never work: fix the call.
class [[gnu::visibility("default")]] InvalidArgument : public Error {
public:
    using Error::Error;
    ~InvalidArgument() override;
};

/// A name or a path that does not exist.
class [[gnu::visibility("default")]] NotFound : public InvalidArgument {
public:
    using InvalidArgument::InvalidArgument;
    ~NotFound() override;
};

/// The time given to a wait is over. What was waited for is unharmed.
class [[gnu::visibility("default")]] Timeout : public Error {
public:
    using Error::Error;
    ~Timeout() override;
};

/// The object was closed before or during the call.
class [[gnu::visibility("default")]] Closed : public Error {
public:
    using Error::Error;
    ~Closed() override;
};

/// The request was cancelled before it ran.
class [[gnu::visibility("default")]] Cancelled : public Error {
public:
    using Error::Error;
    ~Cancelled() override;
};

/// A bounded queue stayed full for as long as the caller was ready to wait: shed load or raise the limit.
class [[gnu::visibility("default")]] Overloaded : public Error {
public:
    using Error::Error;
    ~Overloaded() override;
};

/// Memory could not be had; the message says how much was asked for, and by whom.
class [[gnu::visibility("default")]] OutOfMemory : public Error {
public:
    using Error::Error;
    ~OutOfMemory() override;
};

/// An inference engine is missing, unusable, or failed; the message carries the engine's own words.
class [[gnu::visibility("default")]] EngineError : public Error {
public:
    using Error::Error;
    ~EngineError() override;
};

/// A call of CUDA's failed; the message names the call, the device and CUDA's own words.
class [[gnu::visibility("default")]] CudaError : public Error {
public:
    /// `code` is CUDA's number of the error. `device_lost`: the process can use the device no more.
    CudaError(const std::string& message, int code, bool device_lost)
        : Error(message), code_(code), device_lost_(device_lost) {}
    ~CudaError() override;
    int code() const noexcept { return code_; }
    bool device_lost() const noexcept { return device_lost_; }

private:
    int code_;
    bool device_lost_;
};

/// Where the libraries report what they cannot throw, such as an exception that left a callback.
/// The sink is called from any thread and must not throw. An empty function restores stderr.
using LogSink = std::function<void(std::string_view message)>;
void set_log_sink(LogSink sink);

/// Hands `message` to the sink in force. Never throws.
void log(std::string_view message) noexcept;

/// Logs the exception being handled, prefixed with where it was stopped. For use inside a catch block.
void log_current_exception(std::string_view where) noexcept;

}  // namespace trtlab::core
