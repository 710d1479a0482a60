/* Put before each source of the crawl: its calls to the file system go to one that the fuzzer's bytes stand for. */
#ifndef LADING_FAKE_FILES_H
#define LADING_FAKE_FILES_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define _FILE_OFFSET_BITS 64
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int fake_open(const char *path, int flags);
int fake_openat(int at, const char *path, int flags);
int fake_close(int descriptor);
int fake_fstat(int descriptor, struct stat *status);
int fake_fstatat(int at, const char *name, struct stat *status, int flags);
ssize_t fake_getdents64(int descriptor, void *buffer, size_t room);
int fake_nanosleep(const struct timespec *time, struct timespec *left);
int fake_getrlimit(int resource, struct rlimit *limit);
int fake_setrlimit(int resource, const struct rlimit *limit);

#ifndef FAKE_FILES_THEMSELVES
#define open fake_open
#define openat fake_openat
#define close fake_close
#define fstat fake_fstat
#define fstatat fake_fstatat
#define getdents64 fake_getdents64
#define nanosleep fake_nanosleep
#define getrlimit fake_getrlimit
#define setrlimit fake_setrlimit
#endif
#endif
