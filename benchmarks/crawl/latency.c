/* A slow metadata server: preloaded, it sleeps before each metadata call.
 *
 * LADING_LATENCY_US microseconds before every open of a directory, every
 * buffer of entries and every status, as far as the call is relative to an
 * open directory: the interpreter's own start stays fast, and the crawl core
 * makes no other calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

static void pause_once(void) {
    static long microseconds = -1;
    if (microseconds < 0) {
        const char *text = getenv("LADING_LATENCY_US");
        microseconds = text ? atol(text) : 0;
    }
    if (!microseconds) return;
    struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&time, NULL);
}

#define NEXT(name) static __typeof__(name) *next; if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

int openat64(int directory, const char *path, int flags, ...) {
    NEXT(openat64);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (directory != AT_FDCWD && flags & O_DIRECTORY) pause_once();
    return next(directory, path, flags, mode);
}

int fstatat64(int directory, const char *path, struct stat64 *status, int flags) {
    NEXT(fstatat64);
    if (directory != AT_FDCWD) pause_once();
    return next(directory, path, status, flags);
}

ssize_t getdents64(int directory, void *buffer, size_t size) {
    NEXT(getdents64);
    pause_once();
    return next(directory, buffer, size);
}
