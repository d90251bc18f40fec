#include <algorithm>
#include <mutex>
#include <vector>

#include "module.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;

namespace {

/// What may have work in flight when the interpreter ends.
struct AtExit {
    std::mutex mutex;
    std::vector<std::weak_ptr<core::Model>> models;
    std::vector<std::weak_ptr<core::ThreadPool>> pools;
};

AtExit& at_exit() {
    static AtExit* instance = new AtExit;  // outlives every static destructor
    return *instance;
}

template <class T>
void remember(std::vector<std::weak_ptr<T>>& known, std::weak_ptr<T> object) {
    std::erase_if(known, [](const auto& weak) { return weak.expired(); });
    known.push_back(std::move(object));
}

template <class T>
void close_each(const std::vector<std::weak_ptr<T>>& known) {
    for (const auto& weak : known) {
        const std::shared_ptr<T> object = weak.lock();
        if (!object) continue;
        try {
            object->close(core::Pending::cancel);
        } catch (...) {
            core::log_current_exception("a close at interpreter exit");
        }
    }
}

}  // namespace

void close_at_exit(std::weak_ptr<core::Model> model) {
    std::lock_guard lock(at_exit().mutex);
    remember(at_exit().models, std::move(model));
}

void close_at_exit(std::weak_ptr<core::ThreadPool> pool) {
    std::lock_guard lock(at_exit().mutex);
    remember(at_exit().pools, std::move(pool));
}

void close_all() {
    std::vector<std::weak_ptr<core::Model>> models;
    std::vector<std::weak_ptr<core::ThreadPool>> pools;
    {
        std::lock_guard lock(at_exit().mutex);
        models.swap(at_exit().models);
        pools.swap(at_exit().pools);
    }
    const ReleasedGil unlocked;
    close_each(models);
    close_each(pools);
}

void forget_after_fork() {
    // The mutex may have been held by a thread that does not exist here.
    new (&at_exit()) AtExit;
}

}  // namespace trtlab::bindings
