#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "trtlab/core/ref_counted.hpp"

namespace trtlab::core {

/// Keeps finished `T`s for reuse, so that a warm request path allocates nothing. Unlike a `Pool` it never makes anybody
/// wait: when nothing is free it makes another, and what comes back beyond `max_idle` is deleted.
///
/// `T` derives from `Recycled<T, Base>` and has `void recycle() noexcept`, which drops what the last use left behind
/// and keeps capacity. If it has `std::size_t held_bytes() const noexcept`, idle objects are also limited by their memory.
/// Owns: the idle objects. An object that is out keeps the recycler alive.
/// Threads: all members may be called from any thread.
template <class T>
class Recycler final : public RefCounted {
public:
    Recycler(std::size_t max_idle, std::function<T*()> make, std::size_t max_idle_bytes = SIZE_MAX)
        : max_idle_(max_idle), max_idle_bytes_(max_idle_bytes), make_(std::move(make)) {
        idle_.reserve(max_idle);
    }
    ~Recycler() override {
        for (T* object : idle_) delete object;
    }

    Ref<T> take() {
        T* object = nullptr;
        {
            std::lock_guard lock(mutex_);
            if (!idle_.empty()) {
                object = idle_.back();
                idle_.pop_back();
                idle_bytes_ -= bytes_of(*object);
            }
        }
        if (object == nullptr) object = make_();
        object->home_ = Ref<Recycler>(this);
        return Ref<T>(object);
    }

    std::size_t idle() const {
        std::lock_guard lock(mutex_);
        return idle_.size();
    }

private:
    template <class, class>
    friend class Recycled;

    void put(T* object) noexcept {
        {
            std::lock_guard lock(mutex_);
            const std::size_t bytes = bytes_of(*object);
            if (idle_.size() < max_idle_ && bytes <= max_idle_bytes_ - idle_bytes_) {
                idle_.push_back(object);  // cannot throw: reserved for max_idle_
                idle_bytes_ += bytes;
                return;
            }
        }
        delete object;
    }

    static std::size_t bytes_of(const T& object) noexcept {
        if constexpr (requires { object.held_bytes(); }) {
            return object.held_bytes();
        } else {
            return 0;
        }
    }

    const std::size_t max_idle_;
    const std::size_t max_idle_bytes_;
    const std::function<T*()> make_;
    mutable std::mutex mutex_;
    std::vector<T*> idle_;
    std::size_t idle_bytes_ = 0;
};

/// Mixin of an object that goes back to its `Recycler` when its last reference is gone.
template <class T, class Base = RefCounted>
class Recycled : public Base {
public:
    using Base::Base;

protected:
    void dispose() noexcept override {
        T* self = static_cast<T*>(this);
        self->recycle();
        if (auto home = std::move(home_)) {
            home->put(self);
        } else {
            delete self;
        }
    }

private:
    friend class Recycler<T>;
    Ref<Recycler<T>> home_;
};

}  // namespace trtlab::core
