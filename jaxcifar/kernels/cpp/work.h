// What a convolution is, and how its work is shared out: XLA's threads, and memory.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>

#include "xla/ffi/api/c_api.h"

namespace jaxcifar {

using Index = int64_t;

// What a thread works on at a time, of a second-level cache.
constexpr Index kCacheBytes = 512 * 1024;

// Work is cut into so many parts or more, whatever the number of threads: sums of parts are added
// up, and results are not to depend on it.
constexpr Index kParts = 16;

constexpr Index CeilDiv(Index a, Index b) { return (a + b - 1) / b; }

struct Shape {
  Index images, height, width, in;
  Index rows, columns;  // of the kernel
  Index out_height, out_width, out;
  Index stride_down, stride_right;
  Index above, left;  // padding

  Index padded_height() const { return (out_height - 1) * stride_down + rows; }
  Index padded_width() const { return (out_width - 1) * stride_right + columns; }

  // Whether each output is made of one pixel, its own.
  bool pointwise() const {
    return rows == 1 && columns == 1 && stride_down == 1 && stride_right == 1 && above == 0 &&
           left == 0 && height == out_height && width == out_width;
  }
};

// XLA's threads.
class Threads {
 public:
  explicit Threads(const XLA_FFI_CallFrame* frame) : api_(frame->api), context_(frame->ctx) {
    XLA_FFI_ThreadPool_NumThreads_Args args = {
        XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr, context_, &count_};
    if (Failed(api_->XLA_FFI_ThreadPool_NumThreads(&args))) count_ = 1;
  }

  Index count() const { return count_; }

  // Calls work(part, thread) for all parts, and returns when all are done. The calling thread takes
  // its share, and waits for no thread that has not begun, as all others may be in another call.
  void Share(Index parts, std::function<void(Index, Index)> work) const {
    auto job = std::make_shared<Job>(parts, std::move(work));
    for (Index helper = 1; helper < std::min(count_, parts); ++helper) {
      auto* its_job = new (std::nothrow) std::shared_ptr<Job>(job);
      if (its_job == nullptr) break;
      XLA_FFI_ThreadPool_Schedule_Args args = {
          XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr, context_, Help, its_job};
      if (Failed(api_->XLA_FFI_ThreadPool_Schedule(&args))) delete its_job;
    }
    job->Work();
    job->Wait();
  }

 private:
  class Job {
   public:
    Job(Index parts, std::function<void(Index, Index)> work)
        : parts_(parts), work_(std::move(work)) {}

    void Work() {
      const Index thread = threads_++;
      for (Index part; (part = next_++) < parts_;) {
        work_(part, thread);
        if (++done_ == parts_) {
          std::lock_guard<std::mutex> lock(mutex_);
          all_done_.notify_all();
        }
      }
    }

    void Wait() {
      std::unique_lock<std::mutex> lock(mutex_);
      all_done_.wait(lock, [this] { return done_ == parts_; });
    }

   private:
    const Index parts_;
    const std::function<void(Index, Index)> work_;
    std::atomic<Index> threads_{0}, next_{0}, done_{0};
    std::mutex mutex_;
    std::condition_variable all_done_;
  };

  static void Help(void* its_job) {
    std::unique_ptr<std::shared_ptr<Job>> job(static_cast<std::shared_ptr<Job>*>(its_job));
    (*job)->Work();
  }

  bool Failed(XLA_FFI_Error* error) const {
    if (error == nullptr) return false;
    XLA_FFI_Error_Destroy_Args args = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
    api_->XLA_FFI_Error_Destroy(&args);
    return true;
  }

  const XLA_FFI_Api* api_;
  XLA_FFI_ExecutionContext* context_;
  Index count_ = 1;
};

// Memory for numbers; throws std::bad_alloc.
template <class T>
class Scratch {
 public:
  explicit Scratch(Index count)
      : data_(static_cast<T*>(::operator new(count * sizeof(T), kAlignment))) {}
  ~Scratch() { ::operator delete(data_, kAlignment); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* operator+(Index offset) const { return data_ + offset; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  T* const data_;
};

}  // namespace jaxcifar
