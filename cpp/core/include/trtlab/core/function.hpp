#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <new>
#include <type_traits>
#include <utility>

namespace trtlab::core {

template <class Signature>
class UniqueFunction;

/// A move-only callable with room for 48 bytes in place: tasks and callbacks that capture a few pointers do not
/// allocate, and what they capture need not be copyable. 56 bytes, so that it shares a cache line with a word. (C++23 has `std::move_only_function`; this project is C++20.)
template <class R, class... Args>
class UniqueFunction<R(Args...)> {
public:
    static constexpr std::size_t kInlineBytes = 48;

    UniqueFunction() noexcept = default;
    UniqueFunction(std::nullptr_t) noexcept {}

    template <class F>
        requires(!std::is_same_v<std::remove_cvref_t<F>, UniqueFunction> &&
                 std::is_invocable_r_v<R, std::decay_t<F>&, Args...>)
    UniqueFunction(F&& f) {
        using Target = std::decay_t<F>;
        if constexpr (!std::is_function_v<std::remove_reference_t<F>> &&
                      requires(const Target& target) { target == nullptr; }) {
            if (f == nullptr) return;  // an empty std::function or a null pointer makes an empty UniqueFunction
        }
        if constexpr (fits<Target>()) {
            if constexpr (std::is_empty_v<Target>) storage_[0] = {};  // else compilers warn where it is moved
            ::new (static_cast<void*>(storage_)) Target(std::forward<F>(f));
            table_ = &kInlineTable<Target>;
        } else {
            ::new (static_cast<void*>(storage_)) Target*(new Target(std::forward<F>(f)));
            table_ = &kHeapTable<Target>;
        }
    }

    UniqueFunction(UniqueFunction&& other) noexcept { take(other); }
    UniqueFunction& operator=(UniqueFunction&& other) noexcept {
        if (this != &other) {
            reset();
            take(other);
        }
        return *this;
    }
    ~UniqueFunction() { reset(); }

    explicit operator bool() const noexcept { return table_ != nullptr; }
    /// Throws std::bad_function_call if empty.
    R operator()(Args... args) {
        if (table_ == nullptr) [[unlikely]]
            throw std::bad_function_call();
        return table_->call(storage_, std::forward<Args>(args)...);
    }

    void reset() noexcept {
        if (table_ == nullptr) return;
        const Table* table = std::exchange(table_, nullptr);
        if (table->destroy != nullptr) table->destroy(storage_);
    }

private:
    struct Table {
        R (*call)(void*, Args&&...);
        void (*move)(void* from, void* to) noexcept;  // null: the bytes are copied
        void (*destroy)(void*) noexcept;              // null: nothing is to be done
    };

    template <class Target>
    static constexpr bool fits() {
        return sizeof(Target) <= kInlineBytes && alignof(Target) <= alignof(void*) &&
               std::is_nothrow_move_constructible_v<Target>;
    }

    /// What a few pointers and numbers are made of, moved by copying the bytes: no call through a pointer.
    template <class Target>
    static constexpr bool kIsBytes = std::is_trivially_copyable_v<Target> && std::is_trivially_destructible_v<Target>;

    template <class Target>
    static R invoke(Target& target, Args&&... args) {
        if constexpr (std::is_void_v<R>) {
            std::invoke(target, std::forward<Args>(args)...);
        } else {
            return std::invoke(target, std::forward<Args>(args)...);
        }
    }

    template <class Target>
    static constexpr Table kInlineTable{
        [](void* at, Args&&... args) -> R { return invoke(*static_cast<Target*>(at), std::forward<Args>(args)...); },
        kIsBytes<Target> ? nullptr : static_cast<void (*)(void*, void*) noexcept>([](void* from, void* to) noexcept {
            ::new (to) Target(std::move(*static_cast<Target*>(from)));
            static_cast<Target*>(from)->~Target();
        }),
        kIsBytes<Target> ? nullptr : static_cast<void (*)(void*) noexcept>([](void* at) noexcept {
            static_cast<Target*>(at)->~Target();
        })};

    template <class Target>
    static constexpr Table kHeapTable{
        [](void* at, Args&&... args) -> R { return invoke(**static_cast<Target**>(at), std::forward<Args>(args)...); },
        nullptr, [](void* at) noexcept { delete *static_cast<Target**>(at); }};

    void take(UniqueFunction& other) noexcept {
        if (other.table_ == nullptr) return;
        table_ = std::exchange(other.table_, nullptr);
        if (table_->move == nullptr) {
            std::memcpy(storage_, other.storage_, kInlineBytes);
        } else {
            table_->move(other.storage_, storage_);
        }
    }

    alignas(void*) std::byte storage_[kInlineBytes];
    const Table* table_ = nullptr;
};

}  // namespace trtlab::core
