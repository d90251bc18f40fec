#include "trtlab/cuda/nvtx.hpp"

#include <nvtx3/nvToolsExt.h>

namespace trtlab::cuda {
namespace {

/// Null unless a profiler is attached. The first call looks for one: NVTX opens what NVTX_INJECTION64_PATH names.
nvtxDomainHandle_t domain() noexcept {
    static const nvtxDomainHandle_t created = nvtxDomainCreateA("trtlab");
    return created;
}

}  // namespace

NvtxRange::NvtxRange(const char* name) noexcept : open_(domain() != nullptr) {
    if (!open_) return;
    nvtxEventAttributes_t attributes{};
    attributes.version = NVTX_VERSION;
    attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
    attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
    attributes.message.ascii = name;
    nvtxDomainRangePushEx(domain(), &attributes);
}

NvtxRange::~NvtxRange() {
    if (open_) nvtxDomainRangePop(domain());
}

}  // namespace trtlab::cuda
