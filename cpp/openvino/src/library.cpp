#include "trtlab/openvino/library.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api.hpp"
#include "probe.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/wait.hpp"

namespace trtlab::openvino {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVariable = "TRTLAB_OPENVINO_LIBRARY";
constexpr std::string_view kFile = "libopenvino_c.so";
constexpr std::string_view kInstall = "install it with: pip install \"trtlab[cpu]\"";
// The release line whose C headers this was built with and tested against; the numbers of the element types have
// changed between lines before.
constexpr std::string_view kKnownLine = "2026.";

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
        throw core::NotFound("OpenVINO's library: " + std::string(named_by) + " names '" + file +
                             "', which does not exist; expected the path of " + std::string(kFile) + "*, or " +
                             std::string(kInstall));
    }
    return attempts.open(fs::absolute(file, ignored).string());
}

void* open_in(const std::string& directory, Attempts& attempts) {
    std::vector<std::string> files;
    std::error_code error;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
        if (entry->path().filename().string().starts_with(kFile)) files.push_back(fs::absolute(entry->path()).string());
    }
    if (files.empty()) attempts.text += "\n  " + directory + ": no " + std::string(kFile) + "* in it";
    // Several versions side by side: the newest first. The suffix has a fixed number of digits.
    std::sort(files.rbegin(), files.rend());
    for (const std::string& file : files) {
        if (void* handle = attempts.open(file)) return handle;
    }
    return nullptr;
}

void* open_by_soname(Attempts& attempts) {
    if (void* handle = attempts.open(std::string(kFile))) return handle;
    // Sonames carry year, minor and patch: 2026.4.1 is ".2641".
    for (char minor = '9'; minor >= '0'; --minor) {
        for (char patch = '3'; patch >= '0'; --patch) {
            const std::string name = std::string(kFile) + ".26" + minor + patch;
            if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
                attempts.opened = name;
                return handle;
            }
        }
    }
    attempts.text +=
        "\n  the loader's search path: no " + std::string(kFile) + " and no " + std::string(kFile) + ".26*";
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
        if (handle == nullptr) handle = open_by_soname(attempts);
    }
    if (handle == nullptr) {
        throw core::EngineError("OpenVINO's C library, " + std::string(kFile) +
                                "*, could not be opened; tried:" + attempts.text + "\n" + std::string(kInstall) +
                                ", or set " + kVariable + " to the library's path");
    }
    opened = attempts.opened;
    return handle;
}

std::string path_of(const void* function, const std::string& fallback) {
    Dl_info info{};
    return dladdr(function, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : fallback;
}

void resolve(void* handle, Library::State& state) {
    std::string missing;
    const auto look_up = [&](auto& function, const char* name) {
        void* symbol = dlsym(handle, name);
        if (symbol == nullptr) missing += std::string(missing.empty() ? "" : ", ") + name;
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
    };
#define TRTLAB_OPENVINO_LOOK_UP(name) look_up(state.api.name, "ov_" #name);
    TRTLAB_OPENVINO_FUNCTIONS(TRTLAB_OPENVINO_LOOK_UP)
#undef TRTLAB_OPENVINO_LOOK_UP

    if (state.api.get_openvino_version != nullptr) {
        state.path = path_of(reinterpret_cast<const void*>(state.api.get_openvino_version), state.path);
        ov_version_t version{};
        if (state.api.version_free != nullptr && state.api.get_openvino_version(&version) == ov_status_e::OK) {
            state.version = version.buildNumber;
            state.api.version_free(&version);
        }
    }
    const std::string found =
        "'" + state.path + "' (version " + (state.version.empty() ? "unknown" : state.version) + ")";
    // First, as another release line explains functions that are missing.
    if (!state.version.empty() && !state.version.starts_with(kKnownLine)) {
        throw core::EngineError("OpenVINO's library " + found +
                                " is of a release line that this trtlab does not know: expected " +
                                std::string(kKnownLine) + "x; " + std::string(kInstall));
    }
    if (!missing.empty()) {
        throw core::EngineError("OpenVINO's library " + found + " lacks functions that trtlab needs: " + missing +
                                "; " + std::string(kInstall));
    }
}

}  // namespace

std::shared_ptr<Library> Library::open(const Options& options) {
    // A shared library is opened once for a process: what a child opens is its parent's, with threads that are gone and
    // locks that they may hold. Seen to hang in a child's first compilation.
    static const core::ForkGuard first_opened;
    if (first_opened.forked()) {
        throw core::Closed(
            "OpenVINO was opened by the parent process, and its threads did not survive the fork: open it after the "
            "fork "
            "only, or start processes that do not fork (multiprocessing's 'spawn')");
    }
    auto state = std::make_unique<State>();
    resolve(find_and_open(options, state->path), *state);
    state->api.check(state->api.core_create(&state->core), "OpenVINO's core could not be created");
    // Owned from here on, so that a failing probe frees the core.
    std::shared_ptr<Library> library(new Library(std::move(state)));
    probe_element_types(*library->state_);
    library->state_->strings_readable = probe_strings(*library->state_);
    return library;
}

Library::Library(std::unique_ptr<State> state) : state_(std::move(state)) {}

Library::~Library() {
    // In a child OpenVINO waits here for threads that stayed in the parent. What it allocated stays for good.
    if (fork_.forked()) {
        (void)state_.release();
        return;
    }
    state_->api.core_free(state_->core);
}

const std::string& Library::version() const noexcept { return state_->version; }
const std::string& Library::path() const noexcept { return state_->path; }

std::vector<std::string> Library::devices() const {
    const Api& api = state_->api;
    ov_available_devices_t found{};
    api.check(api.core_get_available_devices(state_->core, &found), "OpenVINO's devices could not be listed");
    const std::unique_ptr<ov_available_devices_t, void (*)(ov_available_devices_t*)> owner(&found,
                                                                                           api.available_devices_free);
    return {found.devices, found.devices + found.size};
}

std::string Library::device_property(const std::string& device, const std::string& key) const {
    const Api& api = state_->api;
    char* value = nullptr;
    api.check(api.core_get_property(state_->core, device.c_str(), key.c_str(), &value),
              ("device '" + device + "', property '" + key + "'").c_str());
    const Handle<const char> owner(value, api.free);
    return value;
}

}  // namespace trtlab::openvino
