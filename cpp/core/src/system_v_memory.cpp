#include <sys/shm.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "trtlab/core/error.hpp"
#include "trtlab/core/shared_memory.hpp"

namespace trtlab::core {
namespace {

constexpr unsigned kOwnersAccess = 0600;
/// What shmat returns when it fails.
void* const kNowhere = reinterpret_cast<void*>(-1);

std::string in_words(int error) { return std::system_category().message(error); }

}  // namespace

SystemVMemory SystemVMemory::create(std::size_t size_bytes, std::optional<int> key) {
    const std::string what = "System V shared memory of " + std::to_string(size_bytes) + " bytes";
    if (size_bytes == 0) throw InvalidArgument(what + ": expected a size of at least 1 byte");
    if (key == IPC_PRIVATE) throw InvalidArgument(what + ": the key " + std::to_string(IPC_PRIVATE) + " is none");
    const int id =
        shmget(key.value_or(IPC_PRIVATE), size_bytes, IPC_CREAT | IPC_EXCL | static_cast<int>(kOwnersAccess));
    if (id < 0) {
        const int error = errno;
        if (error == EEXIST) {
            throw InvalidArgument(what + ": the key " + std::to_string(*key) +
                                  " is taken; attach_key() it, choose another, or remove it with ipcrm");
        }
        if (error == EINVAL) throw InvalidArgument(what + ": more than the system allows (/proc/sys/kernel/shmmax)");
        throw OutOfMemory(what + " cannot be made (shmget): " + in_words(error));
    }
    void* const data = shmat(id, nullptr, 0);
    const int error = errno;
    const bool attached = data != kNowhere;
    // Linux lets others attach to what is marked, as long as somebody has it.
    if (!key || !attached) shmctl(id, IPC_RMID, nullptr);
    if (!attached) throw OutOfMemory(what + " cannot be attached (shmat): " + in_words(error));
    return SystemVMemory(id, data, size_bytes, key.has_value());
}

SystemVMemory SystemVMemory::attach(int id, std::optional<std::size_t> size_bytes) {
    const std::string what = "System V shared memory " + std::to_string(id);
    void* const data = id < 0 ? kNowhere : shmat(id, nullptr, 0);
    if (data == kNowhere) {
        throw InvalidArgument(what + ": " + (id < 0 ? "an id is at least 0" : in_words(errno)) +
                              "; it goes when the last process that has it goes, and only its user may attach");
    }
    SystemVMemory attached(id, data, 0, false);  // detaches what is refused
    // Looked at now, since from here on the number belongs to this segment and to no other.
    shmid_ds status{};
    if (shmctl(id, IPC_STAT, &status) != 0 || (status.shm_perm.mode & kOwnersAccess) != kOwnersAccess)
        throw InvalidArgument(what + ": attachment was disabled");
    if (size_bytes == std::size_t{0} || size_bytes.value_or(1) > status.shm_segsz) {
        throw InvalidArgument(what + " has " + std::to_string(status.shm_segsz) + " bytes: expected " +
                              std::to_string(size_bytes.value_or(1)));
    }
    attached.view_.size_bytes = size_bytes.value_or(status.shm_segsz);
    return attached;
}

SystemVMemory SystemVMemory::attach_key(int key, std::optional<std::size_t> size_bytes) {
    const int id = key == IPC_PRIVATE ? -1 : shmget(key, 0, static_cast<int>(kOwnersAccess));
    if (id < 0) {
        throw InvalidArgument("System V shared memory with the key " + std::to_string(key) + ": " +
                              (key == IPC_PRIVATE ? "this key is none" : in_words(errno)));
    }
    return attach(id, size_bytes);
}

void SystemVMemory::disable_attachment() {
    // The mode keeps out who has the number, and removal takes the key away.
    shmid_ds status{};
    bool done = shmctl(id_, IPC_STAT, &status) == 0;
    if (!done && errno == EACCES) return;  // nobody may even look at what was disabled
    status.shm_perm.mode = 0;
    done = done && shmctl(id_, IPC_SET, &status) == 0 && shmctl(id_, IPC_RMID, nullptr) == 0;
    if (!done) {
        throw Error("System V shared memory " + std::to_string(id_) +
                    ": attachment cannot be disabled: " + in_words(errno));
    }
    owns_key_ = false;
}

SystemVMemory::SystemVMemory(SystemVMemory&& other) noexcept
    : id_(std::exchange(other.id_, -1)),
      owns_key_(std::exchange(other.owns_key_, false)),
      fork_(other.fork_),
      view_(std::exchange(other.view_, {})) {}

SystemVMemory& SystemVMemory::operator=(SystemVMemory&& other) noexcept {
    SystemVMemory taken(std::move(other));
    std::swap(id_, taken.id_);
    std::swap(owns_key_, taken.owns_key_);
    std::swap(fork_, taken.fork_);
    std::swap(view_, taken.view_);
    return *this;
}

SystemVMemory::~SystemVMemory() {
    if (view_.data == nullptr) return;
    if (owns_key_ && !fork_.forked()) shmctl(id_, IPC_RMID, nullptr);
    shmdt(view_.data);
}

}  // namespace trtlab::core
