#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace trtlab::core::testing {

/// What `body` returns in a forked child of this process; 1000 and the signal that ended it.
inline int in_child(const std::function<int()>& body) {
    const pid_t child = fork();
    if (child == 0) {
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

}  // namespace trtlab::core::testing
