#include "candidates.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <filesystem>
#include <set>

namespace trtlab::tensorrt {
namespace {

namespace fs = std::filesystem;

struct Name {
    Flavour flavour;
    std::string_view stem;
    std::string_view sonames;  // the newest first
};
constexpr Name kNames[] = {
    {Flavour::full, "libnvinfer.so", "11 10"},
    {Flavour::rtx, "libtensorrt_rtx.so", "1"},
    {Flavour::lean, "libnvinfer_lean.so", "11 10"},
    {Flavour::dispatch, "libnvinfer_dispatch.so", "11 10"},
};

const Name& name_for(Flavour flavour) {
    return *std::find_if(std::begin(kNames), std::end(kNames),
                         [&](const Name& name) { return name.flavour == flavour; });
}

/// What the library is by what it says; the number alone tells TensorRT from TensorRT-RTX.
Flavour flavour_of_version(Generation generation, std::optional<Flavour> by_name, void* handle) {
    if (abi::is_rtx(generation)) return Flavour::rtx;
    if (by_name) return *by_name;
    // A file under a name of somebody's own: only the full library has the builder.
    return dlsym(handle, "createInferBuilder_INTERNAL") != nullptr ? Flavour::full : Flavour::lean;
}

template <class Function>
void look_up(void* handle, const char* name, Function& function, std::string& missing) {
    void* symbol = dlsym(handle, name);
    if (symbol == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(name);
    function = reinterpret_cast<Function>(symbol);
}

}  // namespace

std::optional<Flavour> flavour_of_name(std::string_view file_name) {
    for (const Name& name : kNames) {
        if (!file_name.starts_with(name.stem)) continue;
        const std::string_view rest = file_name.substr(name.stem.size());
        if (rest.empty() || (rest[0] == '.' && rest.find_first_not_of(".0123456789") == rest.npos)) return name.flavour;
    }
    return std::nullopt;
}

std::vector<std::string> loader_names(Flavour flavour) {
    const Name& name = name_for(flavour);
    std::vector<std::string> names;
    for (std::string_view rest = name.sonames; !rest.empty();) {
        const std::size_t end = std::min(rest.find(' '), rest.size());
        names.push_back(std::string(name.stem) + "." + std::string(rest.substr(0, end)));
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return names;
}

std::vector<std::string> files_in(const std::string& directory, Flavour flavour) {
    std::vector<std::string> files;
    std::error_code error;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
        if (flavour_of_name(entry->path().filename().string()) == flavour) {
            files.push_back(fs::absolute(entry->path()).string());
        }
    }
    std::sort(files.begin(), files.end());
    std::set<std::string> seen;
    std::erase_if(files, [&](const std::string& file) {
        std::error_code ignored;
        return !seen.insert(fs::weakly_canonical(file, ignored).string()).second;
    });
    return files;
}

Opened open_candidate(const std::string& file) {
    Opened opened;
    Library::Candidate& found = opened.candidate;
    found.path = file;
    const std::optional<Flavour> by_name = flavour_of_name(fs::path(file).filename().string());
    found.flavour = by_name.value_or(Flavour::full);

    void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        const char* reason = dlerror();
        found.problem = reason != nullptr ? reason : "the loader gives no reason";
        return opened;
    }
    std::int32_t (*get_version)() = nullptr;
    std::string missing;
    look_up(handle, "getInferLibVersion", get_version, missing);
    look_up(handle, "createInferRuntime_INTERNAL", opened.abi.create_runtime, missing);
    if (!missing.empty()) {
        found.problem = "it is no TensorRT library: it lacks " + missing;
        return opened;
    }
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(get_version), &info) != 0) {
        opened.abi.base = info.dli_fbase;
        if (file.find('/') == file.npos && info.dli_fname != nullptr) found.path = info.dli_fname;
    }
    opened.abi.version = get_version();
    found.version = abi::version_text(opened.abi.version);
    const std::optional<Generation> generation = abi::generation_of(opened.abi.version);
    if (!generation) {
        found.problem =
            "version " + found.version + " (" + std::to_string(opened.abi.version) +
            ") is none that this trtlab knows: expected TensorRT 10.x or 11.x, or TensorRT-RTX 1.4 to 1.7; the "
            "layout of its classes is not known, and guessing it would crash";
        return opened;
    }
    opened.abi.generation = *generation;
    found.flavour = flavour_of_version(*generation, by_name, handle);
    if (by_name && (*by_name == Flavour::rtx) != abi::is_rtx(*generation)) {
        found.problem = "its name says " + std::string(name_of(*by_name)) + ", and its version, " + found.version +
                        ", is " + std::string(name_of(*generation));
    }
    return opened;
}

}  // namespace trtlab::tensorrt
