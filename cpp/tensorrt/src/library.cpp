#include "trtlab/tensorrt/library.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>

#include "candidates.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::tensorrt {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVariable = "TRTLAB_TENSORRT_LIBRARY";
constexpr std::string_view kInstall =
    "install one with: pip install \"trtlab[rtx]\" or pip install \"trtlab[tensorrt]\", or set TRTLAB_TENSORRT_LIBRARY "
    "to "
    "the library's path";
constexpr std::array kAllFlavours{Flavour::full, Flavour::rtx, Flavour::lean, Flavour::dispatch};

/// "10", "11.4", "1.4.0": the parts that a library's version must begin with.
class Wanted {
public:
    explicit Wanted(const std::string& text) : text_(text) {
        if (text.empty()) return;
        for (std::size_t begin = 0; begin <= text.size();) {
            const std::size_t end = std::min(text.find('.', begin), text.size());
            const std::string part = text.substr(begin, end - begin);
            if (part.empty() || part.size() > 4 || part.find_first_not_of("0123456789") != part.npos) refuse();
            parts_.push_back(std::stoi(part));
            begin = end + 1;
        }
        if (parts_.size() > 3) refuse();
    }
    bool matches(int version) const noexcept {
        const std::array<int, 3> its{version / 10000, version / 100 % 100, version % 100};
        return std::equal(parts_.begin(), parts_.end(), its.begin());
    }
    const std::string& text() const noexcept { return text_; }

private:
    [[noreturn]] void refuse() const {
        throw core::InvalidArgument(
            "TensorRT's version: expected one to three numbers, such as \"10\", \"11.4\" or \"1.4.0\", "
            "got \"" +
            text_ + "\"");
    }
    std::string text_;
    std::vector<int> parts_;
};

/// A file named by the caller, by path or by the environment; empty if there is none. Throws NotFound if it does not exist.
std::string named_file(const Library::Options& options) {
    std::string file = options.path;
    std::string by = "the path given";
    if (file.empty()) {
        const char* variable = std::getenv(kVariable);
        if (variable == nullptr || *variable == '\0') return {};
        file = variable;
        by = std::string("the environment variable ") + kVariable;
    }
    std::error_code ignored;
    if (!fs::exists(file, ignored)) {
        throw core::NotFound("TensorRT's library: " + by + " names '" + file + "', which does not exist; " +
                             std::string(kInstall));
    }
    return fs::absolute(file, ignored).string();
}

/// Everything of one flavour, in the order of the search, each file once.
std::vector<Opened> search(const Library::Options& options, Flavour flavour) {
    std::vector<Opened> found;
    const auto add = [&](Opened opened) {
        std::error_code ignored;
        const std::string file = fs::weakly_canonical(opened.candidate.path, ignored).string();
        const bool known = std::any_of(found.begin(), found.end(), [&](const Opened& other) {
            std::error_code also_ignored;
            return fs::weakly_canonical(other.candidate.path, also_ignored).string() == file;
        });
        if (!known) found.push_back(std::move(opened));
    };
    for (const std::string& directory : options.directories) {
        for (const std::string& file : files_in(directory, flavour)) add(open_candidate(file));
    }
    for (const std::string& name : loader_names(flavour)) {
        Opened opened = open_candidate(name);
        // A name that the loader doesn't know is no candidate; a file that it finds and can't load is one.
        if (!opened.candidate.problem.starts_with(name + ": cannot open shared object file")) add(std::move(opened));
    }
    return found;
}

std::vector<Flavour> flavours_of(const Library::Options& options) {
    if (!options.flavours.empty()) return options.flavours;
    return {kAllFlavours.begin(), kAllFlavours.end()};
}

std::string line_for(const Library::Candidate& candidate, const std::string& problem) {
    return "\n  " + candidate.path + (candidate.version.empty() ? "" : " (version " + candidate.version + ")") + ": " +
           problem;
}

std::string why_not(const Opened& opened, const Wanted& wanted, const std::vector<Flavour>& flavours) {
    if (!opened.candidate.problem.empty()) return opened.candidate.problem;
    if (!wanted.matches(opened.abi.version)) return "version " + wanted.text() + " was asked for";
    if (std::find(flavours.begin(), flavours.end(), opened.candidate.flavour) == flavours.end()) {
        return "it is " + std::string(name_of(opened.candidate.flavour)) + ", which was not asked for";
    }
    return {};
}

std::string where_looked(const Library::Options& options, const std::vector<Flavour>& flavours) {
    std::string text;
    for (const std::string& directory : options.directories) {
        std::error_code ignored;
        text += "\n  " + directory + (fs::is_directory(directory, ignored) ? "" : " (no such folder)");
    }
    text += "\n  the loader's search path, for";
    for (const Flavour flavour : flavours) {
        for (const std::string& name : loader_names(flavour)) text += " " + name;
    }
    return text;
}

}  // namespace

std::string_view name_of(Generation generation) noexcept {
    constexpr std::array<std::string_view, 4> names{"TensorRT 10", "TensorRT 11", "TensorRT-RTX 1.4",
                                                    "TensorRT-RTX 1.5 to 1.7"};
    return names[static_cast<std::size_t>(generation)];
}

std::string_view name_of(Flavour flavour) noexcept {
    constexpr std::array<std::string_view, 4> names{"full", "lean", "dispatch", "rtx"};
    return names[static_cast<std::size_t>(flavour)];
}

std::shared_ptr<const Library> Library::open(const Options& options) {
    const Wanted wanted(options.version);
    const std::vector<Flavour> flavours = flavours_of(options);
    std::vector<Opened> seen;
    const Opened* best = nullptr;
    std::string refused;
    const std::string file = named_file(options);
    const auto choose = [&] {
        for (const Opened& opened : seen) {
            const std::string problem = why_not(opened, wanted, flavours);
            if (!problem.empty()) {
                refused += line_for(opened.candidate, problem);
            } else if (best == nullptr || opened.abi.version > best->abi.version) {
                best = &opened;
            }
        }
    };
    if (!file.empty()) {
        seen.push_back(open_candidate(file));
        choose();
    } else {
        for (const Flavour flavour : flavours) {
            seen = search(options, flavour);
            choose();
            if (best != nullptr) break;
        }
    }
    if (best == nullptr) {
        std::string message = "no TensorRT library";
        if (!wanted.text().empty()) message += " of version " + wanted.text();
        message += " could be opened";
        if (file.empty()) message += "; looked in:" + where_looked(options, flavours);
        message += refused.empty() ? "\nand found none" : "\nfound and refused:" + refused;
        throw core::EngineError(message + "\n" + std::string(kInstall));
    }
    std::shared_ptr<Library> library(new Library);
    *library->abi_ = best->abi;
    library->version_ = best->candidate.version;
    library->path_ = best->candidate.path;
    library->flavour_ = best->candidate.flavour;
    return library;
}

std::vector<Library::Candidate> Library::find(const Options& options) {
    const Wanted wanted(options.version);
    const std::vector<Flavour> flavours = flavours_of(options);
    std::vector<Candidate> candidates;
    const auto add = [&](const Opened& opened) {
        candidates.push_back(opened.candidate);
        candidates.back().problem = why_not(opened, wanted, flavours);
    };
    if (const std::string file = named_file(options); !file.empty()) {
        add(open_candidate(file));
        return candidates;
    }
    for (const Flavour flavour : flavours) {
        for (const Opened& opened : search(options, flavour)) add(opened);
    }
    return candidates;
}

Library::Library() : abi_(std::make_unique<Abi>()) {}
Library::~Library() = default;

const std::string& Library::version() const noexcept { return version_; }
int Library::version_number() const noexcept { return abi_->version; }
Generation Library::generation() const noexcept { return abi_->generation; }
Flavour Library::flavour() const noexcept { return flavour_; }
const std::string& Library::path() const noexcept { return path_; }

std::string Library::to_string() const {
    if (flavour_ == Flavour::rtx) return "TensorRT-RTX " + version_;
    return "TensorRT " + version_ + (flavour_ == Flavour::full ? "" : " (" + std::string(name_of(flavour_)) + ")");
}

}  // namespace trtlab::tensorrt
