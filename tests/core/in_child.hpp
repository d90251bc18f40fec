#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "trtlab/core/error.hpp"

namespace trtlab::core::testing {

/// What `body` returns in a forked child of this process; 1000 and the signal that ended it, as one does if it hangs.
inline int in_child(const std::function<int()>& body) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        int result = 99;
        try {
            result = body();
        } catch (...) {
        }
        _exit(result);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/// Whether `call` throws Closed, as everything that stayed in the parent does in a child.
template <class Call>
bool throws_closed(Call call) {
    try {
        call();
    } catch (const Closed&) {
        return true;
    } catch (...) {
    }
    return false;
}

}  // namespace trtlab::core::testing
