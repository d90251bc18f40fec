#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/wait.hpp"

namespace trtlab::openvino {

/// OpenVINO's runtime, opened when it is first needed, so that a program that uses this layer starts on a machine that
/// has no OpenVINO. Everything is resolved and checked once, here; later calls go straight through a table.
///
/// Owns: the library's one `ov_core`. The shared library itself is never unloaded: its threads outlive its users.
/// Threads: all members may be called from any thread. In a forked child the destructor leaves everything as it is.
class [[gnu::visibility("default")]] Library {
public:
    struct Options {
        /// The file to open, and nothing else. Empty: see `directories`.
        std::string path = {};
        /// Folders to look in, in this order, before the loader's own search; the environment variable
        /// TRTLAB_OPENVINO_LIBRARY, a file, comes before them. PyPI's package keeps the library in `openvino/libs`.
        std::vector<std::string> directories = {};
    };

    /// Finds, opens and checks the library: version, functions, element types, layout of strings. Loads OpenVINO's
    /// IR reader for that; takes some 10 ms. Throws NotFound if a file named by the caller does not exist, EngineError
    /// if there is no usable library; the message says what was looked for, where, and what to install. Throws Closed in
    /// a forked child whose parent has opened it: load models after the fork.
    static std::shared_ptr<Library> open(const Options& options);
    static std::shared_ptr<Library> open() { return open(Options{}); }

    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;
    ~Library();

    /// "2026.4.1-22982-e213a147257-releases/2026/4"
    const std::string& version() const noexcept;
    /// The file that was opened, as the loader knows it.
    const std::string& path() const noexcept;

    /// Devices that OpenVINO can use now: "CPU", "GPU.0", ... Throws EngineError.
    std::vector<std::string> devices() const;
    /// A property of a device in OpenVINO's own words: `device_property("CPU", "FULL_DEVICE_NAME")`. Throws EngineError.
    std::string device_property(const std::string& device, const std::string& key) const;

    struct State;  ///< private to the layer: the table of functions
    const State& state() const noexcept { return *state_; }

private:
    explicit Library(std::unique_ptr<State> state);
    const core::ForkGuard fork_;
    std::unique_ptr<State> state_;
};

}  // namespace trtlab::openvino
