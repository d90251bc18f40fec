#include "trtlab/core/error.hpp"

#include <string>

#include "api.hpp"

namespace trtlab::cuda {
namespace {

/// The device's memory and kernels are gone for this process, and every later call will say so.
bool loses_the_device(int status) noexcept {
    switch (status) {
        case cudaErrorECCUncorrectable:
        case cudaErrorNvlinkUncorrectable:
        case cudaErrorContained:
        case cudaErrorIllegalAddress:
        case cudaErrorLaunchTimeout:
        case cudaErrorContextIsDestroyed:
        case cudaErrorAssert:
        case cudaErrorHardwareStackError:
        case cudaErrorIllegalInstruction:
        case cudaErrorMisalignedAddress:
        case cudaErrorInvalidAddressSpace:
        case cudaErrorInvalidPc:
        case cudaErrorLaunchFailure:
        case cudaErrorTensorMemoryLeak:
        case cudaErrorMpsClientTerminated:
        case cudaErrorExternalDevice:
        case cudaErrorUnknown:
            return true;
        default:
            return false;
    }
}

std::string describe(const Library::Api& api, int status, const char* call, int device) {
    const auto error = static_cast<cudaError_t>(status);
    std::string text = call;
    if (device >= 0) text += " on cuda:" + std::to_string(device);
    return text + ": " + api.GetErrorString(error) + " (" + api.GetErrorName(error) + ")";
}

}  // namespace

void Library::throw_error(int status, const char* call, int device) const {
    // Else the next call of somebody else's would find it; what is sticky stays all the same.
    (void)api_->GetLastError();
    std::string message = describe(*api_, status, call, device);
    if (status == cudaErrorMemoryAllocation) throw core::OutOfMemory(message);
    if (status == cudaErrorInsufficientDriver || status == cudaErrorNoDevice) {
        if (const std::string why = why_no_device(); !why.empty()) message += ": " + why;
    } else if (status == cudaErrorInitializationError && api_->opened.forked()) {
        message +=
            ": CUDA was started by the parent process, and does not survive a fork; use it after the fork only, or "
            "start "
            "processes that do not fork (multiprocessing's 'spawn')";
    }
    const bool lost = loses_the_device(status);
    if (lost) message += ": this process can use the device no more";
    throw core::CudaError(message, status, lost);
}

void Library::report(int status, const char* call, int device) const noexcept {
    // CUDA goes before static objects do, and has taken everything with it.
    if (status == cudaSuccess || status == cudaErrorCudartUnloading) return;
    // A lost device fails every destructor to come with the same words.
    if (loses_the_device(status) && api_->loss_logged.exchange(true, std::memory_order_relaxed)) return;
    try {
        (void)api_->GetLastError();
        core::log(describe(*api_, status, call, device));
    } catch (...) {
        core::log("a call of CUDA's failed, and there was no memory to say which");
    }
}

}  // namespace trtlab::cuda
