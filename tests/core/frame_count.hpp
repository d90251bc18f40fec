#pragma once

#include <atomic>

namespace trtlab::core::testing {

/// A parameter by value of a coroutine lives in its frame from the call to the frame's end: so many frames are alive.
class FrameCount {
public:
    class Token {
    public:
        explicit Token(FrameCount& frames) noexcept : frames_(&frames) { ++frames_->alive_; }
        Token(const Token& other) noexcept : Token(*other.frames_) {}
        Token& operator=(const Token&) = delete;
        ~Token() { --frames_->alive_; }

    private:
        FrameCount* frames_;
    };
    Token token() noexcept { return Token(*this); }
    int alive() const noexcept { return alive_; }

private:
    std::atomic<int> alive_{0};
};

}  // namespace trtlab::core::testing
