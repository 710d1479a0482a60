/* A file system that is not there: preloaded, it answers for directories named "fake".
 *
 * The directory "fake" seems to hold LADING_FAKE_DIRS directories of
 * LADING_FAKE_FILES files each, made up as they are asked for, so that ten
 * million entries need no disk. Only the calls that the crawl core makes are
 * answered: openat, getdents64, fstatat and close on descriptors of our own.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { MOST = 65536, TOP = 1, LEAF = 2 };
static struct { int kind; long at; } open_dirs[MOST];

#define NEXT(name) static __typeof__(name) *next; if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static long number(const char *name, long other) {
    const char *text = getenv(name);
    return text ? atol(text) : other;
}

int openat64(int directory, const char *path, int flags, ...) {
    NEXT(openat64);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    int kind = 0;
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    if (flags & O_DIRECTORY && !strcmp(base, "fake")) kind = TOP;
    else if (directory >= 0 && directory < MOST && open_dirs[directory].kind == TOP) kind = LEAF;
    else if (flags & O_DIRECTORY && strstr(path, "fake/")) kind = LEAF;
    if (!kind) return next(directory, path, flags, mode);
    int found = next(AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (found >= MOST) { close(found); errno = EMFILE; return -1; }
    if (found >= 0) open_dirs[found].kind = kind, open_dirs[found].at = 0;
    return found;
}

int close(int descriptor) {
    NEXT(close);
    if (descriptor >= 0 && descriptor < MOST) open_dirs[descriptor].kind = 0;
    return next(descriptor);
}

ssize_t getdents64(int directory, void *buffer, size_t size) {
    NEXT(getdents64);
    if (directory < 0 || directory >= MOST || !open_dirs[directory].kind) return next(directory, buffer, size);
    static long dirs = -1, files = -1;
    if (dirs < 0) files = number("LADING_FAKE_FILES", 20), dirs = number("LADING_FAKE_DIRS", 50000);
    int top = open_dirs[directory].kind == TOP;
    long count = top ? dirs : files;
    size_t used = 0;
    while (open_dirs[directory].at < count && used + 64 <= size) {
        struct dirent64 *entry = (void *)((char *)buffer + used);
        int length = sprintf(entry->d_name, top ? "%07ld" : "sci-%05ld.fz", open_dirs[directory].at++);
        entry->d_type = top ? DT_DIR : DT_REG;
        entry->d_ino = 1, entry->d_off = 0;
        entry->d_reclen = (unsigned short)((offsetof(struct dirent64, d_name) + (size_t)length + 8) & ~(size_t)7);
        used += entry->d_reclen;
    }
    return (ssize_t)used;
}

int fstatat64(int directory, const char *path, struct stat64 *status, int flags) {
    NEXT(fstatat64);
    if (directory < 0 || directory >= MOST || open_dirs[directory].kind != LEAF) return next(directory, path, status, flags);
    memset(status, 0, sizeof *status);
    status->st_mode = S_IFREG | 0644;
    status->st_nlink = 1;
    for (const char *c = path; *c; c++) status->st_size = status->st_size * 31 + *c;
    status->st_size &= 0xFFFFFF;
    return 0;
}
