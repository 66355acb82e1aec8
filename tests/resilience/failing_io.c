/* Preloaded into a process, makes the n-th change below one directory fail.

A change is a write, an fsync, a rename, or the creation of a file or directory. fail_next(n, error,
seconds) sets n, counted from 1, and the error number; all later changes fail as well, as on a full
disk. With error 0 each of these changes hangs for that many seconds instead. changes() returns the
number of changes since then. The environment variable FAILING_IO names the directory.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int count, first = INT_MAX;
static int number, hang;

void fail_next(int n, int error, int seconds) {
  number = error;
  hang = seconds;
  count = 0;
  first = n > 0 ? n : INT_MAX;
}
int changes(void) { return count; }

static int fails_path(const char *path) {
  const char *directory = getenv("FAILING_IO");
  if (!directory || !path || !strstr(path, directory)) return 0;
  if (++count < first) return 0;
  if (number) return errno = number, 1;
  sleep(hang);
  return 0;
}

static int fails(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails_path(path);
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))
#define BY_FD(type, name, parameters, arguments) \
  type name parameters { return fails(fd) ? -1 : REAL(name) arguments; }
#define BY_PATH(name, path, parameters, arguments) \
  int name parameters { return fails_path(path) ? -1 : REAL(name) arguments; }
#define OPEN(name, parameters, arguments) \
  int name parameters { \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = va_arg(rest, int); \
    va_end(rest); \
    return flags & O_CREAT && fails_path(path) ? -1 : REAL(name) arguments; \
  }

BY_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
BY_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
BY_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
BY_FD(ssize_t, writev, (int fd, const struct iovec *data, int size), (fd, data, size))
BY_FD(ssize_t, pwritev, (int fd, const struct iovec *data, int size, off_t at),
      (fd, data, size, at))
BY_FD(int, fsync, (int fd), (fd))
BY_FD(int, fdatasync, (int fd), (fd))
BY_PATH(rename, to, (const char *from, const char *to), (from, to))
BY_PATH(renameat, to, (int from_fd, const char *from, int to_fd, const char *to),
        (from_fd, from, to_fd, to))
BY_PATH(mkdir, path, (const char *path, mode_t mode), (path, mode))
BY_PATH(mkdirat, path, (int fd, const char *path, mode_t mode), (fd, path, mode))
OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int fd, const char *path, int flags, ...), (fd, path, flags, mode))
