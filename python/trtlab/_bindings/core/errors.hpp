#pragma once

#include <string>

#include "garbage.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::bindings {

/// A Python exception on its way through C++: raised again, as the same object, when it reaches Python.
class PythonError final : public core::Error {
public:
    /// Takes over the error that Python has set. Needs the GIL.
    static PythonError fetch();
    ~PythonError() override;

    /// Raises it in Python. Needs the GIL.
    void restore() const noexcept;
    const core::Ref<HeldObject>& held() const noexcept { return exception_; }

private:
    PythonError(const std::string& message, core::Ref<HeldObject> exception)
        : core::Error(message), exception_(std::move(exception)) {}
    core::Ref<HeldObject> exception_;
};

/// "ValueError: its message"
std::string describe(nanobind::handle exception);

/// A `core::SignalHook`: runs pending Python signal handlers; what they raise ends the wait.
void check_signals();

/// Turns the C++ exception being handled into the Python error of the same name. Needs the GIL.
void raise_current_exception() noexcept;
void bind_errors();

/// How often this process is the child of a fork since the module was imported. Objects of an earlier generation lost
/// their threads: they are refused, and never destroyed.
int generation() noexcept;
void note_fork() noexcept;
void refuse_forked(int made_in, const char* what);

/// The C++ object in `object`, an instance of the class bound to T. Throws InvalidArgument if it was made without running
/// `__init__` (by `__new__` alone, or by a subclass that forgot it).
template <class T>
T& instance(nanobind::handle object) {
    if (!nanobind::inst_ready(object)) {
        throw core::InvalidArgument(
            "this object was never initialized: its __init__ did not run (does a subclass call super().__init__()?)");
    }
    return *nanobind::inst_ptr<T>(object);
}

}  // namespace trtlab::bindings
