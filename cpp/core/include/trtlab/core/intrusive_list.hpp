#pragma once

#include <cstddef>

namespace trtlab::core {

template <class T>
class IntrusiveList;

/// Base of what can be in one `IntrusiveList<T>` at a time.
template <class T>
class ListNode {
    friend class IntrusiveList<T>;
    T* previous_ = nullptr;
    T* next_ = nullptr;
};

/// A doubly linked list of objects that bring their own links: nothing is allocated, and any of them can be taken out.
/// Owns nothing. Not synchronised.
template <class T>
class IntrusiveList {
public:
    bool empty() const noexcept { return head_ == nullptr; }
    std::size_t size() const noexcept { return size_; }
    T* front() const noexcept { return head_; }
    T* back() const noexcept { return tail_; }
    static T* next(const T& item) noexcept { return links(item).next_; }
    static T* previous(const T& item) noexcept { return links(item).previous_; }

    void push(T& item) noexcept { insert_after(tail_, item); }

    /// Puts `item` behind `place`; first if that is null.
    void insert_after(T* place, T& item) noexcept {
        ListNode<T>& node = item;
        node.previous_ = place;
        node.next_ = place != nullptr ? next(*place) : head_;
        (place != nullptr ? static_cast<ListNode<T>&>(*place).next_ : head_) = &item;
        (node.next_ != nullptr ? static_cast<ListNode<T>&>(*node.next_).previous_ : tail_) = &item;
        ++size_;
    }

    void remove(T& item) noexcept {
        const ListNode<T>& node = item;
        (node.previous_ != nullptr ? static_cast<ListNode<T>&>(*node.previous_).next_ : head_) = node.next_;
        (node.next_ != nullptr ? static_cast<ListNode<T>&>(*node.next_).previous_ : tail_) = node.previous_;
        --size_;
    }

    /// Takes the first out; null if there is none.
    T* pop() noexcept {
        T* first = head_;
        if (first != nullptr) remove(*first);
        return first;
    }

private:
    static const ListNode<T>& links(const T& item) noexcept { return item; }

    T* head_ = nullptr;
    T* tail_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace trtlab::core
