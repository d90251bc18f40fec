#include "trtlab/core/inference_manager.hpp"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <set>
#include <tuple>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

[[noreturn]] void throw_closed() { throw Closed("the inference manager is closed: make a new one"); }

[[noreturn]] void throw_unknown(std::string_view name, const auto& models) {
    std::string message = "no model is called '" + std::string(name) + "'; there are";
    bool any = false;
    for (const auto& [known, model] : models) {
        if (!model) continue;
        message += " '" + known + "'";
        any = true;
    }
    throw NotFound(any ? message : message + " none");
}

}  // namespace

InferenceManager::InferenceManager(const ExecutionBudget::Options& limits)
    : limits_(ExecutionBudget(limits).options()) {}

InferenceManager::~InferenceManager() {
    if (fork_.forked()) return;  // the models, too, leak what stayed in the parent
    try {
        close();
    } catch (...) {
        log_current_exception("the destructor of an inference manager");
    }
}

std::shared_ptr<ExecutionBudget> InferenceManager::budget(const std::string& device) {
    if (device.empty()) throw InvalidArgument("a budget is of a device: expected \"cpu\" or \"cuda:0\", got nothing");
    std::lock_guard lock(budgets_mutex_);
    std::shared_ptr<ExecutionBudget>& budget = budgets_[device];
    if (!budget) budget = std::make_shared<ExecutionBudget>(limits_);
    return budget;
}

std::map<std::string, ExecutionBudget::Stats> InferenceManager::budget_stats() const {
    std::lock_guard lock(budgets_mutex_);
    std::map<std::string, ExecutionBudget::Stats> stats;
    for (const auto& [device, budget] : budgets_) stats.emplace(device, budget->stats());
    return stats;
}

std::vector<MemoryUse> InferenceManager::memory_report() const {
    std::set<std::shared_ptr<Model>> models;
    {
        std::shared_lock lock(mutex_);
        for (const auto& [name, model] : models_) {
            if (model) models.insert(model);
        }
    }
    std::vector<std::shared_ptr<ExecutionBudget>> budgets;
    {
        std::lock_guard lock(budgets_mutex_);
        for (const auto& [device, budget] : budgets_) budgets.push_back(budget);
    }
    std::vector<MemoryUse> report;
    const auto add = [&](std::vector<MemoryUse> uses) {
        std::move(uses.begin(), uses.end(), std::back_inserter(report));
    };
    for (const auto& model : models) add(model->memory());
    for (const auto& budget : budgets) add(budget->memory());
    std::sort(report.begin(), report.end(), [](const MemoryUse& a, const MemoryUse& b) {
        return std::tie(a.owner, a.what, a.device, a.size_bytes) < std::tie(b.owner, b.what, b.device, b.size_bytes);
    });
    return report;
}

std::shared_ptr<Model> InferenceManager::register_model(const std::string& name, std::shared_ptr<Model> model) {
    if (!model) throw InvalidArgument("model '" + name + "' is null");
    return load(name, [&](const std::string&, InferenceManager&) { return std::move(model); });
}

std::shared_ptr<Model> InferenceManager::load(const std::string& name, const Loader& loader) {
    if (name.empty()) throw InvalidArgument("a model needs a name that is not empty");
    {
        std::unique_lock lock(mutex_);
        if (closed_) throw_closed();
        const auto [place, reserved] = models_.try_emplace(name);
        if (!reserved) {
            throw InvalidArgument("the name '" + name + "' is taken by " +
                                  (place->second ? "another model" : "a model that is being loaded") +
                                  "; unload that one or choose another name");
        }
    }
    std::shared_ptr<Model> model;
    try {
        model = loader(name, *this);
        if (!model) throw InvalidArgument("the loader of model '" + name + "' returned nothing");
    } catch (...) {
        std::unique_lock lock(mutex_);
        models_.erase(name);
        throw;
    }
    bool too_late = false;
    {
        std::unique_lock lock(mutex_);
        too_late = closed_;
        if (!too_late) models_[name] = model;
    }
    if (too_late) {
        model->close(Pending::cancel);
        throw_closed();
    }
    return model;
}

std::shared_ptr<Model> InferenceManager::model(std::string_view name) const {
    std::shared_lock lock(mutex_);
    if (closed_) throw_closed();
    const auto found = models_.find(name);
    if (found == models_.end() || !found->second) throw_unknown(name, models_);
    return found->second;
}

std::vector<std::string> InferenceManager::names() const {
    std::shared_lock lock(mutex_);
    std::vector<std::string> names;
    for (const auto& [name, model] : models_) {
        if (model) names.push_back(name);
    }
    return names;
}

void InferenceManager::unload(const std::string& name, Pending pending) {
    std::shared_ptr<Model> model;
    {
        std::unique_lock lock(mutex_);
        if (closed_) throw_closed();
        const auto found = models_.find(name);
        if (found == models_.end() || !found->second) throw_unknown(name, models_);
        model = std::move(found->second);
        models_.erase(found);
    }
    model->close(pending);
}

void InferenceManager::close(Pending pending) {
    std::map<std::string, std::shared_ptr<Model>, std::less<>> closing;
    {
        std::unique_lock lock(mutex_);
        closed_ = true;
        closing.swap(models_);
    }
    std::exception_ptr first;
    for (const auto& [name, model] : closing) {
        try {
            if (model) model->close(pending);
        } catch (...) {
            if (!first) first = std::current_exception();  // the others are to be closed all the same
        }
    }
    if (first) std::rethrow_exception(first);
}

bool InferenceManager::closed() const {
    std::shared_lock lock(mutex_);
    return closed_;
}

}  // namespace trtlab::core
