// A profiler as NVTX knows them: NVTX_INJECTION64_PATH names it, and it writes what it is told into the file that
// FAKE_PROFILER_FILE names.

#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <cstdlib>

namespace {

void note(const char* what, const char* name) {
    std::FILE* file = std::fopen(std::getenv("FAKE_PROFILER_FILE"), "a");
    if (file == nullptr) return;
    std::fprintf(file, "%s %s\n", what, name);
    std::fclose(file);
}

int domain;
int depth = 0;

nvtxDomainHandle_t create(const char* name) {
    note("domain", name);
    return reinterpret_cast<nvtxDomainHandle_t>(&domain);
}

int push(nvtxDomainHandle_t, const nvtxEventAttributes_t* attributes) {
    note("push", attributes->message.ascii);
    return depth++;
}

int pop(nvtxDomainHandle_t) {
    note("pop", "");
    return --depth;
}

template <class Function>
void set(NvtxFunctionTable table, int index, Function function) {
    *table[index] = reinterpret_cast<NvtxFunctionPointer>(function);
}

}  // namespace

extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
    const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
    NvtxFunctionTable table = nullptr;
    unsigned size = 0;
    if (callbacks == nullptr || callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size) == 0) return 0;
    set(table, NVTX_CBID_CORE2_DomainCreateA, create);
    set(table, NVTX_CBID_CORE2_DomainRangePushEx, push);
    set(table, NVTX_CBID_CORE2_DomainRangePop, pop);
    return 1;
}
