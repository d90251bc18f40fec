#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace trtlab::cuda {

/// CUDA's runtime library, opened when it is first needed, so that a program that uses this layer starts on a machine
/// without it, and without a driver. Everything is resolved and checked once, here; later calls go through a table.
///
/// Knows libcudart 12 (from 12.2 on) and 13.
/// Owns: nothing that CUDA does not share in the process anyway. The library is never unloaded.
/// Threads: all members may be called from any thread.
class [[gnu::visibility("default")]] Library {
public:
    struct Options {
        /// The file to open, and nothing else. Empty: see `directories`.
        std::string path = {};
        /// Folders to look in, in this order, before the loader's own search; the environment variable
        /// TRTLAB_CUDART_LIBRARY, a file, comes before them. PyPI keeps the library in `nvidia/cu13/lib`.
        std::vector<std::string> directories = {};
    };

    /// Finds, opens and checks libcudart.so.13 or .12. Needs no driver and starts none. Throws NotFound if a file named
    /// by the caller does not exist, EngineError if there is no usable library; the message says what was looked for,
    /// where, and what to install.
    static std::shared_ptr<const Library> open(const Options& options);
    static std::shared_ptr<const Library> open() { return open(Options{}); }

    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;
    ~Library();

    /// 1000 x major + 10 x minor: 13000. Of the library that was opened.
    int version() const noexcept;
    /// The newest CUDA that the installed driver supports, in the same form; 0 without a driver.
    int driver_version() const noexcept;
    /// The file that was opened, as the loader knows it.
    const std::string& path() const noexcept;

    /// GPUs that this process may use (CUDA_VISIBLE_DEVICES). 0 where there is none, or no driver: then `why_no_device`
    /// says which. Asked anew at each call, as a driver may come late. Never throws for their absence.
    int device_count() const;
    std::string why_no_device() const;

    struct Api;  ///< private to the layers that stand on CUDA: the table of functions
    const Api& api() const noexcept { return *api_; }

    /// Returns if `status`, a cudaError_t, is 0. Else throws OutOfMemory (cudaErrorMemoryAllocation) or CudaError:
    /// "<call> on cuda:<device>: <CUDA's words> (<its name>)". Clears the thread's last error.
    void check(int status, const char* call, int device = -1) const {
        if (status != 0) [[unlikely]]
            throw_error(status, call, device);
    }
    [[noreturn]] void throw_error(int status, const char* call, int device) const;
    /// Logs instead of throwing: for destructors.
    void report(int status, const char* call, int device = -1) const noexcept;

private:
    Library();
    std::unique_ptr<Api> api_;
    std::string path_;
    int version_ = 0;
};

}  // namespace trtlab::cuda
