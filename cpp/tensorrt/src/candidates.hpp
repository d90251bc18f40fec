#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "abi.hpp"

namespace trtlab::tensorrt {

/// A file that was opened and asked what it is.
struct Opened {
    Library::Candidate candidate;
    Library::Abi abi;  ///< valid if the candidate has no problem
};

/// Opens `file`, a path or a name for the loader, and finds out whether this layer knows it. Never throws for what it finds:
/// the candidate says what is wrong.
Opened open_candidate(const std::string& file);

/// The flavour that a file's name claims: "libnvinfer_lean.so.11" is lean. None for other names.
std::optional<Flavour> flavour_of_name(std::string_view file_name);
/// The names under which the loader may know a flavour, the newest first.
std::vector<std::string> loader_names(Flavour flavour);
/// Files in `directory` whose names claim the flavour; links to the same file once.
std::vector<std::string> files_in(const std::string& directory, Flavour flavour);

}  // namespace trtlab::tensorrt
