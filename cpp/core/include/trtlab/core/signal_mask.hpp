#pragma once

#include <pthread.h>
#include <signal.h>

namespace trtlab::core {

/// Threads that are made while it lives take no signals: those belong to the application's threads, and a thread of ours
/// that took one would leave the main thread asleep. Those that a fault raises are the faulting thread's own: blocked, they
/// would end the process without the handler's report.
class SignalsBlocked {
public:
    SignalsBlocked() noexcept {
        sigset_t all;
        sigfillset(&all);
        for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&all, fault);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

private:
    sigset_t before_;
};

}  // namespace trtlab::core
