#include "errors.hpp"

#include <nanobind/stl/string.h>

namespace trtlab::bindings {
namespace nb = nanobind;

namespace {

struct ErrorTypes {
    PyObject *error, *invalid_argument, *not_found, *timeout, *closed, *cancelled, *overloaded, *out_of_memory,
        *engine_error, *cuda_error;
};
ErrorTypes types{};

}  // namespace

std::string describe(nb::handle exception) {
    std::string text = "a Python exception";
    try {
        text = nb::cast<std::string>(nb::str(nb::type_name(exception.type())));
        text += ": " + nb::cast<std::string>(nb::str(exception));
    } catch (nb::python_error&) {
        // Its own __str__ failed: the type's name has to do.
    }
    return text;
}

PythonError PythonError::fetch() {
    PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != nullptr) PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    nb::object exception = nb::steal(value);
    const std::string message = describe(exception);
    return PythonError(message, core::make_ref<HeldObject>(std::move(exception)));
}

PythonError::~PythonError() = default;

void PythonError::restore() const noexcept {
    const nb::handle exception = exception_->get();
    if (!exception.is_valid()) {
        PyErr_SetString(types.error, what());  // the cycle collector took it
        return;
    }
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
}

void check_signals() {
    nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw PythonError::fetch();
}

namespace {

int forks = 0;

void raise_cuda_error(const core::CudaError& error) noexcept {
    try {
        const nb::object made = nb::borrow(types.cuda_error)(error.what());
        made.attr("code") = error.code();
        made.attr("device_lost") = error.device_lost();
        PyErr_SetObject(types.cuda_error, made.ptr());
    } catch (nb::python_error& failed) {
        failed.restore();
    }
}

}  // namespace

void raise_current_exception() noexcept {
    try {
        throw;
    } catch (const PythonError& error) {
        error.restore();
    } catch (nb::python_error& error) {
        error.restore();
    } catch (const core::NotFound& error) {
        PyErr_SetString(types.not_found, error.what());
    } catch (const core::InvalidArgument& error) {
        PyErr_SetString(types.invalid_argument, error.what());
    } catch (const core::Timeout& error) {
        PyErr_SetString(types.timeout, error.what());
    } catch (const core::Closed& error) {
        PyErr_SetString(types.closed, error.what());
    } catch (const core::Cancelled& error) {
        PyErr_SetString(types.cancelled, error.what());
    } catch (const core::Overloaded& error) {
        PyErr_SetString(types.overloaded, error.what());
    } catch (const core::OutOfMemory& error) {
        PyErr_SetString(types.out_of_memory, error.what());
    } catch (const core::EngineError& error) {
        PyErr_SetString(types.engine_error, error.what());
    } catch (const core::CudaError& error) {
        raise_cuda_error(error);
    } catch (const core::Error& error) {
        PyErr_SetString(types.error, error.what());
    } catch (const std::bad_alloc&) {
        PyErr_SetString(types.out_of_memory, "the system has no memory left for trtlab's own bookkeeping");
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    } catch (...) {
        PyErr_SetString(PyExc_RuntimeError, "an exception of unknown type");
    }
}

void bind_errors() {
    // The types are Python's, for the sake of their built-in bases; borrowed for the life of the process.
    const nb::module_ errors = nb::module_::import_("trtlab.errors");
    const auto find = [&](const char* name) { return nb::object(errors.attr(name)).release().ptr(); };
    types = {find("Error"),     find("InvalidArgument"), find("NotFound"),    find("Timeout"),     find("Closed"),
             find("Cancelled"), find("Overloaded"),      find("OutOfMemory"), find("EngineError"), find("CudaError")};
    nb::register_exception_translator([](const std::exception_ptr& error, void*) {
        try {
            std::rethrow_exception(error);
        } catch (const core::Error&) {
            raise_current_exception();
        }
    });
}

int generation() noexcept { return forks; }
void note_fork() noexcept { ++forks; }

void refuse_forked(int made_in, const char* what) {
    if (made_in != forks) [[unlikely]] {
        throw core::Closed(std::string("this ") + what +
                           " belongs to the parent process (its threads did not survive the fork); make a new one "
                           "in the child, or start processes with multiprocessing's 'spawn' method");
    }
}

}  // namespace trtlab::bindings
