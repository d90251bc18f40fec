#include "abi.hpp"

#include <dlfcn.h>

#include "trtlab/core/error.hpp"

namespace trtlab::tensorrt {

std::optional<Generation> abi::generation_of(int version_number) noexcept {
    if (version_number >= 100000 && version_number <= 109999) return Generation::trt10;
    if (version_number >= 110000 && version_number <= 119999) return Generation::trt11;
    if (version_number >= 10400 && version_number <= 10499) return Generation::rtx14;
    if (version_number >= 10500 && version_number <= 10799) return Generation::rtx17;
    return std::nullopt;
}

std::string abi::version_text(int version_number) {
    return std::to_string(version_number / 10000) + "." + std::to_string(version_number / 100 % 100) + "." +
           std::to_string(version_number % 100);
}

void Library::Abi::throw_absent(const char* method, const abi::Slot& slot) const {
    throw core::EngineError("TensorRT's " + std::string(method) +
                            " does not exist in the library that is open, version " + abi::version_text(version) +
                            (slot.index < 0
                                 ? ", nor in any other of its generation (" + std::string(name_of(generation)) + ")"
                                 : ": it needs " + abi::version_text(slot.since) + " or newer"));
}

std::string Library::file_of(const void* object) {
    Dl_info info{};
    const void* table = reinterpret_cast<const void*>(static_cast<const abi::Object*>(object)->vtable);
    return dladdr(table, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : std::string();
}

void Library::Abi::check_made_here(const abi::Object* object, const char* what, const Library& library) const {
    Dl_info info{};
    const bool known = dladdr(reinterpret_cast<const void*>(object->vtable), &info) != 0;
    if (known && info.dli_fbase == base) return;
    const std::string file = file_of(object);
    throw core::InvalidArgument(std::string("expected an ") + what + " of " + library.path() + " (" +
                                library.to_string() + "), got an object of " +
                                (file.empty() ? "no library that is loaded" : file));
}

}  // namespace trtlab::tensorrt
