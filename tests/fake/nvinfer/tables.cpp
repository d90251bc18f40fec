#include "tables.hpp"

#include <cstring>
#include <utility>

#include "facts.hpp"

namespace fake_nvinfer {
namespace {

std::string table_for(int version) {
    if (version >= 110400) return "trt11.4";
    if (version >= 110000) return "trt11";
    if (version >= 100000) return "trt10";
    return version >= 10500 ? "rtx1.7" : "rtx1.4";
}

template <std::size_t Index>
std::intptr_t trap() {
    the_control().violation("slot " + std::to_string(Index % Tables::kSlots) + " of " +
                            kClassNames[Index / Tables::kSlots] +
                            " was called, which this release has not, or which no caller should need");
    return 0;
}

template <std::size_t... Index>
constexpr auto traps(std::index_sequence<Index...>) {
    return std::array<std::intptr_t (*)(), sizeof...(Index)>{&trap<Index>...};
}

}  // namespace

Control& the_control() {
    static Control control;
    return control;
}

Tables::Tables(int version) : version_(version), table_(table_for(version)) {
    constexpr auto kTraps = traps(std::make_index_sequence<kClassNames.size() * kSlots>());
    for (std::size_t i = 0; i < kTraps.size(); ++i)
        tables_[i / kSlots][i % kSlots] = reinterpret_cast<void*>(kTraps[i]);
}

int Tables::slot_of(const char* name, const char* method) const {
    for (const Fact& fact : kFacts) {
        if (fact.table == table_ && std::strcmp(fact.name, name) == 0 && std::strcmp(fact.method, method) == 0) {
            return fact.since <= version_ ? fact.slot : -1;
        }
    }
    return -1;
}

}  // namespace fake_nvinfer

extern "C" [[gnu::visibility("default")]] fake_nvinfer::Control* fake_nvinfer_control() {
    return &fake_nvinfer::the_control();
}
