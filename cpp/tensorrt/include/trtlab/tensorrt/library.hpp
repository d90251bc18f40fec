#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace trtlab::tensorrt {

/// Layouts of TensorRT's classes that this layer knows; each has its table of slots.
enum class Generation { trt10, trt11, rtx14, rtx17 };

/// Which of the libraries it is.
enum class Flavour {
    full,      ///< libnvinfer
    lean,      ///< libnvinfer_lean: runs version-compatible plans
    dispatch,  ///< libnvinfer_dispatch: finds a lean runtime inside a version-compatible plan
    rtx,       ///< libtensorrt_rtx: TensorRT for RTX
};

std::string_view name_of(Generation generation) noexcept;
std::string_view name_of(Flavour flavour) noexcept;

/// One of TensorRT's shared libraries, opened at run time: TensorRT 10 and 11 (full, lean or dispatch) and TensorRT-RTX 1.4
/// to 1.7. What is opened is known by what it says of itself (getInferLibVersion) and by the file's name, never by the
/// SONAME alone: libtensorrt_rtx.so.1 has had two layouts. What is not known is refused.
///
/// Owns: nothing; the library is never unloaded.
/// Threads: all members may be called from any thread.
class [[gnu::visibility("default")]] Library {
public:
    struct Options {
        /// The file to open, and nothing else. Empty: see `directories`.
        std::string path = {};
        /// Folders to look in, in this order, before the loader's own search; the environment variable
        /// TRTLAB_TENSORRT_LIBRARY, a file, comes before them. PyPI keeps the libraries in `tensorrt_libs`,
        /// `tensorrt_lean_libs` and `tensorrt_rtx_libs`.
        std::vector<std::string> directories = {};
        /// Look for these only. Empty: full, then rtx, then lean, then dispatch.
        std::vector<Flavour> flavours = {};
        /// Open this version only: "10", "11.4", "1.4.0". Empty: the newest of the first flavour found.
        std::string version = {};
    };

    /// Finds, opens and checks a library. Needs no driver. Throws NotFound if a file named by the caller does not exist,
    /// EngineError if there is none that fits: the message lists what was looked for and where, what was found and why it
    /// was refused, and what to install. InvalidArgument for a version that is no version.
    static std::shared_ptr<const Library> open(const Options& options);
    static std::shared_ptr<const Library> open() { return open(Options{}); }

    /// A file that looks like a TensorRT library.
    struct Candidate {
        std::string path;
        Flavour flavour = Flavour::full;
        std::string version;  ///< "1.4.0", from the library itself; empty if it can't be opened
        std::string problem;  ///< why it can't be used; empty if it can
    };
    /// Everything that `open` would look at, in its order. Opens the files.
    static std::vector<Candidate> find(const Options& options);

    /// The file whose code an object of TensorRT's runs, such as an `nvinfer1::ICudaEngine*`: the library to open for it.
    /// Empty if it is of none that is loaded. `object` is not null, and lives.
    static std::string file_of(const void* object);

    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;
    ~Library();

    /// "10.16.1", "1.4.0"
    const std::string& version() const noexcept;
    /// major x 10000 + minor x 100 + patch, as getInferLibVersion gives it.
    int version_number() const noexcept;
    Generation generation() const noexcept;
    Flavour flavour() const noexcept;
    const std::string& path() const noexcept;
    /// "TensorRT-RTX 1.4.0", "TensorRT 10.16.1 (lean)"
    std::string to_string() const;

    struct Abi;  ///< private to the layer: the table of slots, and the library's C functions
    const Abi& abi() const noexcept { return *abi_; }

private:
    Library();
    std::unique_ptr<Abi> abi_;
    std::string version_, path_;
    Flavour flavour_ = Flavour::full;
};

}  // namespace trtlab::tensorrt
