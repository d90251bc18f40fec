#pragma once

namespace trtlab::openvino::test {

/// Counts calls of operator new, in all threads, while it exists.
///
/// OpenVINO allocates for each request; what is asked is whether trtlab does. The caller's address tells: what comes
/// from OpenVINO, its libraries or the C++ library (of which both make use) is not `ours`.
class AllocationCount {
public:
    AllocationCount();
    ~AllocationCount();
    AllocationCount(const AllocationCount&) = delete;
    AllocationCount& operator=(const AllocationCount&) = delete;

    long ours() const;
    long all() const;
};

}  // namespace trtlab::openvino::test
