// The shape of a convolution, threads that share its work, and scratch memory.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

// Tells the compiler that a loop does not read what it writes.
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace jaxcifar {

using Index = int64_t;

// The share of a second-level cache that one thread's working set may take.
constexpr Index kCacheBytes = 512 * 1024;

// Work is split into at least this many parts, whatever the number of threads: some results are
// sums over parts, and they must not depend on the number of threads.
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

  // Whether each output pixel depends only on the input pixel at the same place.
  bool pointwise() const {
    return rows == 1 && columns == 1 && stride_down == 1 && stride_right == 1 && above == 0 &&
           left == 0 && height == out_height && width == out_width;
  }
};

// Threads that share work, such as those of XLA's pool.
class Threads {
 public:
  using Task = std::function<void()>;

  // `schedule` has another thread run a task, now or much later; it may throw std::bad_alloc.
  Threads(Index count, std::function<void(Task)> schedule)
      : count_(std::max<Index>(count, 1)), schedule_(std::move(schedule)) {}

  Index count() const { return count_; }

  // Calls work(part, thread) for every part and returns when all parts are done. The calling thread
  // takes parts too and never waits for a helper that has not started, since every other thread may
  // be inside a call like this one.
  void Share(Index parts, std::function<void(Index, Index)> work) const {
    const auto job = std::make_shared<Job>(parts, std::move(work));
    try {
      for (Index helper = 1; helper < std::min(count_, parts); ++helper)
        schedule_([job] { job->Work(); });
    } catch (const std::bad_alloc&) {
      // Fewer helpers: the parts are done all the same.
    }
    job->Work();
    job->Wait();
  }

  // As Share, for work in stages: stage i has parts[i] parts, and work(stage, part, thread) is
  // called when all parts of the stages before are done. Threads are woken only once.
  void ShareStages(const std::vector<Index>& parts,
                   std::function<void(Index, Index, Index)> work) const {
    const auto done = std::make_shared<std::atomic<Index>>(0);
    Share(std::accumulate(parts.begin(), parts.end(), Index(0)),
          [=, work = std::move(work)](Index index, Index thread) {
            Index stage = 0, before = 0;
            while (index - before >= parts[stage]) before += parts[stage++];
            // Parts are handed out in order, so those that this one waits for are being done.
            while (*done < before) std::this_thread::yield();
            work(stage, index - before, thread);
            ++*done;
          });
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

  Index count_;
  std::function<void(Task)> schedule_;
};

// Uninitialised memory for `count` numbers; throws std::bad_alloc.
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
