#pragma once

namespace trtlab::core {

/// Marks that this thread is starting work on behalf of `owner`, a budget or a dispatcher: what completes inside, and asks
/// again, leaves the next to the outermost, so that the stack does not grow. A chain, because a callback of one owner's
/// work may call into another, and from there come back.
class PumpScope {
public:
    explicit PumpScope(const void* owner) noexcept : owner_(owner), outer_(innermost) { innermost = this; }
    ~PumpScope() { innermost = outer_; }
    PumpScope(const PumpScope&) = delete;
    PumpScope& operator=(const PumpScope&) = delete;

    static bool inside(const void* owner) noexcept {
        for (const PumpScope* scope = innermost; scope != nullptr; scope = scope->outer_) {
            if (scope->owner_ == owner) return true;
        }
        return false;
    }

private:
    static inline thread_local const PumpScope* innermost = nullptr;
    const void* owner_;
    const PumpScope* outer_;
};

}  // namespace trtlab::core
