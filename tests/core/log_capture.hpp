#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/error.hpp"

namespace trtlab::core::testing {

/// Is the log sink as long as it lives.
class LogCapture {
public:
    LogCapture() {
        set_log_sink([lines = lines_](std::string_view message) {
            std::lock_guard lock(lines->mutex);
            lines->messages.emplace_back(message);
        });
    }
    ~LogCapture() { set_log_sink(nullptr); }
    LogCapture(const LogCapture&) = delete;
    LogCapture& operator=(const LogCapture&) = delete;

    std::vector<std::string> messages() const {
        std::lock_guard lock(lines_->mutex);
        return lines_->messages;
    }

private:
    struct Lines {
        std::mutex mutex;
        std::vector<std::string> messages;
    };
    std::shared_ptr<Lines> lines_ = std::make_shared<Lines>();
};

}  // namespace trtlab::core::testing
