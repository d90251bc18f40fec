#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "trtlab/core/error.hpp"

namespace trtlab::core::testing {

/// What `f` throws as an InvalidArgument says; fails the test if it does not throw one.
inline std::string refusal(const std::function<void()>& f) {
    try {
        f();
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    ADD_FAILURE() << "InvalidArgument was expected";
    return "";
}

}  // namespace trtlab::core::testing
