#pragma once

namespace trtlab::test {

/// Counts calls of operator new, in all threads, while it exists.
///
/// Engines allocate for each request; what is asked is whether trtlab does. The caller's address tells: what comes from an
/// engine, its libraries, a fake or the C++ library (of which all make use) is not `ours`.
class AllocationCount {
public:
    AllocationCount();
    ~AllocationCount();
    AllocationCount(const AllocationCount&) = delete;
    AllocationCount& operator=(const AllocationCount&) = delete;

    long ours() const;
    long all() const;
};

}  // namespace trtlab::test
