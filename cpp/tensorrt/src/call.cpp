#include "call.hpp"

#include <algorithm>

#include "trtlab/core/error.hpp"

namespace trtlab::tensorrt {
namespace {

thread_local Call* of_this_thread = nullptr;

}  // namespace

std::string without_sources(std::string_view message) {
    if (message.starts_with('[')) {
        const std::size_t end = message.find("] ");
        if (end != message.npos && message.substr(0, end).find("::") != message.npos) message.remove_prefix(end + 2);
    }
    std::string text(message);
    constexpr std::string_view kAt = " at /";
    for (std::size_t at = text.find(kAt); at != text.npos; at = text.find(kAt, at)) {
        std::size_t end = at + kAt.size();
        while (end < text.size() && text[end] != ' ' && text[end] != ')' && text[end] != '\n') ++end;
        const std::string_view place = std::string_view(text).substr(at, end - at);
        const std::size_t colon = place.rfind(':');
        const bool source =
            colon != place.npos && (place.substr(0, colon).ends_with(".cpp") ||
                                    place.substr(0, colon).ends_with(".h") || place.substr(0, colon).ends_with(".cu"));
        source ? static_cast<void>(text.erase(at, end - at)) : static_cast<void>(at = end);
    }
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    return text;
}

void Log::tell(Severity severity, std::string_view message) const noexcept {
    try {
        if (user_) {
            user_(severity, message);
        } else {
            core::log("TensorRT: " + std::string(message));
        }
    } catch (...) {
        core::log_current_exception("the function that receives TensorRT's log");
    }
}

void Log::write(Severity severity, const char* message) noexcept {
    if (message == nullptr) return;
    bool taken = false;
    try {
        if (severity <= Severity::warning) {
            std::lock_guard lock(mutex_);
            if (Call* call = Call::current(*this)) {
                taken = true;
                // Each by itself, so that warnings, of which there can be many, leave room for the error that follows.
                const bool error = severity <= Severity::error;
                const auto kept = std::count_if(call->lines_.begin(), call->lines_.end(), [&](const Call::Line& line) {
                    return (line.severity <= Severity::error) == error;
                });
                if (kept < Call::kMostLines) call->lines_.push_back({severity, without_sources(message)});
            }
        }
        if (user_) {
            if (severity <= severity_) user_(severity, message);
        } else if (severity <= Severity::error && !taken) {
            tell(severity, without_sources(message));
        }
    } catch (...) {
        core::log_current_exception("the function that receives TensorRT's log");
    }
}

Call::Call(Log& log, Reach reach, std::shared_ptr<Weights> weights)
    : log_(log), before_(of_this_thread), reach_(reach), weights_(std::move(weights)) {
    of_this_thread = this;
    if (reach_ == Reach::everywhere) {
        std::lock_guard lock(log_.mutex_);
        log_.everywhere_ = this;
    }
}

Call::~Call() {
    leave();
    if (log_.user_) return;  // has had every line already
    for (const Line& line : lines_) {
        if (line.severity <= Severity::error) log_.tell(line.severity, line.text);
    }
}

void Call::leave() noexcept {
    if (left_) return;
    left_ = true;
    of_this_thread = before_;
    if (reach_ == Reach::everywhere) {
        std::lock_guard lock(log_.mutex_);
        log_.everywhere_ = nullptr;
    }
}

Call* Call::current(Log& log) noexcept {
    return of_this_thread != nullptr && &of_this_thread->log_ == &log ? of_this_thread : log.everywhere_;
}

std::shared_ptr<Weights> Call::weights_for(Log& log) {
    std::lock_guard lock(log.mutex_);
    const Call* call = current(log);
    return call != nullptr ? call->weights_ : nullptr;
}

void Call::could_not_allocate(Log& log, std::string why, bool out_of_memory) noexcept {
    {
        std::lock_guard lock(log.mutex_);
        if (Call* call = current(log)) {
            // TensorRT may try again with less; the last that it could not do without is what the call failed for.
            call->allocation_ = std::move(why);
            call->out_of_memory_ = out_of_memory;
            return;
        }
    }
    log.tell(Severity::error, why);
}

bool Call::has_errors() noexcept {
    std::lock_guard lock(log_.mutex_);
    return std::any_of(lines_.begin(), lines_.end(), [](const Line& line) { return line.severity <= Severity::error; });
}

void Call::forget() noexcept {
    std::lock_guard lock(log_.mutex_);
    lines_.clear();
}

std::string Call::words() {
    std::lock_guard lock(log_.mutex_);
    std::string text;
    for (const Severity most : {Severity::error, Severity::warning}) {
        for (const Line& line : lines_) {
            if (line.severity <= most) text += (text.empty() ? "" : "\n  ") + line.text;
        }
        if (!text.empty()) break;
    }
    return text;
}

std::string Call::explain(const std::string& what) {
    leave();
    std::string text = what;
    if (!allocation_.empty()) text += "; " + allocation_;
    const std::string its_words = words();
    text += its_words.empty() ? "; TensorRT gave no reason" : "; TensorRT says: " + its_words;
    forget();
    return text;
}

void Call::fail(const std::string& what) {
    const std::string text = explain(what);
    if (out_of_memory_) throw core::OutOfMemory(text);
    throw core::EngineError(text);
}

void Call::refuse(const std::string& what) { throw core::InvalidArgument(explain(what)); }

}  // namespace trtlab::tensorrt
