#pragma once

// The one place that includes <Python.h>. What every extension module shares about the interpreter is declared here and
// defined in the core module; other modules reach it through the objects that the core module binds.

#include <Python.h>

#include <cxxabi.h>
#include <nanobind/nanobind.h>
#include <unistd.h>

#if defined(Py_LIMITED_API) && Py_LIMITED_API < 0x030B0000
// The limited API learnt the buffer protocol in 3.11, with the layout and the symbols that 3.10 exports already, and
// 3.10 will not change any more: so one extension serves all versions (https://docs.python.org/3/c-api/buffer.html).
extern "C" {
struct Py_buffer {
    void* buf;
    PyObject* obj;
    Py_ssize_t len;
    Py_ssize_t itemsize;
    int readonly;
    int ndim;
    char* format;
    Py_ssize_t* shape;
    Py_ssize_t* strides;
    Py_ssize_t* suboffsets;
    void* internal;
};
PyAPI_FUNC(int) PyObject_CheckBuffer(PyObject* object);
PyAPI_FUNC(int) PyObject_GetBuffer(PyObject* object, Py_buffer* view, int flags);
PyAPI_FUNC(void) PyBuffer_Release(Py_buffer* view);
}
#define PyBUF_WRITABLE 0x0001
#define PyBUF_FORMAT 0x0004
#define PyBUF_ND 0x0008
#define PyBUF_STRIDES (0x0010 | PyBUF_ND)
#define PyBUF_C_CONTIGUOUS (0x0020 | PyBUF_STRIDES)
#define PyBUF_F_CONTIGUOUS (0x0040 | PyBUF_STRIDES)
#define PyBUF_ANY_CONTIGUOUS (0x0080 | PyBUF_STRIDES)
#define PyBUF_INDIRECT (0x0100 | PyBUF_STRIDES)
#define Py_bf_getbuffer 1
#define Py_bf_releasebuffer 2
#endif

namespace trtlab::bindings {

/// For a thread that Python wants to end, as it does up to 3.13 with whoever asks for the GIL of an interpreter that is
/// going away: pthread_exit unwinds the stack, and C++ ends the process where that is not allowed. So the thread waits for
/// the process's end, which is what Python itself makes of such threads from 3.14 on.
[[noreturn]] inline void wait_for_the_end() noexcept {
    for (;;) pause();
}

/// Lets others have the GIL for the length of a scope.
class ReleasedGil {
public:
    ReleasedGil() : state_(PyEval_SaveThread()) {}
    ~ReleasedGil() {
        try {
            PyEval_RestoreThread(state_);
        } catch (const abi::__forced_unwind&) {
            wait_for_the_end();
        }
    }
    ReleasedGil(const ReleasedGil&) = delete;
    ReleasedGil& operator=(const ReleasedGil&) = delete;

private:
    PyThreadState* state_;
};

}  // namespace trtlab::bindings
