#include "trtlab/cuda/library.hpp"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>

#include "api.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::cuda {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVariable = "TRTLAB_CUDART_LIBRARY";
// The newest first. The sonames carry the major version and nothing else.
constexpr std::array<std::string_view, 2> kFiles = {"libcudart.so.13", "libcudart.so.12"};
constexpr std::string_view kInstall = "install it with: pip install \"trtlab[cuda]\"";
// 12.2 brought the prefetch and the advice that take a location.
constexpr int kOldest = 12020;
constexpr int kTooNew = 14000;

/// What was tried, for the message if nothing opens.
struct Attempts {
    std::string opened;
    std::string text;

    void* open(const std::string& file) {
        if (void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) {
            opened = file;
            return handle;
        }
        const char* reason = dlerror();
        text += "\n  " + (reason != nullptr ? std::string(reason) : file);
        return nullptr;
    }
};

void* open_named(const std::string& file, std::string_view named_by, Attempts& attempts) {
    std::error_code ignored;
    if (!fs::exists(file, ignored)) {
        throw core::NotFound("CUDA's runtime library: " + std::string(named_by) + " names '" + file +
                             "', which does not exist; expected the path of " + std::string(kFiles[0]) + ", or " +
                             std::string(kInstall));
    }
    return attempts.open(fs::absolute(file, ignored).string());
}

void* open_in(const std::string& directory, Attempts& attempts) {
    bool any = false;
    for (const std::string_view file : kFiles) {
        std::error_code error;
        const fs::path path = fs::absolute(fs::path(directory) / file, error);
        if (error || !fs::exists(path, error)) continue;
        any = true;
        if (void* handle = attempts.open(path.string())) return handle;
    }
    if (!any) attempts.text += "\n  " + directory + ": neither libcudart.so.13 nor libcudart.so.12 in it";
    return nullptr;
}

/// Also sets `opened`, to what the loader was asked for.
void* find_and_open(const Library::Options& options, std::string& opened) {
    Attempts attempts;
    void* handle = nullptr;
    if (!options.path.empty()) {
        handle = open_named(options.path, "the path given", attempts);
    } else if (const char* file = std::getenv(kVariable); file != nullptr && *file != '\0') {
        handle = open_named(file, std::string("the environment variable ") + kVariable, attempts);
    } else {
        for (const std::string& directory : options.directories) {
            handle = open_in(directory, attempts);
            if (handle != nullptr) break;
        }
        for (const std::string_view name : kFiles) {
            if (handle == nullptr) handle = attempts.open(std::string(name));
        }
    }
    if (handle == nullptr) {
        throw core::EngineError(
            "CUDA's runtime library, libcudart.so.13 or .12, could not be opened; tried:" + attempts.text + "\n" +
            std::string(kInstall) + ", or set " + kVariable + " to the library's path");
    }
    opened = attempts.opened;
    return handle;
}

/// Looks functions up and remembers which are missing.
struct Symbols {
    void* handle;
    std::string missing;

    template <class Function>
    void look_up(Function& function, const std::string& name) {
        void* symbol = dlsym(handle, name.c_str());
        if (symbol == nullptr) missing += (missing.empty() ? "" : ", ") + name;
        function = reinterpret_cast<Function>(symbol);
    }
};

std::string path_of(const void* function, const std::string& fallback) {
    Dl_info info{};
    return dladdr(function, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : fallback;
}

std::string as_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

}  // namespace

Library::Library() : api_(std::make_unique<Api>()) {}
Library::~Library() = default;

std::shared_ptr<const Library> Library::open(const Options& options) {
    const std::shared_ptr<Library> library(new Library);
    Symbols symbols{find_and_open(options, library->path_), {}};
    Api& api = *library->api_;

    symbols.look_up(api.RuntimeGetVersion, "cudaRuntimeGetVersion");
    if (api.RuntimeGetVersion != nullptr) {
        library->path_ = path_of(reinterpret_cast<const void*>(api.RuntimeGetVersion), library->path_);
        if (api.RuntimeGetVersion(&library->version_) != cudaSuccess) library->version_ = 0;
    }
    const std::string found = "CUDA's runtime library '" + library->path_ + "' (version " +
                              (library->version_ == 0 ? "unknown" : as_text(library->version_)) + ")";
    // First, as another release explains functions that are missing.
    if (library->version_ != 0 && (library->version_ < kOldest || library->version_ >= kTooNew)) {
        throw core::EngineError(found + " is of a release that this trtlab does not know: expected 12.2 to 13.x; " +
                                std::string(kInstall));
    }
    symbols.missing.clear();
    const std::string suffix = library->version_ < 13000 ? "_v2" : "";
#define TRTLAB_CUDA_LOOK_UP(name) symbols.look_up(api.name, "cuda" #name);
    TRTLAB_CUDA_FUNCTIONS(TRTLAB_CUDA_LOOK_UP)
#undef TRTLAB_CUDA_LOOK_UP
#define TRTLAB_CUDA_LOOK_UP(name) symbols.look_up(api.name, "cuda" #name + suffix);
    TRTLAB_CUDA_FUNCTIONS_V2(TRTLAB_CUDA_LOOK_UP)
#undef TRTLAB_CUDA_LOOK_UP
    symbols.look_up(api.GetDeviceProperties, "cudaGetDeviceProperties" + suffix);
    if (!symbols.missing.empty()) {
        throw core::EngineError(found + " lacks functions that trtlab needs: " + symbols.missing + "; " +
                                std::string(kInstall));
    }
    return library;
}

int Library::version() const noexcept { return version_; }

const std::string& Library::path() const noexcept { return path_; }

int Library::driver_version() const noexcept {
    int version = 0;
    if (api_->DriverGetVersion(&version) != cudaSuccess) {
        (void)api_->GetLastError();
        return 0;
    }
    return version;
}

int Library::device_count() const {
    int count = 0;
    if (api_->GetDeviceCount(&count) != cudaSuccess) {
        (void)api_->GetLastError();
        return 0;  // the count is left as it was, whatever that is
    }
    return count;
}

std::string Library::why_no_device() const {
    int count = 0;
    const cudaError_t status = api_->GetDeviceCount(&count);
    (void)api_->GetLastError();
    if (status == cudaSuccess && count > 0) return "";
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    const std::string hidden = visible != nullptr ? " (CUDA_VISIBLE_DEVICES is '" + std::string(visible) + "')" : "";
    if (status == cudaSuccess || status == cudaErrorNoDevice) {
        return "NVIDIA's driver shows this process no GPU" + hidden +
               "; nvidia-smi says which there are, and a container has to be given them";
    }
    if (status == cudaErrorInsufficientDriver && driver_version() == 0) {
        return "there is no NVIDIA driver here; install one (a container gets its host's), or use the CPU";
    }
    if (status == cudaErrorInsufficientDriver) {
        return "NVIDIA's driver supports CUDA " + as_text(driver_version()) + " at most, and '" + path_ + "' is CUDA " +
               as_text(version_) + ": update the driver, or install an older nvidia-cuda-runtime";
    }
    return std::string("CUDA could not be started: ") + api_->GetErrorString(status) + " (" +
           api_->GetErrorName(status) + ")" + hidden;
}

}  // namespace trtlab::cuda
