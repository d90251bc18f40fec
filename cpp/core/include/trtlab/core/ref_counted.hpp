#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace trtlab::core {

/// Base of objects shared through `Ref`. An intrusive count, because a request's state, its outputs and its place in
/// the queue are one recycled object: `std::shared_ptr` would allocate a control block for each.
///
/// Threads: the count is atomic; everything else is the derived class's business.
class [[gnu::visibility("default")]] RefCounted {
public:
    RefCounted(const RefCounted&) = delete;
    RefCounted& operator=(const RefCounted&) = delete;

    void add_ref() const noexcept {
        refs_.fetch_add(1,
                        std::memory_order_relaxed);  // a new reference is made from an existing one: nothing to order
    }

    void release() const noexcept {
        // Release and acquire pair among all owners: the last one sees every other owner's writes.
        if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            const_cast<RefCounted*>(this)->dispose();
        }
    }

    std::uint32_t use_count() const noexcept { return refs_.load(std::memory_order_relaxed); }

    /// How many of these objects exist in the process, idle ones in recyclers included. Back at its old value once all
    /// that was made since is gone: tests look here for leaks.
    static std::int64_t live() noexcept;

protected:
    RefCounted() noexcept;
    virtual ~RefCounted();

    /// Called when the last reference is gone. A recycled object returns itself to its home here instead.
    virtual void dispose() noexcept { delete this; }

private:
    mutable std::atomic<std::uint32_t> refs_{0};
};

/// A counted reference to a `RefCounted`. May be empty.
template <class T>
class Ref {
public:
    Ref() = default;
    Ref(std::nullptr_t) noexcept {}
    explicit Ref(T* object) noexcept : object_(object) {
        if (object_ != nullptr) object_->add_ref();
    }
    Ref(const Ref& other) noexcept : Ref(other.object_) {}
    Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    template <class U>
        requires std::is_convertible_v<U*, T*>
    Ref(const Ref<U>& other) noexcept : Ref(other.get()) {}
    template <class U>
        requires std::is_convertible_v<U*, T*>
    Ref(Ref<U>&& other) noexcept : object_(other.detach()) {}
    ~Ref() {
        if (object_ != nullptr) object_->release();
    }
    Ref& operator=(Ref other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }

    T* get() const noexcept { return object_; }
    T& operator*() const noexcept { return *object_; }
    T* operator->() const noexcept { return object_; }
    explicit operator bool() const noexcept { return object_ != nullptr; }

    /// Gives up the reference without releasing it; `adopt` takes it back.
    [[nodiscard]] T* detach() noexcept { return std::exchange(object_, nullptr); }
    [[nodiscard]] static Ref adopt(T* object) noexcept {
        Ref ref;
        ref.object_ = object;
        return ref;
    }

private:
    T* object_ = nullptr;
};

template <class T, class... Args>
Ref<T> make_ref(Args&&... args) {
    return Ref<T>(new T(std::forward<Args>(args)...));
}

}  // namespace trtlab::core
